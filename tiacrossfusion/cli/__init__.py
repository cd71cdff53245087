"""The command `tiacf`: click commands, one a file, without logic.

Exit codes: 0 all done, 1 something failed (one line says what), 2 wrong or missing options (nothing was
begun), 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from __future__ import annotations

import logging

# TIAToolbox, on import, prints its log to the console unless the root logger has a handler.
logging.getLogger().addHandler(logging.NullHandler())

from tiacrossfusion.cli.main import main  # noqa: E402

__all__ = ["main"]
