"""Files and folders written in one step: they are whole or not there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiacrossfusion.errors import TiacfError


def replace_folder(part: Path, path: Path) -> None:
    """Move a finished folder into place, over an older one if there is one.

    Folders cannot be swapped in one step everywhere: the old one is moved aside first, so that at any
    moment either the old or the new one is whole.
    """
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    if path.exists():
        os.replace(path, old)
    os.replace(part, path)
    shutil.rmtree(old, ignore_errors=True)


class OutputError(TiacfError):
    """The output folder cannot be written: no other slide would fare better, so the run ends."""


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


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, so that it is never there in part; its folder is made if need be."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise TiacfError(
            f"{path}: cannot be written ({error.strerror}); check the folder's rights and free space, "
            "or give another"
        ) from error
    finally:
        if part.exists():
            part.unlink()
