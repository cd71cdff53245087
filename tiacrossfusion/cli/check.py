"""`tiacf check`: whether slides, bags, table, splits, masks and model go together; nothing is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tiacrossfusion.cli.checks import check_masks
from tiacrossfusion.cli.options import cli_plugin, cli_read, cli_slides, find_listed
from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.arguments import at_least
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from tiacrossfusion.slides.options import ReadOptions
    from tiacrossfusion.training.checking import Finding


@click.command()
@cli_slides
@cli_read
@click.option("--bags", type=Path, help="Folder of feature bags, or one bag.")
@click.option("--table", type=Path, help="Follow-up: CSV or Parquet, as for `tiacf train`.")
@click.option("--time-unit", default="months", show_default=True, help="Unit of the times.")
@click.option("--slide-column", default="slide", show_default=True)
@click.option("--patient-column", default="patient", show_default=True)
@click.option("--patient-characters", type=int)
@click.option("--time-column", default="time", show_default=True)
@click.option("--event-column", default="event", show_default=True)
@click.option("--censorship-column")
@click.option("--splits", type=Path, help="Folder with splits_<k>.csv.")
@click.option("--model", help="A name from `tiacf models`, or a bundle folder.")
@cli_plugin
def check(
    img_input: tuple[str, ...],
    read: ReadOptions,
    mpp_table: Path | None,
    file_types: str,
    bags: Path | None,
    table: Path | None,
    time_unit: str,
    slide_column: str,
    patient_column: str,
    patient_characters: int | None,
    time_column: str,
    event_column: str,
    censorship_column: str | None,
    splits: Path | None,
    model: str | None,
    plugins: tuple[str, ...],  # noqa: ARG001 - loaded by the option
) -> None:
    """Check that slides or bags, a table, splits, masks and a model go together.

    Opens every slide and bag, compares them with the table and the model, and prints what is missing and what
    contradicts. Exits with 1 when something would fail. Nothing is written.
    """
    if not (img_input or bags or table or model):
        raise UsageError("nothing to check; give --img-input, --bags, --table or --model")
    if splits is not None and table is None:
        raise UsageError("--splits is compared with a table; add --table")
    if patient_characters is not None:
        at_least("--patient-characters", patient_characters, 1, 1000)
    slides: list[Path] = []
    if img_input:
        slides, read = find_listed(img_input, file_types, read, mpp_table)
        check_masks(read.mask, slides)

    from tiacrossfusion.cohorts.columns import Columns
    from tiacrossfusion.training.checking import CONTRADICTS, MISSING, ToCheck
    from tiacrossfusion.training.checking import check as check_all

    columns = Columns(
        slide=slide_column,
        patient=patient_column,
        time=time_column,
        event=event_column,
        censorship=censorship_column,
        patient_characters=patient_characters,
    )
    findings = check_all(ToCheck(slides, read, bags, table, columns, time_unit, splits, model))
    _print(findings)
    if any(finding.kind in (MISSING, CONTRADICTS) for finding in findings):
        sys.exit(1)


def _print(findings: list[Finding]) -> None:
    """Print what was found, and how much of each kind."""
    from tiacrossfusion.training.checking import CONTRADICTS, FINE, MISSING, REMARK, counts

    kinds = (FINE, REMARK, MISSING, CONTRADICTS)
    for finding in findings:
        if finding.kind != FINE:
            click.echo(printable(f"{finding.kind:12}{finding.name}: {finding.message}"))
    click.echo(" " * 12 + "".join(f"{kind:>12}" for kind in kinds))
    for group, number in counts(findings).items():
        click.echo(f"{group:12}" + "".join(f"{number[kind]:12}" for kind in kinds))
