"""Ctrl-C, SIGTERM and SIGHUP end the command line within seconds, with one line.

Python raises `KeyboardInterrupt` wherever the program is. Most of it tidies up then, but an import or a
library may take it for a failure of its own or pass over it, and one call, such as the backward pass of a
large bag, may not return for many seconds. So that a signal came is noted, what follows from it is not
taken for anything else, and a thread ends the program when it has not ended by itself. That costs nothing
that is finished: the files are such that a program may be killed at any moment.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

LINE = "Interrupted; what is finished is kept, run the same command to go on."

#: Seconds for tidying up.
_PATIENCE = 3.0

#: SIGHUP, when the terminal or the connection is closed, is not known on Windows.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_received: list[int] = []
_saying = threading.Lock()


def listen() -> None:
    """Answer these signals from now on. Is for programs, not for libraries, and for the main thread.

    A signal that this program was told to pass over, as `nohup` and background shells do, stays so.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # Python's own part of a handler writes there at once, and ours may have to wait for a long call.
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reader,), daemon=True).start()
    sys.unraisablehook = _note_unless_interrupted
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def stop_listening() -> None:
    """Pass over Ctrl-C and let the others end this program in silence: all is done, with its own code."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


def interrupted() -> bool:
    """Tell whether a signal came."""
    return bool(_received)


def go_on_unless_interrupted(error: BaseException) -> None:
    """See that an error, which is about to be taken for a slide's own, does not come from a signal.

    Raises:
        KeyboardInterrupt: it may.
    """
    if _received:
        raise KeyboardInterrupt from error


def end() -> NoReturn:
    """Say that the program was interrupted and end it: with 130 for Ctrl-C, 143, SIGTERM, or 129, SIGHUP."""
    with suppress(OSError):  # nobody may read it any more
        sys.stdout.flush()
    _end(_received[0])


def _interrupt(number: int, _: FrameType | None) -> None:
    if not _received:  # a second Ctrl-C must not break into the tidying up
        _received.append(number)
        raise KeyboardInterrupt


def _note_unless_interrupted(error: sys.UnraisableHookArgs) -> None:
    """Keep silent about a signal that came during a destructor, which passes over it."""
    if not _received:
        sys.__unraisablehook__(error)


def _end_in_time(reader: socket.socket) -> None:
    while (number := reader.recv(1)[0]) not in _SIGNALS:
        pass
    time.sleep(_PATIENCE)
    _end(number)


def _end(number: int) -> NoReturn:
    with _saying:  # whoever comes second waits here for the end
        with suppress(OSError):
            os.write(2, f"{LINE}\n".encode())
        os._exit(128 + number)
