"""`tiacf predict`: from slides, or their bags, to risks, curves and attention that opens in QuPath."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tiatoolbox.cli.common import (
    cli_batch_size,
    cli_device,
    cli_file_type,
    cli_img_input,
    cli_masks,
    cli_model,
    cli_num_workers,
    cli_output_path,
    cli_output_type,
)

from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cli.checks import check_masks, given, output_folder, refuse_given
from tiacrossfusion.cli.cluster import cli_cluster, cli_precision, seen_from_workers
from tiacrossfusion.cli.log_file import LOG_FILE, log_to
from tiacrossfusion.cli.plugins import cli_plugin
from tiacrossfusion.cli.registered import RegisteredName
from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.arguments import at_least, one_scale
from tiacrossfusion.io.paths import is_folder
from tiacrossfusion.io.text import printable
from tiacrossfusion.outputs.writers import WRITERS
from tiacrossfusion.slides.files import DEFAULT_FILE_TYPES, find_slides

if TYPE_CHECKING:
    from tiacrossfusion.cohorts.patients import PatientTable
    from tiacrossfusion.runs.patients import PatientOutcome

#: What only slides, and only a table of patients, have a use for.
_FOR_SLIDES = (
    "masks",
    "file_types",
    "mpp",
    "power",
    "encoder_weights",
    "precision",
    "batch_size",
    "num_workers",
)
_FOR_PATIENTS = ("slide_column", "patient_column")


@click.command()
@cli_img_input(usage_help="A slide, a folder of slides, or a folder of DICOM files (one slide).")
@click.option(
    "--bags",
    type=Path,
    help="Instead of slides: a folder of feature bags, as `tiacf extract` writes them, or one bag.",
)
@cli_output_path(usage_help="Folder for the results; results that it holds are kept and resumed.")
@cli_model(
    usage_help="Model: a name from `tiacf models`, a bundle folder, or a hub id (owner/name).",
    default="crossfusion-demo",
)
@click.option(
    "--patients",
    type=Path,
    help="CSV of whose slides are whose: patients.csv is written too, the mean over their slides.",
)
@click.option(
    "--slide-column",
    default="slide",
    show_default=True,
    help="Of --patients: column of the slides' file names, with or without their ending.",
)
@click.option(
    "--patient-column",
    default="patient",
    show_default=True,
    help="Of --patients: column of the patients.",
)
@cli_masks(
    usage_help="Tissue masks: an image or a GeoJSON exported from QuPath, or a folder of them named "
    "as the slides. Without it the tissue is found."
)
@cli_file_type(default=DEFAULT_FILE_TYPES)
@click.option("--mpp", type=float, help="Microns per pixel of the slides, over what the files say.")
@click.option("--power", type=float, help="Objective power of the slides, over what the files say.")
@click.option(
    "--encoder-weights",
    type=str,
    help="Local weights file of the model's encoder, for machines without internet.",
)
@cli_device()
@cli_batch_size(default=32)
@cli_num_workers(usage_help="Threads that read patches.", default=2)
@cli_output_type(
    usage_help="What is written beside the table and the pictures.",
    default="qupath",
    input_type=RegisteredName(WRITERS),
)
@cli_precision
@click.option(
    "--attribution/--no-attribution",
    default=True,
    help="Find out what raises and what lowers the risk. Without it the model takes a tenth of the time.",
)
@click.option(
    "--gzip", is_flag=True, help="Compress GeoJSON (.geojson.gz), which QuPath opens too."
)
@click.option("--overwrite", is_flag=True, help="Make finished results again.")
@cli_cluster
@cli_plugin
@click.option("--verbose", is_flag=True, help="Show the libraries' log lines on the console.")
@click.pass_context
def predict(
    context: click.Context,
    img_input: str | None,
    bags: Path | None,
    output_path: str,
    model: str,
    patients: Path | None,
    slide_column: str,
    patient_column: str,
    masks: str | None,
    file_types: str,
    mpp: float | None,
    power: float | None,
    encoder_weights: str | None,
    device: str,
    batch_size: int,
    num_workers: int,
    output_type: str,
    precision: str,
    cluster: str | None,
    plugins: tuple[str, ...],
    *,
    attribution: bool,
    gzip: bool,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Predict survival from slides, or from their feature bags.

    Writes predictions.csv, report.html and, per slide, GeoJSON files of the 5x, 10x and 20x patches with
    their attention and attribution, the survival curve and a picture; with --patients patients.csv too.
    Slides that are finished are skipped; a slide that cannot be read is named in predictions.csv and
    the others go on.
    """
    at_least("--batch-size", batch_size, 1)
    at_least("--num-workers", num_workers, 0)
    one_scale(mpp, power)
    if output_type != "qupath":
        refuse_given(context, ("gzip",), f"is for GeoJSON, not for {output_type}; leave it out")
    if patients is None:
        refuse_given(context, _FOR_PATIENTS, "is for --patients; add it")
    if bags is None:
        if not img_input:
            raise UsageError("--img-input is missing, or --bags; see --help")
        sources = find_slides(Path(img_input), file_types)
        check_masks(masks, sources)
    else:
        refuse_given(context, ("img_input",), "and --bags: leave one of them out")
        refuse_given(context, _FOR_SLIDES, "is for slides, bags are finished; leave it out")
        sources = find_bags(bags)
    folder_path = output_folder(given("--output-path", output_path))

    # Imported here: torch and the slide readers take seconds, and a wrong option should not.
    from tiacrossfusion.cohorts.patients import read_patients
    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs.cluster import Cluster
    from tiacrossfusion.runs.patients import predict_patients
    from tiacrossfusion.runs.prediction import predict_bags, predict_slides
    from tiacrossfusion.runs.prediction_task import PredictionOptions
    from tiacrossfusion.runs.results_folder import PATIENTS, REPORT, TABLE, ResultsFolder
    from tiacrossfusion.slides.options import ReadOptions, Scale

    options = PredictionOptions(
        ReadOptions(
            Scale(mpp, power),
            seen_from_workers(masks, cluster),
            batch_size=batch_size,
            num_workers=num_workers,
        ),
        output_type=output_type,
        overwrite=overwrite,
        attribution=attribution,
        gzip=gzip,
    )
    table: PatientTable | None = None
    if patients is not None:
        table = read_patients(patients, slide_column=slide_column, patient_column=patient_column)
        for note in table.notes(sources):
            click.echo(printable(f"note: {note}"))
    source = ModelSource(
        model=seen_from_workers(model, cluster) if is_folder(Path(model)) else model,
        weights=seen_from_workers(encoder_weights, cluster),
        device=device,
        precision=precision,
        with_encoder=bags is None,
        plugins=plugins,
    )
    connection: Any = nullcontext()
    if cluster is None:
        config = source.load().config()
    else:
        config = source.config()  # the device is the workers'
        folder_path = folder_path.absolute()
        sources = [each.absolute() for each in sources]
        connection = Cluster(cluster, source)
    with connection as connected:
        folder = ResultsFolder(folder_path)
        if table is not None:
            folder.check_patients_free()
        with log_to(folder_path, verbose=verbose):
            run = predict_slides if bags is None else predict_bags
            outcomes = run(sources, source, folder, options, executor=connected)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    before = f" ({skipped} finished before)" if skipped else ""
    kind = "slides" if bags is None else "bags"
    click.echo(
        f"{len(outcomes) - failed} of {len(outcomes)} {kind} done{before}: {folder_path / TABLE}, "
        f"to look at: {folder_path / REPORT}"
    )
    lost = 0
    if table is not None:
        of_patients = predict_patients(table, outcomes, config)
        folder.write_patients([outcome.row for outcome in of_patients])
        lost = _say_patients(of_patients, folder_path / PATIENTS)
    click.echo(config.card.notice)
    if failed:
        click.echo(f"{failed} failed; details in {folder_path / LOG_FILE}", err=True)
    if lost:
        click.echo(f"{lost} patients not predicted; details in {folder_path / PATIENTS}", err=True)
    if failed or lost:
        sys.exit(1)


def _say_patients(outcomes: list[PatientOutcome], path: Path) -> int:
    """Say what became of the patients; returns how many have no prediction."""
    lost = sum(outcome.prediction is None for outcome in outcomes)
    partly = sum(len(outcome.predicted) < len(outcome.slides) for outcome in outcomes) - lost
    without = f" ({partly} without some of their slides)" if partly else ""
    click.echo(f"{len(outcomes) - lost} of {len(outcomes)} patients predicted{without}: {path}")
    return lost
