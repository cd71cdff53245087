"""`tiacf status`: how far an extraction has come."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tiacrossfusion.text import printable


@click.command()
@click.argument("bags", type=Path)
def status(bags: Path) -> None:
    """Say how far the extraction into the folder BAGS has come.

    Only looks, also while extractions go on. The exit code is 1 when slides have failed.
    """
    from tiacrossfusion.cli.console import bytes_text
    from tiacrossfusion.runs.bags_status import bags_status

    found = bags_status(bags)
    click.echo(
        f"done: {len(found.done)} slides, {found.patches} patches; "
        f"bags take {bytes_text(found.size)}"
    )
    if found.unrecorded:
        click.echo(f"bags without a record: {len(found.unrecorded)}")
    if found.dropped:
        click.echo(
            f"damaged: {len(found.dropped)} slides, {sum(found.dropped.values())} patches left out"
        )
        for slide, dropped in found.dropped.items():
            click.echo(f"  {printable(slide)}: {dropped}")
    if found.being_made:
        click.echo(f"being made: {len(found.being_made)}")
        for slide, process in found.being_made.items():
            click.echo(f"  {printable(slide)}: by process {printable(process)}")
    if found.unfinished:
        click.echo(f"interrupted, to be made: {len(found.unfinished)}")
        for slide in found.unfinished:
            click.echo(f"  {printable(slide)}")
    if found.leftovers:
        click.echo(f"left by killed processes: {len(found.leftovers)}; the next run removes it")
    if found.failed:
        click.echo(f"failed: {len(found.failed)}; tiacf extract --retry-failed tries again")
        for message in found.failed.values():
            click.echo(f"  {printable(message)}")
        sys.exit(1)
