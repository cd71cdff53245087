"""Where log lines go: a file in the output folder, and the console when asked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiacrossfusion.errors import TiacfError

LOG_FILE = "tiacf.log"


@contextmanager
def log_to(folder: Path, *, verbose: bool) -> Iterator[None]:
    """Send the log lines of this program and of its libraries to a file in `folder`.

    Args:
        folder: an existing folder; the file in it is added to.
        verbose: show the lines on standard error too.

    Raises:
        TiacfError: the file cannot be written.
    """
    root = logging.getLogger()
    path = folder / LOG_FILE
    try:
        handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8")]
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
