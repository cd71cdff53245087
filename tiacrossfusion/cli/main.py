"""The group of commands, and what happens to their errors."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from tiacrossfusion import __version__
from tiacrossfusion.cli.convert import convert
from tiacrossfusion.cli.demo import demo
from tiacrossfusion.cli.encoders import encoders
from tiacrossfusion.cli.evaluate import evaluate
from tiacrossfusion.cli.extract import extract
from tiacrossfusion.cli.import_checkpoint import import_checkpoint
from tiacrossfusion.cli.models import models
from tiacrossfusion.cli.predict import predict
from tiacrossfusion.cli.simulate import simulate
from tiacrossfusion.cli.status import status
from tiacrossfusion.cli.train import train
from tiacrossfusion.errors import TiacfError, UsageError

USAGE = 2
INTERRUPTED = 130


class TiacfGroup(click.Group):
    """A group whose commands end with one line, not a traceback, when the input is at fault."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            click.ClickException: the input is at fault; click prints one line and exits with 1, or
                with 2 when the options are.
        """
        try:
            return super().invoke(ctx)
        except TiacfError as error:
            complaint = click.ClickException(str(error))
            if isinstance(error, UsageError):
                complaint.exit_code = USAGE
            raise complaint from error
        except KeyboardInterrupt:
            click.echo(
                "Interrupted; what is finished is kept, run the same command to go on.", err=True
            )
            sys.exit(INTERRUPTED)


@click.group(cls=TiacfGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-v", message="tiacf %(version)s")
def main() -> None:
    """Predict cancer survival from whole-slide images with CrossFusion."""
    logging.captureWarnings(True)


for command in (
    predict,
    demo,
    simulate,
    extract,
    status,
    convert,
    train,
    evaluate,
    models,
    encoders,
    import_checkpoint,
):
    main.add_command(command)
