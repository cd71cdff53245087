"""`tiacf train`: from bags and a follow-up table to models and figures."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.cli.console import print_figures
from tiacrossfusion.cli.options import cli_plugin
from tiacrossfusion.cli.training_options import (
    cli_augmenting,
    cli_cohort,
    cli_training,
    training_arguments,
)
from tiacrossfusion.networks.registry import model_names

if TYPE_CHECKING:
    from tiacrossfusion.training.api import Trained


@click.command()
@cli_cohort
@cli_output_path(usage_help="Folder for models and figures; a run that was killed goes on in it.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help=f"What to train: {', '.join(model_names())}, or a network of a --plugin. Give it several times to "
    "compare on the same folds.  [default: crossfusion]",
)
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    help="An endpoint and its columns of time and event, such as OS=OS.time,OS; each is trained in a folder "
    "of its name. Repeatable.",
)
@cli_augmenting
@cli_training
@cli_plugin
def train(
    endpoints: tuple[str, ...],
    plugins: tuple[str, ...],  # noqa: ARG001 - loaded by the option
    **options: Any,
) -> None:
    """Train and judge survival models.

    By default five folds by patient: each is tested once, by a model that was trained and stopped on
    the other patients. Writes per model a bundle a fold, an ensemble of them for `tiacf predict`, the
    out-of-fold predictions, their figures with 95 % intervals, and pictures.
    """
    arguments = training_arguments(options)

    from tiacrossfusion.cohorts.endpoints import ENDPOINTS, read_endpoints
    from tiacrossfusion.training import api
    from tiacrossfusion.training.endpoints import train_endpoints

    if endpoints:
        found = train_endpoints(endpoints=read_endpoints(endpoints), **arguments)
        for name, trained in found.items():
            for model, evaluation in trained.evaluations.items():
                print_figures(f"{name}, {model}", evaluation)
        click.echo(f"Figures of all endpoints: {arguments['output_path'] / ENDPOINTS}")
        return
    print_trained(api.train(**arguments))


def print_trained(trained: Trained) -> None:
    """Print figures of models, and how to predict with one."""
    for model, evaluation in trained.evaluations.items():
        print_figures(model, evaluation)
    if trained.evaluations:  # with several devices, the first process alone has them
        click.echo(f"Figures of all models: {trained.table}")
        for bundle in list(trained.bundles.values())[:1]:
            click.echo(
                f"To predict: tiacf predict --model {shlex.quote(str(bundle))} --output-path FOLDER "
                "--img-input SLIDES (or --bags BAGS)"
            )
