"""Find the slides at a path. Imports nothing heavy: commands check paths first."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.paths import is_there, missing

#: Patterns of slide files in a folder. PNG and JPEG are left out: beside slides they are mostly
#: thumbnails.
DEFAULT_FILE_TYPES = "*.svs, *.ndpi, *.mrxs, *.tif, *.tiff, *.qptiff, *.jp2"


def find_slides(source: Path, file_types: str = DEFAULT_FILE_TYPES) -> list[Path]:
    """Return the slides at a path, sorted by name.

    A file is one slide. A folder with `.dcm` files is one DICOM slide. Of any other folder these are
    the files and sub-folders that match `file_types`, and sub-folders that are DICOM slides.

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
        if not is_there(source):
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
            f"{source}: no slide in this folder matches {', '.join(patterns)}; subfolders are not "
            'searched, give one, or other patterns such as "*.svs" with --file-types'
        )
    return found


def _is_slide(entry: Path, patterns: list[str]) -> bool:
    if entry.name.startswith("."):  # macOS leaves "._a.svs" beside a.svs on other disks
        return False
    try:
        folder, file = entry.is_dir(), entry.is_file() or entry.is_symlink()
    except OSError:  # a link into a folder without permission: opening it reports the error
        return _matches(entry, patterns)
    if folder:
        # A folder named like a slide is returned: opening it reports the error.
        return is_dicom_folder(entry) or (entry.suffix != "" and _matches(entry, patterns))
    if not file:  # reading a pipe might never end
        return False
    return _matches(entry, patterns)


def _matches(entry: Path, patterns: list[str]) -> bool:
    return any(fnmatch(entry.name.lower(), pattern) for pattern in patterns)


def is_dicom_folder(path: Path) -> bool:
    """Return whether a path is a folder with DICOM files, which is one slide."""
    try:
        return any(entry.suffix.lower() == ".dcm" for entry in path.iterdir())
    except OSError:  # not a folder, or one that cannot be read
        return False


def slide_identity(path: Path) -> tuple[int, int]:
    """Return size in bytes and modification time (ns) of a slide file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    stats = [file.stat() for file in files if not file.is_dir()]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
