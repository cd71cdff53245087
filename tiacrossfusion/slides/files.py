"""Which slides or bags a path stands for. Imports nothing heavy: the command line asks before all else."""

from __future__ import annotations

import errno
import hashlib
import os
from fnmatch import fnmatch
from pathlib import Path

from tiacrossfusion.errors import TiacfError, UsageError

#: Patterns of slide files looked for in a folder. PNG and JPEG are left out: beside slides they are
#: mostly thumbnails.
DEFAULT_FILE_TYPES = "*.svs, *.ndpi, *.mrxs, *.tif, *.tiff, *.qptiff, *.jp2"

#: Bytes of a name that leave room for what is added to it; file systems allow 255.
_LONGEST = 200


def find_slides(source: Path, file_types: str = DEFAULT_FILE_TYPES) -> list[Path]:
    """List the slides a path stands for, sorted by name.

    A file is itself. A folder with `.dcm` files is one DICOM slide. Any other folder gives the files
    in it that match `file_types`, its sub-folders that do, and those that are DICOM slides.

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
            'looked into, give one, or other patterns such as "*.svs" with --file-types'
        )
    return found


def find_bags(source: Path, remedy: str = "make them with tiacf extract") -> list[Path]:
    """List the bags that a path stands for, by name.

    Args:
        source: a bag, or a folder of bags.
        remedy: what to do where there is none.

    Raises:
        TiacfError: the path does not exist, or holds no bag.
    """
    try:
        if not is_there(source):
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
        raise UsageError(f"{source}: holds no bag (*.zarr); {remedy}")
    return found


def written(name: str) -> str:
    r"""A name or message as it can be written into a file.

    Bytes that are no UTF-8 text become `\udcff`. A carriage return becomes `\r`: Python's csv leaves it
    bare in a cell, and those who read the table take it for the end of a row.
    """
    return name.encode(errors="backslashreplace").decode().replace("\r", r"\r")


def is_written(name: str) -> bool:
    """Tell whether a name can be written into a file as it is."""
    return written(name) == name


def stem_for(name: str) -> str:
    """What names of files can begin with that are to be told by a slide's name.

    It is the name itself, unless nothing more could be added to it: a long one is cut, with a hash of
    the whole.
    """
    name = written(name)
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    cut = os.fsencode(name)[: _LONGEST - 9].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_there(path: Path) -> bool:
    """Tell whether there is something at a path that may be looked at."""
    try:
        return path.exists()
    except OSError:  # a folder on the way may not be entered, or the name is too long
        return False


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder that may be looked at."""
    try:
        return path.is_dir()
    except OSError:  # as above
        return False


def is_file(path: Path) -> bool:
    """Tell whether a path is a file that may be looked at."""
    try:
        return path.is_file()
    except OSError:  # as above
        return False


def is_endless(path: Path) -> bool:
    """Tell whether a path is a pipe or a device, which would be waited for or read without end."""
    return is_there(path) and not (path.is_file() or path.is_dir())


def missing(path: Path) -> str:
    """Say in what way a path is not there."""
    try:
        path.stat()
    except PermissionError:
        return "in a folder that may not be entered (permission denied)"
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return "a name too long for any file"
    return "a link to a file that is not there" if path.is_symlink() else "no such file or folder"


def _is_slide(entry: Path, patterns: list[str]) -> bool:
    if entry.name.startswith("."):  # "._a.svs" is what macOS leaves beside a.svs on other disks
        return False
    try:
        folder, file = entry.is_dir(), entry.is_file() or entry.is_symlink()
    except OSError:  # a link into a folder that may not be entered is refused by name
        return _matches(entry, patterns)
    if folder:
        # A folder named like a slide is taken for one, and then refused by name rather than passed over.
        return is_dicom_folder(entry) or (entry.suffix != "" and _matches(entry, patterns))
    if not file:  # a pipe would be waited on for ever
        return False
    return _matches(entry, patterns)


def _matches(entry: Path, patterns: list[str]) -> bool:
    return any(fnmatch(entry.name.lower(), pattern) for pattern in patterns)


def is_dicom_folder(path: Path) -> bool:
    """Tell whether a path is a folder with DICOM files, which is one slide."""
    try:
        return any(entry.suffix.lower() == ".dcm" for entry in path.iterdir())
    except OSError:  # no folder, or one that cannot be read
        return False
