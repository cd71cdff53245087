"""`tiacf extract`: from slides to bags of features, which training and prediction take."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tiatoolbox.cli.common import cli_device, cli_output_path

from tiacrossfusion.cli.checks import check_masks, output_folder
from tiacrossfusion.cli.console import bytes_text, exit_if_failed, print_done, seconds_text
from tiacrossfusion.cli.log_file import log_to
from tiacrossfusion.cli.options import (
    cli_cluster,
    cli_plugin,
    cli_precision,
    cli_read,
    cli_slides,
    cli_verbose,
    find_listed,
)
from tiacrossfusion.errors import UsageError
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tiacrossfusion.runs.extraction_task import ExtractionPlan
    from tiacrossfusion.runs.runner import Outcome


@click.command()
@cli_slides
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
@cli_read
@cli_device()
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
@cli_verbose
def extract(
    img_input: tuple[str, ...],
    output_path: str,
    encoder_name: str,
    encoder_weights: str | None,
    read: ReadOptions,
    mpp_table: Path | None,
    file_types: str,
    device: str,
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
    slides, read = find_listed(img_input, file_types, read, mpp_table, output_path)
    check_masks(read.mask, slides)
    part = _parse_shard(shard)
    if cluster is not None and dry_run:
        raise UsageError("--dry-run looks at the slides from here; leave --cluster out")
    if cluster is not None and shard is not None:
        raise UsageError("--shard and --cluster: each shares out the slides; leave one of them out")
    folder = output_folder(output_path)

    # Imported here: torch and the slide readers take seconds, and a wrong option should not.
    from tiacrossfusion.io.atomic import writing
    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs.cluster import connect
    from tiacrossfusion.runs.extraction import check_shard, plan_extraction
    from tiacrossfusion.runs.extraction import extract as extract_slides
    from tiacrossfusion.runs.extraction_task import ExtractionOptions

    check_shard(part)
    source = ModelSource(
        encoder=encoder_name,
        weights=encoder_weights,
        device=device,
        precision=precision,
        plugins=plugins,
    )
    options = ExtractionOptions(read, overwrite=overwrite, retry_failed=retry_failed)
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
    """Print what would be done with each slide, and in all; exits with 1 when some would fail."""
    counts = {"extract": 0, "skip": 0, "fail": 0}
    patches = size = 0
    for plan in plans:
        counts[plan.status] += 1
        words = [f"{scale} {count} patches" for scale, count in plan.patches.items()]
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
    if counts["fail"]:
        sys.exit(1)


def _print_outcomes(outcomes: list[Outcome], folder: Path, seconds: float) -> None:
    """Print the outcomes of the slides; exits with 1 when some failed."""
    from tiacrossfusion.runs.bags_folder import TABLE
    from tiacrossfusion.slides.spec import SCALES

    print_done(outcomes, "slides done", folder / TABLE)
    made = [outcome.row for outcome in outcomes if outcome.status == "ok"]
    patches = sum(row[f"patches_{scale}"] for row in made for scale in SCALES)
    click.echo(f"{patches} patches of {len(made)} slides in {seconds_text(seconds)}")
    dropped = [sum(row[f"dropped_{scale}"] for scale in SCALES) for row in made]
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
