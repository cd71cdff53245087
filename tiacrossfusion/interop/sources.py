"""Find the feature files of slides: a folder for each scale, matched by file-name stem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiacrossfusion.bags.foreign import foreign_store
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
        files: file of each scale, from coarse to fine.
        absent: scales of other slides at which this one has no file.
    """

    name: str
    files: dict[str, Path]
    absent: tuple[str, ...] = ()


def find_slide_files(folders: dict[str, Path]) -> list[SlideFiles]:
    """List the slides that have a file in any of the scales' folders, by name.

    A folder holds `NAME.h5` or `NAME.pt`, or has them in `h5_files` or `pt_files`. Where a slide has
    both, the h5 file is taken.

    The folders are keyed by scale, "5x", "10x" and "20x" or some of these.

    Raises:
        TiacfError: a folder does not exist or holds no feature file.
    """
    found = {scale: _files_of(folders[scale], scale) for scale in SCALES if scale in folders}
    return [
        SlideFiles(
            name,
            {scale: files[name] for scale, files in found.items() if name in files},
            tuple(scale for scale, files in found.items() if name not in files),
        )
        for name in sorted(set().union(*found.values()))
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
        for store in sorted(folder.glob("*.zarr")):
            if known := foreign_store(store):
                raise UsageError(f"{store}: {known}")
        raise UsageError(
            f"{folder}: holds no feature file (*.h5, *.pt, also in h5_files or pt_files); "
            f"give the folder of the {scale} features"
        )
    return found
