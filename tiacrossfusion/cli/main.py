"""The group of commands, and how it reports their errors."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from tiacrossfusion import __version__
from tiacrossfusion.cli.audit import audit
from tiacrossfusion.cli.calibrate import calibrate
from tiacrossfusion.cli.check import check
from tiacrossfusion.cli.convert import convert
from tiacrossfusion.cli.demo import demo
from tiacrossfusion.cli.distil import distil
from tiacrossfusion.cli.encoders import encoders
from tiacrossfusion.cli.evaluate import evaluate
from tiacrossfusion.cli.extract import extract
from tiacrossfusion.cli.import_checkpoint import import_checkpoint
from tiacrossfusion.cli.markers import markers
from tiacrossfusion.cli.models import models
from tiacrossfusion.cli.predict import predict
from tiacrossfusion.cli.pretrain import pretrain
from tiacrossfusion.cli.simulate import simulate
from tiacrossfusion.cli.status import status
from tiacrossfusion.cli.train import train
from tiacrossfusion.cli.tune import tune
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.runs.signals import LINE, end, interrupted
from tiacrossfusion.text import printable

USAGE = 2
INTERRUPTED = 130

#: Errors of a console, or of the file that it is redirected to, that cannot be written.
_CONSOLE = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EIO,
    errno.EBADF,
    getattr(errno, "EDQUOT", errno.ENOSPC),
}


class TiacfGroup(click.Group):
    """A group whose commands report wrong input in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; after one line, wrong input exits with 1 and a wrong option with 2."""
        for stream in (sys.stdout, sys.stderr):
            # File names may be undecodable, or not printable here.
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            _check_current_folder()
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # here, so that its errors are reported too
            return result
        except (TiacfError, KeyboardInterrupt) as error:
            if interrupted():
                end()
            if isinstance(error, KeyboardInterrupt):  # in a program that handles signals itself
                click.echo(LINE, err=True)
                sys.exit(INTERRUPTED)
            complaint = click.ClickException(printable(str(error)))
            if isinstance(error, UsageError):
                complaint.exit_code = USAGE
            raise complaint from error
        except OSError as error:
            if error.errno not in _CONSOLE or error.filename is not None or sys.stdout is None:
                raise
            # Errors of output files have been handled where they are written: this is the console.
            # What is still buffered for it goes to the null device.
            with suppress(OSError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            raise click.ClickException(
                f"the output that goes to the console cannot be written ({error.strerror}); what is "
                "finished is kept, send it elsewhere and run the same command to go on"
            ) from error


def _check_current_folder() -> None:
    """Stop early if the current directory was deleted: libraries look it up, and one ends the process."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError(
            "the folder that you are in has been removed; change to another"
        ) from error


@click.group(cls=TiacfGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-v", message="tiacf %(version)s")
def main() -> None:
    """Predict cancer survival from whole-slide images with CrossFusion."""
    logging.captureWarnings(True)


for command in (
    predict,
    demo,
    simulate,
    check,
    extract,
    status,
    convert,
    pretrain,
    train,
    tune,
    calibrate,
    distil,
    markers,
    audit,
    evaluate,
    models,
    encoders,
    import_checkpoint,
):
    main.add_command(command)
