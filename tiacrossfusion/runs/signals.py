"""Ctrl-C, SIGTERM and SIGHUP end the command line within seconds, with one line.

Python raises `KeyboardInterrupt` wherever the program is. Most code cleans up then, but an import or a
library may treat it as an error or swallow it, and one call, such as the backward pass of a large bag, may
not return for many seconds. Therefore the signal is recorded, errors that follow are not attributed to a
slide, and a thread ends the program when it has not ended by itself. Finished results are kept: the files
are written such that a program may be killed at any moment.
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

#: Seconds for cleaning up.
_PATIENCE = 3.0

#: SIGHUP, sent when the terminal or the connection is closed, does not exist on Windows.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_received: list[int] = []
_saying = threading.Lock()


def listen() -> None:
    """Handle these signals from now on; for programs, not for libraries, and on the main thread.

    A signal that is ignored when the program starts, as under `nohup`, stays ignored.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # Python writes there at once, while a Python handler may have to wait for a long call.
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reader,), daemon=True).start()
    sys.unraisablehook = _note_unless_interrupted
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def stop_listening() -> None:
    """Ignore Ctrl-C and let the other signals end this program silently: all work is done."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


def interrupted() -> bool:
    """Return whether a signal was received."""
    return bool(_received)


def go_on_unless_interrupted(error: BaseException) -> None:
    """Do not attribute an error to a slide when a signal was received before.

    Raises:
        KeyboardInterrupt: a signal was received.
    """
    if _received:
        raise KeyboardInterrupt from error


def end() -> NoReturn:
    """Print that the program was interrupted and exit with 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP)."""
    with suppress(OSError):  # nobody may read it any more
        sys.stdout.flush()
    _end(_received[0])


def _interrupt(number: int, _: FrameType | None) -> None:
    if not _received:  # a second Ctrl-C must not interrupt the cleaning up
        _received.append(number)
        raise KeyboardInterrupt


def _note_unless_interrupted(error: sys.UnraisableHookArgs) -> None:
    """Do not print an exception that a signal raised in a destructor, where Python ignores it."""
    if not _received:
        sys.__unraisablehook__(error)


def _end_in_time(reader: socket.socket) -> None:
    while (number := reader.recv(1)[0]) not in _SIGNALS:
        pass
    time.sleep(_PATIENCE)
    _end(number)


def _end(number: int) -> NoReturn:
    with _saying:  # the second caller waits here for the end
        with suppress(OSError):
            os.write(2, f"{LINE}\n".encode())
        os._exit(128 + number)
