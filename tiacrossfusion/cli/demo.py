"""`tiacf demo`: simulate two slides and predict them, offline."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from tiatoolbox.cli.common import cli_device, cli_output_path

from tiacrossfusion.cli.checks import output_folder
from tiacrossfusion.cli.log_file import log_to

#: Slides of the demonstration: name, and how adverse architecture, glands and nuclei are (0 to 1).
_SLIDES = {"simulated-low-risk": (0.1, 0.1, 0.1), "simulated-high-risk": (0.9, 0.9, 0.9)}
_SIZE, _MPP = (6144, 6144), 0.5


@click.command()
@cli_output_path(usage_help="Folder for the slides and the results.", default="tiacf-demo")
@cli_device()
def demo(output_path: str, device: str) -> None:
    """Simulate two slides and predict them.

    Needs no slide, no download and no GPU.
    """
    folder_path = output_folder(output_path)

    from tiacrossfusion.encoders.stored import load_encoder_of
    from tiacrossfusion.models.bundle import load_bundle
    from tiacrossfusion.models.source import LoadedModel
    from tiacrossfusion.runs.prediction import predict
    from tiacrossfusion.runs.prediction_task import PredictionOptions
    from tiacrossfusion.runs.results_folder import REPORT, TABLE, ResultsFolder
    from tiacrossfusion.simulation.parameters import TissueParameters, log_hazard
    from tiacrossfusion.simulation.slide import render_slide

    bundle = load_bundle("nested-demo", device)
    folder = ResultsFolder(folder_path)
    slides: list[Path] = []
    with log_to(folder_path, verbose=False):
        encoder = load_encoder_of(bundle.config.encoder, device=device)
        for seed, (name, shares) in enumerate(_SLIDES.items()):
            slide = folder_path / f"{name}.svs"
            truth = folder_path / f"{name}_truth.npz"
            if not (slide.exists() and truth.exists()):
                click.echo(f"Simulating {slide} ...")
                parameters = TissueParameters(*shares)
                with folder.writing():
                    drawn = render_slide(slide, parameters, size=_SIZE, mpp=_MPP, seed=seed)
                    drawn.save(truth)
            slides.append(slide)
        # Made again each time: the folder may hold results of an older demonstration model.
        outcomes = predict(
            slides, LoadedModel(encoder, bundle), folder, PredictionOptions(overwrite=True)
        ).outcomes
    unit = bundle.config.time_bins.unit if bundle.config.time_bins else ""
    head = f"{'slide':24}{'true log-hazard':>16}{'risk':>9}{'percentile':>12}{'group':>8}{'median':>16}"
    click.echo(f"\n{head}")
    for outcome, shares in zip(outcomes, _SLIDES.values(), strict=True):
        row = outcome.row
        if outcome.status == "failed":
            click.echo(f"FAILED {outcome.message}")
            continue
        median = f"{row['median_survival']:.1f} {unit}" if row["median_reached"] else "not reached"
        click.echo(
            f"{Path(row['slide']).stem:24}{log_hazard(TissueParameters(*shares)):16.2f}"
            f"{row['risk']:9.2f}{row['percentile']:12.0f}{row['risk_group']:>8}{median:>16}"
        )
    click.echo(f"\n{bundle.config.card.notice}")
    click.echo(f"Report: {folder_path / REPORT}, opens in any browser")
    click.echo(f"Table: {folder_path / TABLE}")
    click.echo(f"Pictures: {folder_path}/*_attention.png and *_survival.png")
    click.echo(
        f"QuPath: open {slides[-1]}, drag {slides[-1].with_suffix('.geojson').name} onto it, then "
        "Measure > Show measurement maps"
    )
    if any(outcome.status == "failed" for outcome in outcomes):
        sys.exit(1)
