"""What commands print about the outcomes of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tiacrossfusion.cli.log_file import LOG_FILE

if TYPE_CHECKING:
    from tiacrossfusion.runs.runner import Outcome


def print_done(outcomes: Sequence[Outcome], what: str, where: object) -> None:
    """Print how many slides are done, `what` being such as "slides done", and where the results are."""
    done = sum(outcome.status != "failed" for outcome in outcomes)
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    before = f" ({skipped} finished before)" if skipped else ""
    click.echo(f"{done} of {len(outcomes)} {what}{before}: {where}")


def exit_if_failed(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Print how many slides failed, if any did, and exit with 1."""
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        click.echo(f"{failed} failed; details in {folder / LOG_FILE}", err=True)
        sys.exit(1)
