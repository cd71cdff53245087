"""The lock of a training's folder, so that two runs do not write over each other's files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import writing
from tiacrossfusion.runs.processes import is_alive, process_here
from tiacrossfusion.text import printable

LOCK = ".tiacf-training"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other training runs out of an existing folder.

    The lock file names this process and is locked by it. The operating system releases the lock when
    the process ends, however that happens: the file of a killed run locks nobody out, even if its
    process id is in use again, and the next run removes it.

    Raises:
        TiacfError: another run works there, or the folder cannot be written.
    """
    path = folder / LOCK
    with ExitStack() as files:
        with writing(folder):
            file = files.enter_context(_open(path))
            _lock(file, folder)
            while not _is_at(path, file):  # another run ended meanwhile and removed its file
                file = files.enter_context(_open(path))
                _lock(file, folder)
        try:
            with writing(folder):
                file.truncate(0)
                file.seek(0)
                file.write(process_here().encode())
            yield
        finally:
            with suppress(OSError):  # the next run removes it
                path.unlink()


def _open(path: Path) -> FileIO:
    # A link is not followed: it may lead to any file of the user's.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return FileIO(os.open(path, flags, 0o666), "r+")


def _lock(file: FileIO, folder: Path) -> None:
    """Lock a lock file; raises TiacfError when another process has locked it."""
    holder = printable(file.read(200).decode(errors="replace"))
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = False
    except BlockingIOError:
        taken = True
    except (ImportError, OSError):  # Windows, or a file system without locks: go by the name in it
        taken = holder != process_here() and bool(is_alive(holder))
    if taken:
        host, _, number = holder.rpartition("-")
        # It may not have written its name yet.
        who = f" (process {number} on {host})" if host else ""
        raise TiacfError(
            f"{folder}: another training run{who} works in this folder; wait for it, or give another "
            "--output-path"
        )


def _is_at(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
