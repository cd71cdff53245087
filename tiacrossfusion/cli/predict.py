"""`tiacf predict`: from slides to risks, curves and attention that opens in QuPath."""

from __future__ import annotations

import sys
from pathlib import Path

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

from tiacrossfusion.checks import at_least, positive
from tiacrossfusion.cli.checks import given, output_folder
from tiacrossfusion.cli.log_file import LOG_FILE, log_to
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slide_files import DEFAULT_FILE_TYPES, find_slides


@click.command()
@cli_img_input(usage_help="A slide, a folder of slides, or a folder of DICOM files (one slide).")
@cli_output_path(usage_help="Folder for the results; results that it holds are kept and resumed.")
@cli_model(
    usage_help="Model: a name from `tiacf models`, a bundle folder, or a hub id (owner/name).",
    default="crossfusion-demo",
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
    input_type=click.Choice(["qupath", "zarr", "annotationstore"], case_sensitive=False),
)
@click.option("--overwrite", is_flag=True, help="Make finished results again.")
@click.option("--verbose", is_flag=True, help="Show the libraries' log lines on the console.")
def predict(
    img_input: str,
    output_path: str,
    model: str,
    masks: str | None,
    file_types: str,
    mpp: float | None,
    power: float | None,
    encoder_weights: str | None,
    device: str,
    batch_size: int,
    num_workers: int,
    output_type: str,
    *,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Predict survival from slides.

    Writes predictions.csv and, per slide, GeoJSON files of the 5x, 10x and 20x patches with their
    attention, the survival curve and a picture of the attention. Slides that are finished are skipped;
    a slide that cannot be read is named in predictions.csv and the others go on.
    """
    at_least("--batch-size", batch_size, 1)
    at_least("--num-workers", num_workers, 0)
    positive("--mpp", mpp)
    positive("--power", power)
    slides = find_slides(given("--img-input", img_input), file_types)
    if masks is not None and Path(masks).is_file() and len(slides) > 1:
        raise TiacfError(
            f"--masks {masks}: one mask for {len(slides)} slides; give a folder of masks named as them"
        )
    folder_path = output_folder(given("--output-path", output_path))

    # Imported here: torch and the slide readers take seconds, and a wrong option should not.
    from tiacrossfusion.cohort import RunOptions, predict_cohort
    from tiacrossfusion.encoders import load_encoder_of
    from tiacrossfusion.results import TABLE, ResultsFolder
    from tiacrossfusion.zoo import load_bundle

    bundle = load_bundle(model, device)
    folder = ResultsFolder(folder_path)
    with log_to(folder_path, verbose=verbose):
        encoder = load_encoder_of(bundle.config.encoder, weights=encoder_weights, device=device)
        outcomes = predict_cohort(
            slides,
            bundle,
            encoder,
            folder,
            RunOptions(
                mpp=mpp,
                power=power,
                output_type=output_type.lower(),
                overwrite=overwrite,
                batch_size=batch_size,
                num_workers=num_workers,
            ),
            masks=None if masks is None else [masks] * len(slides),
        )
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    before = f" ({skipped} finished before)" if skipped else ""
    click.echo(
        f"{len(outcomes) - failed} of {len(outcomes)} slides done{before}: {folder_path / TABLE}"
    )
    click.echo(bundle.config.card.notice)
    if failed:
        click.echo(f"{failed} failed; details in {folder_path / LOG_FILE}", err=True)
        sys.exit(1)
