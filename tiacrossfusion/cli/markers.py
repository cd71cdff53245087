"""`tiacf markers`: kinds of tissue that go with survival."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.cli.checks import given, output_folder
from tiacrossfusion.cli.options import cli_columns, columns_from
from tiacrossfusion.text import printable


@click.command()
@click.option("--bags", type=Path, help="Folder of feature bags.")
@click.option("--table", type=Path, help="Follow-up, CSV or Parquet, a row a slide or a patient.")
@cli_output_path(usage_help="Folder for tables, figures, page and maps.")
@cli_columns
@click.option("--time-unit", default="months", show_default=True, help="Unit of the times.")
@click.option(
    "--scale",
    type=click.Choice(["5x", "10x", "20x"]),
    default="20x",
    show_default=True,
    help="Of the patches that are clustered.",
)
@click.option("--number", type=int, help="Of markers.  [default: the most stable]")
@click.option(
    "--folds",
    type=int,
    default=5,
    show_default=True,
    help="In which markers are found anew without some of the patients.",
)
@click.option(
    "--level", type=float, default=0.05, show_default=True, help="The false-discovery rate."
)
@click.option("--slides", type=Path, help="Folder of the slides, to show typical patches.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of clusters and folds.")
def markers(
    bags: Path | None,
    table: Path | None,
    output_path: str,
    slides: Path | None,
    time_unit: str,
    scale: str,
    number: int | None,
    folds: int,
    level: float,
    seed: int,
    *,
    drop_unusable: bool,
    **options: Any,
) -> None:
    """Find kinds of tissue whose share, or place, goes with survival.

    Clusters the features of all patients, without regard to survival, and tests each cluster by Cox
    regression, adjusted for the covariates. Writes report.html, tables, and a GeoJSON with a class for each
    marker for every slide.
    """
    columns = columns_from(options)
    table, bags = given("--table", table), given("--bags", bags)
    folder = output_folder(output_path)

    from tiacrossfusion.markers.making import make_markers
    from tiacrossfusion.markers.page_writing import PAGE, summary

    found = make_markers(
        table,
        bags,
        folder,
        slides=slides,
        columns=columns,
        time_unit=time_unit,
        drop_unusable=drop_unusable,
        scale=scale,
        number=number,
        folds=folds,
        level=level,
        seed=seed,
        say=click.echo,
    )
    click.echo(printable(summary(found)))
    click.echo(f"Page: {folder / PAGE}")
