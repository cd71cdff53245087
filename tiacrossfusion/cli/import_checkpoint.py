"""`tiacf import-checkpoint`: convert a checkpoint of the authors' release into a model bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.cli.checks import output_folder
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.arguments import at_least
from tiacrossfusion.io.paths import is_there, missing


@click.command("import-checkpoint")
@click.argument("checkpoint", type=str)
@click.option("--encoder", required=True, help="Encoder of its features; see `tiacf encoders`.")
@click.option("--encoder-weights", help="Local weights file of the encoder; its hash is recorded.")
@click.option("--encoder-mean", help="Its weights' own mean of RGB in 0..1, such as 0.5,0.5,0.5.")
@click.option("--encoder-std", help="Its weights' own standard deviation of RGB.")
@click.option(
    "--encoder-option",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of timm.create_model, such as pad_type=same; may be repeated.",
)
@click.option("--num-heads", type=int, default=4, show_default=True, help="Attention heads.")
@click.option("--bin-edges", help="Time bin edges, such as 12.5,24,36.1,120: the end of each bin.")
@click.option("--time-unit", help="Unit of the bin edges, such as months.")
@click.option(
    "--units",
    type=click.Choice(["mpp", "power"]),
    default="mpp",
    show_default=True,
    help="Scales at 2, 1, 0.5 microns per pixel, or at 5, 10, 20 of the slide's objective power.",
)
@click.option("--name", help="Name of the model; the checkpoint's file name if not given.")
@cli_output_path(usage_help="Folder of the bundle; the name of the model if not given.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def import_checkpoint(
    checkpoint: str,
    encoder: str,
    encoder_weights: str | None,
    encoder_mean: str | None,
    encoder_std: str | None,
    encoder_option: tuple[str, ...],
    num_heads: int,
    bin_edges: str | None,
    time_unit: str | None,
    units: Literal["mpp", "power"],
    name: str | None,
    output_path: str | None,
    *,
    overwrite: bool,
) -> None:
    """Turn a released checkpoint into a model.

    Without bin edges predictions have no times. Percentile and risk group stay empty, since the risks of
    the training patients are not known.
    """
    at_least("--num-heads", num_heads, 1)
    if not is_there(Path(checkpoint)):
        raise UsageError(f"{checkpoint}: {missing(Path(checkpoint))}; check the path")
    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", Path(checkpoint).stem).strip("-._") or "model"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"--name {name}: use letters, digits, '.', '_' and '-'")
    folder = output_folder(output_path or name)
    if (folder / "config.json").exists() and not overwrite:
        raise TiacfError(f"{folder}: holds a bundle; give --overwrite or another --output-path")

    from tiacrossfusion.encoders.stored import describe_encoder
    from tiacrossfusion.models.official import bundle_from_checkpoint, parse_bin_edges
    from tiacrossfusion.slides.spec import SamplingSpec

    config = bundle_from_checkpoint(
        Path(checkpoint),
        folder,
        name=name,
        encoder=describe_encoder(
            encoder,
            weights=encoder_weights,
            mean=_three("--encoder-mean", encoder_mean),
            std=_three("--encoder-std", encoder_std),
            options=dict(_option(text) for text in encoder_option),
        ),
        num_heads=num_heads,
        time_bins=parse_bin_edges(bin_edges, time_unit) if bin_edges else None,
        sampling=SamplingSpec(units=units),
    )
    click.echo(f"{folder}: {config.name}, encoder {config.encoder.name}, {config.architecture}")
    if config.time_bins is None:
        click.echo("Time bins unknown: predictions give no times (--bin-edges, --time-unit).")
    click.echo("Training risks unknown: predictions give no percentile and no risk group.")


def _three(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Read three comma-separated numbers."""
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text}: give three numbers such as 0.5,0.5,0.5") from error
    return red, green, blue


def _option(text: str) -> tuple[str, str | int | float | bool]:
    """Read KEY=VALUE; numbers, true and false are converted."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"--encoder-option {text}: give KEY=VALUE, such as pad_type=same")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = value
    return key, parsed if isinstance(parsed, int | float | bool) else value
