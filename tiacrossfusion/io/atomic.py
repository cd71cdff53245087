"""Files and folders written in one step: they are whole or not there. The one place that does so."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiacrossfusion.errors import TiacfError


class OutputError(TiacfError):
    """The output folder cannot be written: no other slide would fare better, so the run ends."""


@contextmanager
def replacing(path: Path, part: Path | None = None) -> Iterator[Path]:
    """Give a path to write a file or folder to, which takes the place of `path` in the end.

    Args:
        path: where it goes; an older file is replaced by a file, an older folder by a folder.
        part: the path to write to, on the same disk; None for a hidden one beside `path`.

    Raises:
        OSError: it cannot be written.
    """
    part = part or path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        move(part, path)
    finally:
        remove(part)


def move(source: Path, target: Path) -> None:
    """Move a file or folder over an older one, also where another process does so just now.

    Folders cannot be swapped in one step everywhere: the old one is moved aside first, so that at any
    moment either the old or the new one is whole. A file never takes the place of a folder.

    Raises:
        OSError: it cannot be moved.
    """
    old = source.with_name(f"{source.name}.{uuid.uuid4().hex[:8]}.old")
    while True:
        if target.is_dir() and source.is_dir():
            os.replace(target, old)
        try:
            os.replace(source, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove(old)
        else:
            break
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or folder, if there is one; a folder as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step; its folder is made if need be.

    Raises:
        TiacfError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TiacfError(
            f"{path}: cannot be written ({error.strerror}); check the folder's rights and free space, "
            "or give another"
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into one line on an output folder.

    Raises:
        OutputError: instead of them.
    """
    try:
        yield
    except (FileExistsError, IsADirectoryError) as error:
        raise OutputError(
            f"{error.filename2 or error.filename or folder}: cannot be written, something else has this "
            f"name ({error.strerror}); move it away or give another --output-path"
        ) from error
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{folder}: the output folder cannot be written ({reason}); "
            "check its rights and free space, or give another --output-path"
        ) from error
