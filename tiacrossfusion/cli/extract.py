"""`tiacf extract`: from slides to bags of features, which training and prediction take."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
from tiatoolbox.cli.common import (
    cli_batch_size,
    cli_device,
    cli_file_type,
    cli_img_input,
    cli_masks,
    cli_num_workers,
    cli_output_path,
)

from tiacrossfusion.checks import at_least, positive
from tiacrossfusion.cli.checks import given, output_folder
from tiacrossfusion.cli.log_file import LOG_FILE, log_to
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slide_files import DEFAULT_FILE_TYPES, find_slides


@click.command()
@cli_img_input(usage_help="A slide, a folder of slides, or a folder of DICOM files (one slide).")
@cli_output_path(usage_help="Folder for the bags; those that it holds are kept and resumed.")
@click.option(
    "--encoder",
    "encoder_name",
    default="stain-texture",
    show_default=True,
    help="What turns patches into features: a name from `tiacf encoders`.",
)
@click.option(
    "--encoder-weights",
    type=str,
    help="Local weights file of the encoder, for machines without internet.",
)
@cli_masks(
    usage_help="Tissue masks: an image or a GeoJSON exported from QuPath, or a folder of them named "
    "as the slides. Without it the tissue is found."
)
@cli_file_type(default=DEFAULT_FILE_TYPES)
@click.option("--mpp", type=float, help="Microns per pixel of the slides, over what the files say.")
@click.option("--power", type=float, help="Objective power of the slides, over what the files say.")
@cli_device()
@cli_batch_size(default=32)
@cli_num_workers(usage_help="Threads that read patches.", default=2)
@click.option("--overwrite", is_flag=True, help="Make finished bags again.")
@click.option("--verbose", is_flag=True, help="Show the libraries' log lines on the console.")
def extract(
    img_input: str,
    output_path: str,
    encoder_name: str,
    encoder_weights: str | None,
    masks: str | None,
    file_types: str,
    mpp: float | None,
    power: float | None,
    device: str,
    batch_size: int,
    num_workers: int,
    *,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Extract the features of slides, for training and for prediction.

    Writes per slide a bag <stem>.zarr, and extraction.csv. Bags that are finished are skipped, and made
    again when slide, mask, scale or encoder have changed; a slide that cannot be read is named in
    extraction.csv and the others go on.
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
    folder = output_folder(given("--output-path", output_path))

    # Imported here: torch and the slide readers take seconds, and a wrong option should not.
    from tiacrossfusion.checks import usable_device
    from tiacrossfusion.encoders import load_encoder
    from tiacrossfusion.extraction import TABLE, extract_slides
    from tiacrossfusion.results import writing

    usable_device(device)
    encoder = load_encoder(encoder_name, weights=encoder_weights, device=device)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with log_to(folder, verbose=verbose):
        outcomes = extract_slides(
            slides,
            folder,
            encoder,
            masks=None if masks is None else [masks] * len(slides),
            mpp=mpp,
            power=power,
            batch_size=batch_size,
            num_workers=num_workers,
            overwrite=overwrite,
        )
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    before = f" ({skipped} finished before)" if skipped else ""
    click.echo(f"{len(outcomes) - failed} of {len(outcomes)} slides done{before}: {folder / TABLE}")
    if failed < len(outcomes):
        bags = shlex.quote(str(folder))
        click.echo(
            f"Next: tiacf train --bags {bags} --table TABLE --time-unit UNIT --output-path FOLDER, "
            f"or tiacf predict --bags {bags} --model MODEL --output-path FOLDER"
        )
    if failed:
        click.echo(f"{failed} failed; details in {folder / LOG_FILE}", err=True)
        sys.exit(1)
