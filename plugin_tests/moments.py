"""Doing something to a program at one of its file operations: the same one however busy the machine is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tiacrossfusion.cli import main

_OPERATIONS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"})


def at(folder: Path, there: str, later: int, act: Callable[[], None]) -> None:
    """Do something in this process once, before one of its operations on files in a folder.

    It stays in this process for good: it is for processes that a test starts.

    Args:
        folder: of the files.
        there: pattern of what is in the folder when the moment has come.
        later: how many operations after that.
        act: what to do.
    """
    left = later
    busy = False

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left, busy
        if busy or event not in _OPERATIONS or str(folder) not in str(arguments):
            return
        busy = True
        if _any(folder, there):
            if not left:
                act()
                return
            left -= 1
        busy = False

    sys.addaudithook(listen)


def run_until_killed(arguments: list[str], folder: Path, there: str, later: int) -> None:
    """Run a command in this process, which `kill -9` ends at a moment."""
    at(folder, there, later, kill)
    main(arguments)


def kill() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def press_ctrl_c_twice() -> None:
    """Send to all processes of this terminal what it sends when somebody cannot wait."""
    for _ in range(2):
        os.killpg(0, signal.SIGINT)


def _any(folder: Path, there: str) -> bool:
    try:
        return any(folder.glob(there))
    except FileNotFoundError:  # another thread moved a folder while it was looked into
        return False
