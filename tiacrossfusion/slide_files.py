"""Which slides or bags a path stands for. Imports nothing heavy: the command line asks before all else."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from tiacrossfusion.errors import TiacfError, UsageError

#: Patterns of slide files looked for in a folder. PNG and JPEG are left out: beside slides they are
#: mostly thumbnails.
DEFAULT_FILE_TYPES = "*.svs, *.ndpi, *.mrxs, *.tif, *.tiff, *.qptiff, *.jp2"


def find_slides(source: Path, file_types: str = DEFAULT_FILE_TYPES) -> list[Path]:
    """List the slides a path stands for, sorted by name.

    A file is itself. A folder with `.dcm` files is one DICOM slide. Any other folder gives the files
    in it that match `file_types` and its sub-folders that are DICOM slides.

    Args:
        source: file or folder.
        file_types: comma-separated patterns, compared without regard to case.

    Raises:
        TiacfError: the path does not exist, or holds no slide.
    """
    patterns = [pattern.strip().lower() for pattern in file_types.split(",") if pattern.strip()]
    if not patterns:
        raise UsageError(f'--file-types is empty; give patterns such as "{DEFAULT_FILE_TYPES}"')
    try:
        if not source.exists():
            raise UsageError(f"{source}: {missing(source)}; check --img-input")
        if source.is_file() or source.suffix.lower() == ".zarr" or is_dicom_folder(source):
            return [source]
        found = [entry for entry in sorted(source.iterdir()) if _is_slide(entry, patterns)]
    except OSError as error:
        raise TiacfError(
            f"{source}: cannot be read ({error.strerror}); check --img-input"
        ) from error
    if not found:
        raise UsageError(
            f"{source}: no slide in this folder matches {', '.join(patterns)}; "
            "give other patterns with --file-types"
        )
    return found


def find_bags(source: Path) -> list[Path]:
    """List the bags that a path stands for, by name.

    Raises:
        TiacfError: the path does not exist, or holds no bag.
    """
    try:
        if not source.exists():
            raise UsageError(f"{source}: {missing(source)}; check --bags")
        if source.suffix == ".zarr":
            return [source]
        if not source.is_dir():
            raise UsageError(
                f"{source}: a file is no bag; give a folder of bags (*.zarr) or one bag"
            )
        # A name with a dot first is that of a bag that is being written.
        found = [store for store in sorted(source.glob("*.zarr")) if store.name[0] != "."]
    except OSError as error:
        raise TiacfError(f"{source}: cannot be read ({error.strerror}); check --bags") from error
    if not found:
        raise UsageError(f"{source}: holds no bag (*.zarr); make them with tiacf extract")
    return found


def missing(path: Path) -> str:
    """Say in what way a path is not there."""
    return "a link to a file that is not there" if path.is_symlink() else "no such file or folder"


def _is_slide(entry: Path, patterns: list[str]) -> bool:
    if entry.name.startswith("."):  # "._a.svs" is what macOS leaves beside a.svs on other disks
        return False
    if entry.is_dir():
        return is_dicom_folder(entry)
    if not (entry.is_file() or entry.is_symlink()):  # a pipe would be waited on for ever
        return False
    return any(fnmatch(entry.name.lower(), pattern) for pattern in patterns)


def is_dicom_folder(path: Path) -> bool:
    """Tell whether a path is a folder with DICOM files, which is one slide."""
    try:
        return any(entry.suffix.lower() == ".dcm" for entry in path.iterdir())
    except OSError:  # no folder, or one that cannot be read
        return False
