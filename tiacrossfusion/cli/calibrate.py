"""Teach a model what 5x tells, so that it can predict from a part of a slide."""

from __future__ import annotations

from pathlib import Path

import click
from tiatoolbox.cli.common import cli_device, cli_model

from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cli.checks import given
from tiacrossfusion.text import printable


@click.command()
@cli_model(usage_help="Bundle folder of the model, to which the file is added.", default=None)
@click.option(
    "--bags", type=Path, help="Folder of feature bags of slides like those of the training."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of who is held back, and of samples.",
)
@cli_device()
def calibrate(model: str | None, bags: Path | None, seed: int, device: str) -> None:
    """Learn what 5x tells of the patches inside, and how wide intervals of a partial reading are.

    Two thirds of the slides teach it, the others are held back for the intervals. Writes from_5x.safetensors
    into the bundle; tiacf predict --budget then uses it. No follow-up is needed.
    """
    folder = Path(given("--model", model))
    sources = find_bags(given("--bags", bags))

    from tiacrossfusion.training.from_coarse import calibrate_bundle

    fitted, used, held_back = calibrate_bundle(folder, sources, seed, device)
    shares = ", ".join(f"{float(value):.2f}" for value in fitted.widening)
    click.echo(
        printable(
            f"{folder}: learnt from {used} slides, intervals from {held_back} others; half-widths are "
            f"{shares} times those of Student's t where 5, 10, 25 and 50 % are read"
        )
    )
