"""Options that `tiacf train` and `tiacf tune` share, and the settings that they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tiacrossfusion.cli.checks import given, output_folder
from tiacrossfusion.cli.options import cli_columns, split_names
from tiacrossfusion.errors import UsageError
from tiacrossfusion.text import printable

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
    "slide_model": ("fusion", "slide_model"),
    "init": ("fusion", "init"),
    "loss": ("fitting", "loss"),
    "epochs": ("fitting", "epochs"),
    "learning_rate": ("fitting", "learning_rate"),
    "embed_dim": ("network", "embed_dim"),
    "num_bins": ("network", "num_bins"),
    "site": ("columns", "site"),
    "augment": ("augmenting", "augment"),
    "adversarial": ("augmenting", "adversarial"),
    "nuisance": ("augmenting", "nuisance"),
}

_OPTIONS = (
    click.option("--time-unit", help="Unit of the times in the table, such as months."),
    click.option(
        "--protocol",
        type=click.Choice(["nested", "holdout", "official"]),
        help="nested: test folds that are touched once; official: the authors' way, optimistic.",
    ),
    click.option("--folds", type=int, help="Number of test folds.  [default: 5]"),
    click.option(
        "--repeats",
        type=int,
        help="Times that all patients are divided into folds anew, for narrower intervals.  [default: 1]",
    ),
    click.option(
        "--fold-by",
        help="Column of the sites, such as hospitals, none of which is in two parts of a fold; tcga-site "
        "reads them from the barcodes.",
    ),
    click.option("--splits", type=Path, help="Folder with the authors' splits_<k>.csv."),
    click.option(
        "--recipe",
        type=click.Choice(["network", "paper"]),
        help="Where settings that are not given come from: each network's own recipe, which "
        "`tiacf models --networks` lists, or that of the CrossFusion paper.  [default: network]",
    ),
    click.option(
        "--slide-model",
        help="Network of slides in late-fusion, joint-fusion and the like.  [default: the first network "
        "among the models, or crossfusion]",
    ),
    click.option(
        "--init", type=Path, help="Folder of tiacf pretrain, for late-fusion and joint-fusion."
    ),
    click.option("--loss", type=click.Choice(["nll", "cox", "cross-entropy"])),
    click.option("--epochs", type=int, help="At most; training stops earlier by itself."),
    click.option("--learning-rate", type=float),
    click.option("--embed-dim", type=int, help="Width inside the network."),
    click.option("--num-bins", type=int, help="Time bins."),
    click.option("--seed", type=int, help="[default: 0]"),
    click.option(
        "--config",
        type=Path,
        help="YAML file of settings; options override it. run.json shows them all.",
    ),
    click.option(
        "--cache",
        type=Path,
        help="Folder for the uncompressed features of a cohort that does not fit into memory; it is kept, "
        "and runs may share it.  [default: in the output folder, removed when the training is finished]",
    ),
    click.option(
        "--logger",
        "loggers",
        type=click.Choice(["tensorboard", "wandb", "mlflow"]),
        multiple=True,
        help="Log losses there, too, besides metrics.csv. Repeatable.",
    ),
    click.option(
        "--permutations",
        default=0,
        show_default=True,
        help="Times that follow-up is permuted and all folds are refitted, for a p of models that are "
        "quickly fitted (clinical, coxnet).",
    ),
    click.option(
        "--accelerator", default="auto", show_default=True, help="Lightning's: cpu, gpu ..."
    ),
    click.option(
        "--devices", default="1", show_default=True, help="Lightning's: a number or auto."
    ),
    click.option("--strategy", default="auto", show_default=True, help="Lightning's, such as ddp."),
)


_AUGMENTING = (
    click.option(
        "--augment",
        help="Train networks once more against what should not move the risk, beside plain training on the "
        "same folds: shift (differences between sites), stain (the changes of --nuisance), or both.",
    ),
    click.option(
        "--adversarial",
        is_flag=True,
        help="The same against a generator that is trained to disturb the network.",
    ),
    click.option(
        "--site",
        help="Column of the sites for --augment shift, where folds do not go by them (--fold-by names them, "
        "too); tcga-site reads them from the barcodes.",
    ),
    click.option(
        "--nuisance",
        type=Path,
        help="Measured changes for --augment stain: nuisance.safetensors of tiacf audit --img-input.",
    ),
)


def cli_augmenting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for what networks are trained against."""
    for option in reversed(_AUGMENTING):
        command = option(command)
    return command


def cli_cohort(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the bags and the table of a training."""
    table = click.option(
        "--table",
        type=Path,
        help="Follow-up: CSV or Parquet, a row a slide, with slide, patient, time and event.",
    )
    bags = click.option(
        "--bags", type=Path, help="Folder of feature bags, as `tiacf extract` writes them."
    )
    return bags(table(command))


def cli_training(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a training, in the order of the help."""
    for option in reversed(_OPTIONS[1:]):
        command = option(command)
    return _OPTIONS[0](cli_columns(command))


def training_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `api.train` that the options of `cli_training` give.

    Raises:
        UsageError: an option is wrong or missing.
    """
    options = dict(options)
    table, bags = given("--table", options.pop("table")), options.pop("bags")
    folder = output_folder(options.pop("output_path"))

    from tiacrossfusion.cohorts.levels import read_levels
    from tiacrossfusion.training.config import from_options
    from tiacrossfusion.training.devices import Devices

    config, cache = options.pop("config"), options.pop("cache")
    accelerator, devices, strategy = (
        options.pop(name) for name in ("accelerator", "devices", "strategy")
    )
    loggers, permutations = options.pop("loggers"), options.pop("permutations")
    covariates = options.pop("covariates")
    options |= {
        "ordinal": read_levels(options["ordinal"]) or None,
        "models": options["models"] or None,
        "drop_unusable": options["drop_unusable"] or None,
        "covariates": None if covariates is None else list(split_names(covariates)),
    }
    if "augment" in options:
        augment = options["augment"]
        options["augment"] = None if augment is None else list(_augmentations(augment))
        options["adversarial"] = options["adversarial"] or None
    spelt = {option.name: option.opts[0] for option in click.get_current_context().command.params}
    given_options = {
        _SETTINGS[name]: (spelt[name], value)
        for name, value in options.items()
        if value is not None
    }
    return {
        "table": table,
        "bags": bags,
        "output_path": folder,
        "config": from_options(config, given_options),
        "devices": Devices(accelerator, _number_of(devices), strategy),
        "cache": cache,
        "loggers": loggers,
        "permutations": permutations,
        "say": click.echo,
    }


def _augmentations(given: str) -> tuple[str, ...]:
    """Return what `--augment` names; settings are checked one by one, which would name no option."""
    names = split_names(given)
    odd = [name for name in names if name not in ("stain", "shift")]
    if odd or not names:
        raise UsageError(
            f"--augment {printable(given[:80])}: takes stain, shift or stain,shift; mend it, or leave it out"
        )
    return names


def _number_of(devices: str) -> int | str:
    """Return the number of devices, or the text, which Lightning refuses unless it is "auto"."""
    try:
        return int(devices)
    except ValueError:
        return devices
