"""`tiacf predict`: from slides, or their bags, to risks, curves and attention that opens in QuPath."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tiatoolbox.cli.common import (
    cli_device,
    cli_model,
    cli_output_path,
    cli_output_type,
    cli_weights,
    cli_yaml_config_path,
)

from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cli.checks import check_masks, output_folder, refuse_given
from tiacrossfusion.cli.console import exit_if_failed, print_done
from tiacrossfusion.cli.log_file import log_to
from tiacrossfusion.cli.options import (
    READ_OPTIONS,
    RegisteredName,
    cli_cluster,
    cli_plugin,
    cli_precision,
    cli_read,
    cli_slides,
    cli_verbose,
    find_listed,
)
from tiacrossfusion.errors import UsageError
from tiacrossfusion.outputs.writers import WRITERS
from tiacrossfusion.slides.options import ReadOptions, WholeSlide
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from tiacrossfusion.explain.hotspots import HotspotsBy
    from tiacrossfusion.inference.budget import Choose
    from tiacrossfusion.runs.patients import PatientOutcome

#: What only slides, and only a table of patients, have a use for.
_FOR_SLIDES = (*READ_OPTIONS, "auto_get_mask", "encoder_weights", "precision")
_FOR_PATIENTS = ("slide_column", "patient_column")


@click.command()
@cli_slides
@click.option(
    "--bags",
    type=Path,
    help="Instead of slides: a folder of feature bags, as `tiacf extract` writes them, or one bag.",
)
@cli_output_path(usage_help="Folder for the results; results that it holds are kept and resumed.")
@cli_model(
    usage_help="Model: a name from `tiacf models`, a bundle folder, or a hub id (owner/name).",
    default="nested-demo",
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
@cli_read
@click.option(
    "--auto-get-mask/--no-auto-get-mask",
    default=True,
    help="Find the tissue of slides without a mask, or predict from all of the slide, glass included.",
)
@cli_weights(
    usage_help="Weights of the network to take instead of the model's: .safetensors, or a state dict that "
    "torch.save wrote."
)
@cli_yaml_config_path(
    usage_help="IO configuration of TIAToolbox; refused unless it is the model's own sampling."
)
@click.option(
    "--encoder-weights",
    type=str,
    help="Local weights file of the model's encoder, for machines without internet.",
)
@cli_device()
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
    "--hotspots",
    type=click.Choice(["attribution", "attention"]),
    default="attribution",
    show_default=True,
    help="Outline the regions that raise and lower the risk most, or those of the highest attention.",
)
@click.option(
    "--orders",
    type=click.Choice(["1", "8"]),
    default="1",
    show_default=True,
    help="8: average over eight orders of the patches (rows, columns, reversed), for networks such as "
    "CrossFusion that read their order; the table has the spread as risk_sd. Takes eight times as long.",
)
@click.option(
    "--budget",
    type=float,
    help="Most of the families (a 5x patch with the 10x and 20x patches inside) that are read, 0 (5x alone) "
    "to 1, with an interval of the risk. For models of nested-fusion, mean-pool and abmil.  [default: 1]",
)
@click.option(
    "--until",
    help="Read until half the interval is this many standard deviations of the training risks, such as "
    "0.25, or until the risk group is certain: group.",
)
@click.option(
    "--choose",
    type=click.Choice(["random", "focus"]),
    default="random",
    show_default=True,
    help="Of --budget: families at random, spread over the slide, or those from which 5x promises most.",
)
@click.option(
    "--gzip", is_flag=True, help="Compress GeoJSON (.geojson.gz), which QuPath opens too."
)
@click.option("--overwrite", is_flag=True, help="Make finished results again.")
@cli_cluster
@cli_plugin
@cli_verbose
@click.pass_context
def predict(
    context: click.Context,
    img_input: tuple[str, ...],
    bags: Path | None,
    output_path: str,
    model: str,
    patients: Path | None,
    slide_column: str,
    patient_column: str,
    read: ReadOptions,
    mpp_table: Path | None,
    file_types: str,
    weights: str | None,
    yaml_config_path: str | None,
    encoder_weights: str | None,
    device: str,
    output_type: str,
    precision: str,
    cluster: str | None,
    plugins: tuple[str, ...],
    *,
    auto_get_mask: bool,
    attribution: bool,
    hotspots: HotspotsBy,
    orders: str,
    budget: float | None,
    until: str | None,
    choose: Choose,
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
    if output_type != "qupath":
        refuse_given(context, ("gzip",), f"is for GeoJSON, not for {output_type}; leave it out")
    if patients is None:
        refuse_given(context, _FOR_PATIENTS, "is for --patients; add it")
    if bags is None:
        if not img_input:
            raise UsageError("--img-input is missing, or --bags; see --help")
        sources, read = find_listed(img_input, file_types, read, mpp_table, output_path)
        check_masks(read.mask, sources)
    else:
        refuse_given(context, ("img_input",), "and --bags: leave one of them out")
        refuse_given(context, _FOR_SLIDES, "is for slides, bags are finished; leave it out")
        sources = find_bags(bags)
    folder_path = output_folder(output_path)
    if budget is None:
        refuse_given(context, ("choose",), "is for --budget; add it")

    # Imported here: torch and the slide readers take seconds, and a wrong option should not.
    from tiacrossfusion.cohorts.patients import read_patients
    from tiacrossfusion.inference.budget import Budget, parse_until
    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs.cluster import connect
    from tiacrossfusion.runs.prediction import predict as run
    from tiacrossfusion.runs.prediction_task import PredictionOptions
    from tiacrossfusion.runs.results_folder import PATIENTS, REPORT, TABLE, ResultsFolder

    if read.mask is None and not auto_get_mask:
        read = replace(read, mask=WholeSlide())
    how_much = Budget(
        1.0 if budget is None else budget, None if until is None else parse_until(until), choose
    )
    options = PredictionOptions(
        read,
        output_type=output_type,
        attribution=attribution,
        hotspots=hotspots,
        gzip=gzip,
        overwrite=overwrite,
        budget=how_much,
    )
    table = None
    if patients is not None:
        table = read_patients(patients, slide_column=slide_column, patient_column=patient_column)
        for note in table.notes(sources):
            click.echo(printable(f"note: {note}"))
    source = ModelSource(
        model=model,
        model_weights=weights,
        weights=encoder_weights,
        device=device,
        precision=precision,
        with_encoder=bags is None,
        orders=int(orders),
        plugins=plugins,
    )
    config = source.config() if cluster is not None else source.load().config()
    if yaml_config_path is not None:
        from tiacrossfusion.toolbox.ioconfig import check_yaml

        check_yaml(yaml_config_path, config.sampling)
    how_much.checked(lambda: source.load().need_bundle())
    with connect(cluster, source) as executor:
        folder = ResultsFolder(folder_path if cluster is None else folder_path.absolute())
        with log_to(folder.path, verbose=verbose):
            done = run(
                sources,
                source,
                folder,
                options,
                are_bags=bags is not None,
                patients=table,
                executor=executor,
            )
    kind = "slides" if bags is None else "bags"
    where = f"{folder.path / TABLE}, to look at: {folder.path / REPORT}"
    print_done(done.outcomes, f"{kind} done", where)
    lost = ""
    if table is not None:
        lost = _print_patients(done.patients, folder.path / PATIENTS)
    click.echo(config.card.notice)
    exit_if_failed(done.outcomes, folder.path, lost)


def _print_patients(outcomes: list[PatientOutcome], path: Path) -> str:
    """Print how many patients were predicted; returns a complaint if some were not."""
    lost = sum(outcome.prediction is None for outcome in outcomes)
    partly = sum(len(outcome.predicted) < len(outcome.slides) for outcome in outcomes) - lost
    without = f" ({partly} without some of their slides)" if partly else ""
    click.echo(f"{len(outcomes) - lost} of {len(outcomes)} patients predicted{without}: {path}")
    return f"{lost} patients not predicted; details in {path}" if lost else ""
