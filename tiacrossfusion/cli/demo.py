"""`tiacf demo`: simulate two slides and predict them, offline."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from tiatoolbox.cli.common import cli_device, cli_output_path

from tiacrossfusion.cli.checks import output_folder
from tiacrossfusion.cli.log_file import log_to


@click.command()
@cli_output_path(usage_help="Folder for the slides and the results.", default="tiacf-demo")
@cli_device()
def demo(output_path: str, device: str) -> None:
    """Simulate two slides and predict them.

    Needs no slide, no download and no GPU. The report shows what was planted in the slides beside what the
    model saw.
    """
    folder = output_folder(output_path)

    from tiacrossfusion.models.bundle import load_bundle
    from tiacrossfusion.runs.results_folder import REPORT, TABLE, ResultsFolder
    from tiacrossfusion.simulation.demonstration import MODEL, demonstrate

    bundle = load_bundle(MODEL, device)  # before the folder is made
    results = ResultsFolder(folder)
    with log_to(folder, verbose=False):
        made = demonstrate(bundle, results, device, click.echo)
    unit = made.config.time_bins.unit if made.config.time_bins else ""
    head = f"{'slide':24}{'true log-hazard':>16}{'risk':>9}{'percentile':>12}{'group':>8}{'median':>16}"
    click.echo(f"\n{head}")
    for outcome, truth in zip(made.outcomes, made.truths, strict=True):
        row = outcome.row
        if outcome.status == "failed":
            click.echo(f"FAILED {outcome.message}")
            continue
        median = f"{row['median_survival']:.1f} {unit}" if row["median_reached"] else "not reached"
        click.echo(
            f"{Path(row['slide']).stem:24}{truth.log_hazard:16.2f}"
            f"{row['risk']:9.2f}{row['percentile']:12.0f}{row['risk_group']:>8}{median:>16}"
        )
    click.echo(f"\n{made.config.card.notice}")
    click.echo(f"Report: {folder / REPORT}, opens in any browser")
    click.echo(f"Table: {folder / TABLE}")
    click.echo(f"Pictures: {folder}/*_attention.png and *_survival.png")
    last = made.slides[-1]
    click.echo(
        f"QuPath: open {last}, drag {last.with_suffix('.geojson').name} onto it, then "
        "Measure > Show measurement maps"
    )
    if any(outcome.status == "failed" for outcome in made.outcomes):
        sys.exit(1)
