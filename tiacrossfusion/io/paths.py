"""What lies at a path, and names that a file system takes."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiacrossfusion.io.text import written

#: Bytes of a name that leave room for what is added to it; file systems allow 255.
_LONGEST = 200


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


def absolute(given: Any) -> Any:
    """Return a path as an absolute one, for processes with other working folders; other things as is."""
    return Path(given).absolute() if isinstance(given, str | Path) else given


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files of a store; 0 where there is none."""
    if path.is_file():
        with suppress(FileNotFoundError):  # another run may just have replaced it
            return path.stat().st_size
    size = 0
    for folder, _, files in os.walk(path):
        for file in files:
            with suppress(FileNotFoundError):
                size += (Path(folder) / file).lstat().st_size
    return size
