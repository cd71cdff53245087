"""`tiacf extract`: from slides to bags of features, which training and prediction take."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

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

from tiacrossfusion.cli.checks import check_masks, given, output_folder
from tiacrossfusion.cli.cluster import cli_cluster, cli_precision
from tiacrossfusion.cli.log_file import log_to
from tiacrossfusion.cli.outcomes import exit_if_failed, print_done
from tiacrossfusion.cli.plugins import cli_plugin
from tiacrossfusion.cli.sizes import bytes_text, seconds_text
from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.arguments import at_least, one_scale
from tiacrossfusion.slides.files import DEFAULT_FILE_TYPES, find_slides
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tiacrossfusion.runs.extraction_task import ExtractionPlan
    from tiacrossfusion.runs.runner import Outcome

_SCALES = ("5x", "10x", "20x")


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
@cli_precision
@click.option("--overwrite", is_flag=True, help="Make finished bags again.")
@click.option("--retry-failed", is_flag=True, help="Try again the slides that failed before.")
@click.option(
    "--shard",
    metavar="I/N",
    help="Do the I-th of N parts of the slides, every N-th; other processes do the other parts.",
)
@cli_cluster
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be done, with patches and bytes, and write nothing.",
)
@cli_plugin
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
    precision: str,
    shard: str | None,
    cluster: str | None,
    plugins: tuple[str, ...],
    *,
    overwrite: bool,
    retry_failed: bool,
    dry_run: bool,
    verbose: bool,
) -> None:
    """Extract the features of slides, for training and for prediction.

    Writes per slide a bag <stem>.zarr, and extraction.csv. Bags that are finished are skipped, and made
    again when slide, mask, scale or encoder have changed; a slide that cannot be read is named in
    extraction.csv and the others go on. `tiacf status` tells how far it is.
    """
    at_least("--batch-size", batch_size, 1)
    at_least("--num-workers", num_workers, 0)
    one_scale(mpp, power)
    slides = find_slides(given("--img-input", img_input), file_types)
    check_masks(masks, slides)
    part = _parse_shard(shard)
    if cluster is not None and dry_run:
        raise UsageError("--dry-run looks at the slides from here; leave --cluster out")
    if cluster is not None and shard is not None:
        raise UsageError("--shard and --cluster: each shares out the slides; leave one of them out")
    folder = output_folder(given("--output-path", output_path))

    # Imported here: torch and the slide readers take seconds, and a wrong option should not.
    from tiacrossfusion.io.atomic import writing
    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs.cluster import connect
    from tiacrossfusion.runs.extraction import check_shard, plan_extraction
    from tiacrossfusion.runs.extraction import extract as extract_slides
    from tiacrossfusion.runs.extraction_task import ExtractionOptions
    from tiacrossfusion.slides.options import ReadOptions, Scale

    check_shard(part)
    source = ModelSource(
        encoder=encoder_name,
        weights=encoder_weights,
        device=device,
        precision=precision,
        plugins=plugins,
    )
    options = ExtractionOptions(
        ReadOptions(Scale(mpp, power), masks, batch_size=batch_size, num_workers=num_workers),
        overwrite=overwrite,
        retry_failed=retry_failed,
    )
    if dry_run:
        _print_plans(plan_extraction(slides, folder, source, options, shard=part))
        return
    if cluster is None:
        source.load()  # before the folder is made
    started = time.monotonic()
    with connect(cluster, source) as executor:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with log_to(folder, verbose=verbose):
            outcomes = extract_slides(slides, folder, source, options, shard=part, cluster=executor)
    _print_outcomes(outcomes, folder, time.monotonic() - started)


def _parse_shard(shard: str | None) -> tuple[int, int]:
    """Read I/N."""
    asked = "1/1" if shard is None else shard
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", asked)
    if match is None:
        raise UsageError(
            f"--shard {printable(asked[:80])}: give I/N, two whole numbers such as 1/4"
        )
    return int(match[1]), int(match[2])


def _print_plans(plans: Iterable[ExtractionPlan]) -> None:
    """Print what would be done with each slide, and in all."""
    counts = {"extract": 0, "skip": 0, "fail": 0}
    patches = size = 0
    for plan in plans:
        counts[plan.status] += 1
        words = [
            f"{scale} {plan.patches[scale]} patches" for scale in _SCALES if scale in plan.patches
        ]
        if plan.status == "extract":
            patches += sum(plan.patches.values())
            size += plan.size
            words.append(f"about {bytes_text(plan.size)}")
        if plan.message:
            words.append(plan.message)
        click.echo(printable(f"{plan.status:8}{plan.slide.name}: {', '.join(words)}"))
    click.echo(
        f"{counts['extract']} to extract ({patches} patches, about {bytes_text(size)}), "
        f"{counts['skip']} finished before, {counts['fail']} would fail; nothing was written"
    )


def _print_outcomes(outcomes: list[Outcome], folder: Path, seconds: float) -> None:
    """Print the outcomes of the slides; exits with 1 when some failed."""
    from tiacrossfusion.runs.bags_folder import TABLE

    print_done(outcomes, "slides done", folder / TABLE)
    made = [outcome.row for outcome in outcomes if outcome.status == "ok"]
    patches = sum(row[f"patches_{scale}"] for row in made for scale in _SCALES)
    click.echo(f"{patches} patches of {len(made)} slides in {seconds_text(seconds)}")
    dropped = [sum(row[f"dropped_{scale}"] for scale in _SCALES) for row in made]
    if any(dropped):
        click.echo(
            f"{sum(dropped)} patches left out of {sum(map(bool, dropped))} damaged slides; "
            f"see {folder / TABLE}"
        )
    if any(outcome.status != "failed" for outcome in outcomes):
        bags = shlex.quote(str(folder))
        click.echo(
            f"Next: tiacf train --bags {bags} --table TABLE --time-unit UNIT --output-path FOLDER, "
            f"or tiacf predict --bags {bags} --model MODEL --output-path FOLDER"
        )
    exit_if_failed(outcomes, folder)
