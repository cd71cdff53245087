"""`tiacf distil`: students that need no 20x."""

from __future__ import annotations

from pathlib import Path

import click
from tiatoolbox.cli.common import cli_device, cli_output_path

from tiacrossfusion.cli.checks import given, given_name, output_folder
from tiacrossfusion.cli.options import split_names
from tiacrossfusion.text import printable


@click.command()
@click.option("--teacher", help="Bundle folder, name or hub id of the model that teaches.")
@click.option(
    "--bags", type=Path, help="Folder of feature bags with all scales that the teacher reads."
)
@cli_output_path(usage_help="Folder for the students' bundles.")
@click.option(
    "--scales",
    default="5x,10x",
    show_default=True,
    help="That the student reads: 5x,10x or 5x.",
)
@click.option(
    "--unlabelled", type=Path, help="Folder of further bags, of slides without follow-up."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of weights, order, and of the slides held back.",
)
@cli_device()
def distil(
    teacher: str | None,
    bags: Path | None,
    output_path: str,
    scales: str,
    unlabelled: Path | None,
    seed: int,
    device: str,
) -> None:
    """Teach a student that reads 5x and 10x, or 5x alone, the hazards of a model that reads all.

    Most of the time of a slide goes into its 20x patches, which the student never reads. Writes the bundle
    trained and, for models that predict from means over the slide, closed. No follow-up is needed.
    """
    model, source = given_name("--teacher", teacher), given("--bags", bags)
    folder = output_folder(output_path)

    from tiacrossfusion.training.distillation import distil as learn

    made = learn(
        model,
        source,
        folder,
        scales=split_names(scales),
        unlabelled=unlabelled,
        seed=seed,
        device=device,
        say=click.echo,
    )
    click.echo(f"{made.slides} slides taught; on {made.held_back} others, against the teacher:")
    for student in made.students:
        group = "" if student.same_group is None else f", same risk group {student.same_group:.0%}"
        click.echo(
            printable(
                f"{student.bundle}: correlation of the risks {student.correlation:.3f}, error "
                f"{student.error:.2f} SD{group}"
            )
        )
