"""Entry point of `tiacf` and `python -m tiacrossfusion`; it handles Ctrl-C during the imports too."""

from __future__ import annotations

import sys

from tiacrossfusion.errors import UsageError, lacks_memory, one_line
from tiacrossfusion.io.surroundings import settle_surroundings
from tiacrossfusion.runs import signals as interruption


def main() -> None:
    """Run the command line."""
    try:
        interruption.listen()
        settle_surroundings()
        from tiacrossfusion.cli import main as commands

        commands(prog_name="tiacf")
    except BaseException as error:
        if interruption.interrupted():
            interruption.end()
        if lacks_memory(error):
            sys.exit(
                f"Error: the memory does not suffice ({one_line(error)}); what is finished is kept, run "
                "the same command on a machine, or in a job, with more"
            )
        if isinstance(error, UsageError):
            sys.exit(f"Error: {error}")
        if isinstance(error, ImportError):
            sys.exit(
                f"Error: a library cannot be loaded ({one_line(error)}); give the job more memory, or "
                "install tiacrossfusion again"
            )
        raise
    finally:
        interruption.stop_listening()


if __name__ == "__main__":
    main()
