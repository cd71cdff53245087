"""Where log lines go: a file in the output folder, and the console when asked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from tiacrossfusion.errors import TiacfError

LOG_FILE = "tiacf.log"


@contextmanager
def log_to(folder: Path, *, verbose: bool) -> Iterator[None]:
    """Send the log lines of this program and of its libraries to a file in `folder`.

    Lines that a full disk has no room for are left out, which is said once: they cost no result.

    Args:
        folder: an existing folder; the file in it is added to.
        verbose: show the lines on standard error too.

    Raises:
        TiacfError: the file cannot be written.
    """
    root = logging.getLogger()
    path = folder / LOG_FILE
    try:
        handlers: list[logging.Handler] = [
            _LogFile(path, encoding="utf-8", errors="backslashreplace")  # names may be no text
        ]
    except OSError as error:
        raise TiacfError(f"{path}: cannot be written ({error.strerror}); move it away") from error
    if verbose:
        handlers.append(logging.StreamHandler(sys.stderr))
    level = root.level
    root.setLevel(logging.INFO)
    logging.getLogger("tiacrossfusion").setLevel(logging.DEBUG)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(level)
        logging.getLogger("tiacrossfusion").setLevel(logging.NOTSET)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class _LogFile(logging.FileHandler):
    """A file that log lines go to as long as it can be written."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say once that lines are missing, where logging prints a traceback for each."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._said:
            self._said = True
            click.echo(
                f"note: {self.baseFilename}: cannot be written ({error.strerror}), log lines are "
                "missing; make room on its disk",
                err=True,
            )

    def close(self) -> None:
        """Close the file, whether or not the last lines can be written."""
        with suppress(OSError):
            super().close()
