"""Where log lines go: a file in the output folder, and the console when asked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG_FILE = "tiacf.log"


@contextmanager
def log_to(folder: Path, *, verbose: bool) -> Iterator[None]:
    """Send the log lines of this program and of its libraries to a file in `folder`.

    Args:
        folder: an existing folder; the file in it is added to.
        verbose: show the lines on standard error too.
    """
    root = logging.getLogger()
    handlers: list[logging.Handler] = [logging.FileHandler(folder / LOG_FILE, encoding="utf-8")]
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
