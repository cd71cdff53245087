"""Doing something to a program at one of its file operations: the same one however busy the machine is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_OPERATIONS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"})


def at(folder: Path, reached: Callable[[Path], bool], act: Callable[[], None], later: int) -> None:
    """Do something in this process once, before one of its operations on files in a folder.

    It stays in this process for good: it is for processes that a test starts.

    Args:
        folder: of the files.
        reached: of the folder, tells whether the moment has come.
        act: what to do.
        later: how many operations after that.
    """
    left = later
    busy = False

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left, busy
        if busy or event not in _OPERATIONS or str(folder) not in str(arguments):
            return
        busy = True
        if not _seen(reached, folder):
            busy = False
        elif left:
            left, busy = left - 1, False
        else:
            act()

    sys.addaudithook(listen)


def kill() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def press_ctrl_c_twice() -> None:
    """Send to all processes of this terminal what it sends when somebody cannot wait."""
    for _ in range(2):
        os.killpg(0, signal.SIGINT)


def _seen(reached: Callable[[Path], bool], folder: Path) -> bool:
    try:
        return reached(folder)
    except FileNotFoundError:  # another thread moved a folder while it was looked into
        return False
