"""Log to a file in the output folder, and to the console with --verbose."""

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
    """Send the log lines of this program and of its libraries to a file in an existing folder.

    A full disk costs log lines and no results: this is reported once. With `verbose` the lines go to
    standard error too.

    Raises:
        TiacfError: the file cannot be written.
    """
    root = logging.getLogger()
    path = folder / LOG_FILE
    try:
        # File names may be undecodable.
        file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        handlers: list[logging.Handler] = [file]
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
    """A log file that may become unwritable."""

    _reported = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Report once that lines are missing; logging would print a traceback for each."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._reported:
            self._reported = True
            click.echo(
                f"note: {self.baseFilename}: cannot be written ({error.strerror}), log lines are "
                "missing; make room on its disk",
                err=True,
            )

    def close(self) -> None:
        """Close the file, even if the last lines cannot be written."""
        with suppress(OSError):
            super().close()
