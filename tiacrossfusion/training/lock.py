"""A mark in a run's folder, so that two runs do not write over each other's files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import writing
from tiacrossfusion.io.text import printable
from tiacrossfusion.runs.processes import is_alive, process_here

MARK = ".tiacf-training"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other training runs out of a folder.

    The mark names this process and is locked. The lock goes with the process, however that ends: the
    mark of a killed run keeps nobody out, whichever process has its number now, and the next run
    removes it.

    Args:
        folder: is there.

    Raises:
        TiacfError: another run works there, or the folder cannot be written.
    """
    path = folder / MARK
    with ExitStack() as files:
        with writing(folder):
            mark = files.enter_context(_open(path))
            _lock(mark, folder)
            while not _is_at(path, mark):  # another run ended meanwhile and removed its mark
                mark = files.enter_context(_open(path))
                _lock(mark, folder)
        try:
            with writing(folder):
                mark.truncate(0)
                mark.seek(0)
                mark.write(process_here().encode())
            yield
        finally:
            with suppress(OSError):  # the next run does it
                path.unlink()


def _open(path: Path) -> FileIO:
    # Not through a link, which may lead to any file of the user's.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return FileIO(os.open(path, flags, 0o666), "r+")


def _lock(mark: FileIO, folder: Path) -> None:
    """Lock a mark.

    Raises:
        TiacfError: another process has locked it.
    """
    holder = printable(mark.read(200).decode(errors="replace"))
    try:
        import fcntl

        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = False
    except BlockingIOError:
        taken = True
    except (ImportError, OSError):  # Windows, or a file system without locks: believe what it says
        taken = holder != process_here() and bool(is_alive(holder))
    if taken:
        host, _, number = holder.rpartition("-")
        who = f" (process {number} on {host})" if host else ""  # it may be about to write that
        raise TiacfError(
            f"{folder}: another training run{who} works in this folder; wait for it, or give another "
            "--output-path"
        )


def _is_at(path: Path, mark: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(mark.fileno()))
    except FileNotFoundError:
        return False
