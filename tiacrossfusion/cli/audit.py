"""`tiacf audit`: is the risk stable?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tiatoolbox.cli.common import cli_device, cli_model, cli_output_path

from tiacrossfusion.cli.checks import given, given_name, output_folder
from tiacrossfusion.cli.options import cli_columns, columns_from, split_names
from tiacrossfusion.errors import UsageError
from tiacrossfusion.text import printable


@click.command()
@cli_model(usage_help="Bundle folder, name or hub id of the model.", default=None)
@click.option("--bags", type=Path, help="Folder of feature bags.")
@click.option("--table", type=Path, help="Follow-up and sites, CSV or Parquet; optional.")
@cli_output_path(usage_help="Folder for tables, picture and page.")
@cli_columns
@click.option("--time-unit", default="months", show_default=True, help="Unit of the times.")
@click.option("--fold-by", help="Column of the sites; tcga-site reads them from the barcodes.")
@click.option(
    "--strengths",
    default="0.05,0.1,0.25,0.5",
    show_default=True,
    help="Of the universal adversary, in SDs of the training features.",
)
@click.option("--most", type=int, default=40, show_default=True, help="Slides that are audited.")
@click.option("--tokens", type=int, default=4000, show_default=True, help="Of a slide.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all draws.")
@cli_device()
def audit(
    model: str | None,
    bags: Path | None,
    table: Path | None,
    output_path: str,
    time_unit: str,
    fold_by: str | None,
    strengths: str,
    most: int,
    tokens: int,
    seed: int,
    device: str,
    *,
    drop_unusable: bool,  # noqa: ARG001 - slides without a bag are left out in any case
    **options: Any,
) -> None:
    """Measure how far a model's risk moves when features are perturbed.

    By chance, along directions between sites, by one perturbation for all slides, by a generator that needs
    one forward pass, and by a few patches. Writes audit.json, effects.csv, directions.csv and report.html.
    """
    bundle, source = given_name("--model", model), given("--bags", bags)
    columns = columns_from(options)
    if fold_by is not None:
        if table is None:
            raise UsageError("--fold-by is a column of --table; add the table, or leave it out")
        columns = columns.model_copy(update={"fold_by": fold_by})
    try:
        numbers = [float(text) for text in split_names(strengths)]
    except ValueError:
        raise UsageError(f"--strengths {strengths}: give numbers such as 0.05,0.25") from None
    folder = output_folder(output_path)

    from tiacrossfusion.audit.api import audit_model
    from tiacrossfusion.audit.files import PAGE, summary, write_audit

    found = audit_model(
        bundle,
        source,
        table=table,
        columns=columns,
        time_unit=time_unit,
        strengths=numbers,
        most=most,
        tokens=tokens,
        seed=seed,
        device=device,
        say=click.echo,
    )
    write_audit(found, folder)
    for line in summary(found):
        click.echo(printable(line))
    click.echo(f"Page: {folder / PAGE}")
