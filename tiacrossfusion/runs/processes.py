"""Names of processes, and whether they are alive."""

from __future__ import annotations

import os
import socket
import uuid

import psutil


def process_here() -> str:
    """Return the name of this process, the same on every call: machine and process id."""
    return f"{socket.gethostname()}-{os.getpid()}"


def is_alive(process: str) -> bool | None:
    """Return whether a process is alive; None for one on another machine, which cannot be seen."""
    host, _, pid = process.rpartition("-")
    if host != socket.gethostname() or not pid.isdecimal():
        return None
    try:
        return bool(psutil.pid_exists(int(pid)))
    except (OverflowError, ValueError):  # more digits than a process id has
        return False


def unique_name() -> str:
    """Return a name that no other file has and that begins with the name of this process."""
    return f"{process_here()}-{uuid.uuid4().hex[:8]}"
