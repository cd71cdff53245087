"""Find the feature files of slides: three folders, one a scale, matched by file-name stem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.paths import is_folder, is_there, missing
from tiacrossfusion.slides.spec import SCALES

#: Names of the scales' folders, as the authors' release has them.
SCALE_FOLDERS = {scale: f"x{scale.removesuffix('x')}" for scale in SCALES}

#: Sub-folders that programs put between a folder and its files; h5 before pt, as it has coordinates.
_INNER_FOLDERS = ("", "h5_files", "pt_files")
_ENDINGS = (".h5", ".hdf5", ".pt")


@dataclass(frozen=True)
class SlideFiles:
    """The feature files of one slide.

    Attributes:
        name: stem of the files.
        files: file of each scale; a scale that has none is absent.
    """

    name: str
    files: dict[str, Path]


def find_slide_files(folders: dict[str, Path]) -> list[SlideFiles]:
    """List the slides that have a file in any of the scales' folders, by name.

    A folder holds `NAME.h5` or `NAME.pt`, or has them in `h5_files` or `pt_files`. Where a slide has
    both, the h5 file is taken.

    Args:
        folders: folder of each scale, keyed "5x", "10x", "20x".

    Raises:
        TiacfError: a folder does not exist or holds no feature file.
    """
    found = {scale: _files_of(folder, scale) for scale, folder in folders.items()}
    names = sorted(set().union(*found.values()))
    return [
        SlideFiles(name, {scale: files[name] for scale, files in found.items() if name in files})
        for name in names
    ]


def _files_of(folder: Path, scale: str) -> dict[str, Path]:
    """Feature files of one scale by their stem."""
    if not is_folder(folder):
        reason = "a file, not a folder" if is_there(folder) else missing(folder)
        raise UsageError(f"{folder}: {reason}; give the folder of the {scale} features")
    found: dict[str, Path] = {}
    try:
        for ending in _ENDINGS:
            for inner in _INNER_FOLDERS:
                for path in sorted((folder / inner).glob(f"*{ending}")):
                    if not path.name.startswith("."):  # being written, or left by another system
                        found.setdefault(path.stem, path)
    except OSError as error:
        raise TiacfError(
            f"{folder}: cannot be read ({error.strerror}); check its rights"
        ) from error
    if not found:
        raise UsageError(
            f"{folder}: holds no feature file (*.h5, *.pt, also in h5_files or pt_files); "
            f"give the folder of the {scale} features"
        )
    return found
