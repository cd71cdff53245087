"""What the machine around the program lacks, settled before other libraries are imported."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tiacrossfusion.errors import UsageError


def settle_surroundings() -> None:
    """Give a user without a home folder one for caches, and refuse Python without assertions.

    Containers run under user ids that have neither a name nor a home (`docker run --user`, OpenShift).
    TIAToolbox and torch ask for both when they are imported.

    Raises:
        UsageError: Python was started with -O or -OO, under which zarr reads no arrays.
    """
    if sys.flags.optimize:
        raise UsageError(
            "Python runs without assertions (-O, or PYTHONOPTIMIZE), and zarr needs them to read arrays; "
            "unset PYTHONOPTIMIZE"
        )
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir()) / f"tiacf-home-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home)
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["LOGNAME"] = f"user-{os.getuid()}" if hasattr(os, "getuid") else "user"
