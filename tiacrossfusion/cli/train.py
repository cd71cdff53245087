"""`tiacf train`: from bags and a follow-up table to models and figures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.cli.checks import given, output_folder
from tiacrossfusion.cli.console import print_figures
from tiacrossfusion.cli.options import cli_columns, cli_plugin, split_names
from tiacrossfusion.networks.registry import model_names

#: Place of each option among the settings.
_SETTINGS = {
    "models": ("models",),
    "time_unit": ("time_unit",),
    "drop_unusable": ("drop_unusable",),
    "covariates": ("columns", "covariates"),
    "ordinal": ("columns", "ordinal"),
    "seed": ("seed",),
    "slide_column": ("columns", "slide"),
    "patient_column": ("columns", "patient"),
    "patient_characters": ("columns", "patient_characters"),
    "time_column": ("columns", "time"),
    "event_column": ("columns", "event"),
    "censorship_column": ("columns", "censorship"),
    "entry_column": ("columns", "entry"),
    "protocol": ("protocol", "protocol"),
    "folds": ("protocol", "folds"),
    "repeats": ("protocol", "repeats"),
    "fold_by": ("columns", "fold_by"),
    "splits": ("protocol", "splits"),
    "recipe": ("recipe",),
    "loss": ("fitting", "loss"),
    "epochs": ("fitting", "epochs"),
    "learning_rate": ("fitting", "learning_rate"),
    "embed_dim": ("network", "embed_dim"),
    "num_bins": ("network", "num_bins"),
}


@click.command()
@click.option("--bags", type=Path, help="Folder of feature bags, as `tiacf extract` writes them.")
@click.option(
    "--table",
    type=Path,
    help="Follow-up: CSV or Parquet, a row a slide, with slide, patient, time and event.",
)
@cli_output_path(usage_help="Folder for models and figures; a run that was killed goes on in it.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help=f"What to train: {', '.join(model_names())}, or a network of a --plugin. Give it several times to "
    "compare on the same folds.  [default: crossfusion]",
)
@click.option("--time-unit", help="Unit of the times in the table, such as months.")
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    help="An endpoint and its columns of time and event, such as OS=OS.time,OS; each is trained in a folder "
    "of its name. Repeatable.",
)
@cli_columns
@click.option(
    "--protocol",
    type=click.Choice(["nested", "holdout", "official"]),
    help="nested: test folds that are touched once; official: the authors' way, optimistic.",
)
@click.option("--folds", type=int, help="Number of test folds.  [default: 5]")
@click.option(
    "--repeats",
    type=int,
    help="Times that all patients are divided into folds anew, for narrower intervals.  [default: 1]",
)
@click.option(
    "--fold-by",
    help="Column of the sites, such as hospitals, none of which is in two parts of a fold; tcga-site reads "
    "them from the barcodes.",
)
@click.option("--splits", type=Path, help="Folder with the authors' splits_<k>.csv.")
@click.option(
    "--recipe",
    type=click.Choice(["network", "paper"]),
    help="Where settings that are not given come from: each network's own recipe, which "
    "`tiacf models --networks` lists, or that of the CrossFusion paper.  [default: network]",
)
@click.option("--loss", type=click.Choice(["nll", "cox", "cross-entropy"]))
@click.option("--epochs", type=int, help="At most; training stops earlier by itself.")
@click.option("--learning-rate", type=float)
@click.option("--embed-dim", type=int, help="Width inside the network.")
@click.option("--num-bins", type=int, help="Time bins.")
@click.option("--seed", type=int, help="[default: 0]")
@click.option(
    "--config",
    type=Path,
    help="YAML file of settings; options override it. run.json shows them all.",
)
@click.option(
    "--cache",
    type=Path,
    help="Folder for the uncompressed features of a cohort that does not fit into memory; it is kept, and "
    "runs may share it.  [default: in the output folder, removed when the training is finished]",
)
@click.option("--accelerator", default="auto", show_default=True, help="Lightning's: cpu, gpu ...")
@click.option("--devices", default="1", show_default=True, help="Lightning's: a number or auto.")
@click.option("--strategy", default="auto", show_default=True, help="Lightning's, such as ddp.")
@cli_plugin
def train(
    bags: Path | None,
    table: Path | None,
    output_path: str,
    models: tuple[str, ...],
    covariates: str | None,
    ordinal: tuple[str, ...],
    endpoints: tuple[str, ...],
    config: Path | None,
    cache: Path | None,
    accelerator: str,
    devices: str,
    strategy: str,
    plugins: tuple[str, ...],  # noqa: ARG001 - loaded by the option
    *,
    drop_unusable: bool,
    **options: Any,
) -> None:
    """Train and judge survival models.

    By default five folds by patient: each is tested once, by a model that was trained and stopped on
    the other patients. Writes per model a bundle a fold, an ensemble of them for `tiacf predict`, the
    out-of-fold predictions, their figures with 95 % intervals, and pictures.
    """
    table = given("--table", table)
    folder = output_folder(output_path)

    from tiacrossfusion.cohorts.endpoints import ENDPOINTS, read_endpoints
    from tiacrossfusion.cohorts.levels import read_levels
    from tiacrossfusion.training import api
    from tiacrossfusion.training.config import from_options
    from tiacrossfusion.training.devices import Devices
    from tiacrossfusion.training.endpoints import train_endpoints

    options |= {
        "ordinal": read_levels(ordinal) or None,
        "models": models or None,
        "drop_unusable": drop_unusable or None,
    }
    if covariates is not None:
        options["covariates"] = list(split_names(covariates))
    given_options = {
        _SETTINGS[name]: (f"--{name.replace('_', '-')}", value)
        for name, value in options.items()
        if value is not None
    }
    settings: dict[str, Any] = {
        "config": from_options(config, given_options),
        "devices": Devices(accelerator, _number_of(devices), strategy),
        "cache": cache,
        "say": click.echo,
    }
    if endpoints:
        found = train_endpoints(
            table, bags, folder, endpoints=read_endpoints(endpoints), **settings
        )
        for name, trained in found.items():
            for model, evaluation in trained.evaluations.items():
                print_figures(f"{name}, {model}", evaluation)
        click.echo(f"Figures of all endpoints: {folder / ENDPOINTS}")
        return
    trained = api.train(table, bags, folder, **settings)
    for model, evaluation in trained.evaluations.items():
        print_figures(model, evaluation)
    if trained.evaluations:  # with several devices, the first process alone has them
        click.echo(f"Figures of all models: {trained.table}")
        for bundle in list(trained.bundles.values())[:1]:
            click.echo(
                f"To predict: tiacf predict --model {shlex.quote(str(bundle))} --output-path FOLDER "
                "--img-input SLIDES (or --bags BAGS)"
            )


def _number_of(devices: str) -> int | str:
    """Return the number of devices, or the text, which Lightning refuses unless it is "auto"."""
    try:
        return int(devices)
    except ValueError:
        return devices
