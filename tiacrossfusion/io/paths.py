"""What a path points to, and file names."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiacrossfusion.text import written

#: Longest stem in bytes; file systems allow 255, and suffixes are added.
_LONGEST = 200

#: Return whether a path exists, is a folder, is a file. Unlike the methods of `Path` they return False where
#: a parent folder may not be entered or the name is too long.
is_there, is_folder, is_file = os.path.exists, os.path.isdir, os.path.isfile


def stem_for(name: str) -> str:
    """Return a file-name stem for a slide, short enough to add suffixes to.

    That is the name itself; a long one is cut, and a hash of the whole name added.
    """
    name = written(name)
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    cut = os.fsencode(name)[: _LONGEST - 9].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_endless(path: Path) -> bool:
    """Return whether a path is a pipe or a device; reading it might never end."""
    return is_there(path) and not (path.is_file() or path.is_dir())


def missing(path: Path) -> str:
    """Return why a path cannot be found, for a message."""
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
    """Return the bytes of a file or of all files in a folder; 0 where there is nothing."""
    if path.is_file():
        with suppress(FileNotFoundError):  # another run may just have replaced it
            return path.stat().st_size
    size = 0
    for folder, _, files in os.walk(path):
        for file in files:
            with suppress(FileNotFoundError):
                size += (Path(folder) / file).lstat().st_size
    return size
