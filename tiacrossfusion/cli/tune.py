"""`tiacf tune`: choose settings inside the training part of each fold, then train with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tiatoolbox.cli.common import cli_output_path

from tiacrossfusion.cli.options import cli_plugin
from tiacrossfusion.cli.train import print_trained
from tiacrossfusion.cli.training_options import cli_cohort, cli_training, training_arguments
from tiacrossfusion.io.arguments import at_least


@click.command()
@cli_cohort
@cli_output_path(
    usage_help="Folder for trials, models and figures; a run that was killed goes on in it."
)
@click.option("--model", help="The network.  [default: crossfusion]")
@click.option("--trials", default=20, show_default=True, help="Trials for each fold.")
@click.option(
    "--inner-folds",
    default=3,
    show_default=True,
    help="Parts of the patients outside a test part; a trial is trained once for each.",
)
@click.option(
    "--space",
    type=Path,
    help="YAML file of settings and their values, such as `learning_rate: {low: 0.0003, high: 0.01, log: "
    "true}` or `patients_per_step: [16, 32]`.  [default: learning rate, weight decays and dropout]",
)
@cli_training
@cli_plugin
def tune(
    model: str | None,
    trials: int,
    inner_folds: int,
    space: Path | None,
    plugins: tuple[str, ...],  # noqa: ARG001 - loaded by the option
    **options: Any,
) -> None:
    """Choose settings of a network, and train and judge it with them.

    Each fold has trials of its own, by Optuna, on inner folds of the patients outside its test part; the
    fold is then trained with the best settings, so that its figures hold for the whole procedure. Writes
    what `tiacf train` writes, and `tuning/fold-<k>/trials.csv`. Needs `pip install tiacrossfusion[tune]`.
    """
    for option, value, lowest, highest in (
        ("--trials", trials, 1, 10_000),
        ("--inner-folds", inner_folds, 2, 20),
    ):
        at_least(option, value, lowest, highest)
    arguments = training_arguments(options | {"models": (model,) if model else ()})

    from tiacrossfusion.training import api
    from tiacrossfusion.training.space import Tuning, read_space

    tuning = Tuning(trials=trials, inner_folds=inner_folds, space=read_space(space))
    print_trained(api.train(**arguments, tuning=tuning))
