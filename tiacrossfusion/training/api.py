"""Train survival models from a follow-up table and feature bags: what `tiacf train` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.scores import Evaluation
from tiacrossfusion.io.arguments import at_least
from tiacrossfusion.training.config import TrainingConfig, make_config, read_settings
from tiacrossfusion.training.devices import Devices
from tiacrossfusion.training.judge import MODELS
from tiacrossfusion.training.loggers import check_loggers
from tiacrossfusion.training.permutation import CHEAP
from tiacrossfusion.training.plan import BUNDLE, read_cohort
from tiacrossfusion.training.run import TrainingRun
from tiacrossfusion.training.space import Tuning
from tiacrossfusion.training.tuning import check_installed


@dataclass(frozen=True)
class Trained:
    """Models that were trained, with their figures.

    Attributes:
        evaluations: figures of each model, out of fold. Empty in all but the first process of a training
            on several devices.
        bundles: folder of the bundle of each network, for `load_bundle` and `tiacf predict`: the ensemble
            of the folds, or that of the only fold.
        table: `models.csv`, the figures of all models and each compared with the first.
    """

    evaluations: dict[str, Evaluation]
    bundles: dict[str, Path]
    table: Path


def train(
    table: str | Path,
    bags: str | Path | None,
    output_path: str | Path,
    *,
    config: TrainingConfig | Mapping[str, Any] | str | Path,
    models: Sequence[str] = (),
    devices: Devices | None = None,
    cache: str | Path | None = None,
    tuning: Tuning | None = None,
    loggers: Sequence[str] = (),
    permutations: int = 0,
    say: Callable[[str], None] | None = None,
) -> Trained:
    """Train and judge survival models, or go on with a training that was interrupted.

    By default five folds by patient: each is tested once, by a model that was trained and stopped on the
    other patients. `docs/training.md` describes protocols, settings and files.

    Args:
        table: follow-up, CSV or Parquet, a row a slide.
        bags: folder of feature bags, as `extract` writes them; None for models of covariates only.
        output_path: folder for models and figures; made when it does not exist.
        config: settings, as an object, as a mapping laid out as `TrainingConfig`, such as
            `{"time_unit": "months", "fitting": {"epochs": 50}}`, or as a YAML file of that.
        models: names of the models to train; empty for those of `config`.
        devices: where networks are trained; None for one device of this machine.
        cache: folder for the uncompressed features of a cohort that does not fit into memory, which is kept
            and may be shared by runs; without it they are in `output_path` until the training is finished.
        tuning: choose settings of one network by Optuna, inside the training part of each fold; None trains
            with the settings that are given.
        loggers: where losses are kept besides `metrics.csv`: "tensorboard", "wandb", "mlflow".
        permutations: of the follow-up, with all folds refitted, for a p of models that are quickly fitted
            (`clinical`, `coxnet`); 0 for none.
        say: gets a line for each step; None is silent.

    Raises:
        UsageError: a setting is wrong, or a file is not there.
        TiacfError: the table or the bags are at fault, or something went wrong in training.
    """
    checked = _config(config, models)
    devices = devices or Devices()
    devices.check()
    check_loggers(loggers)
    at_least("--permutations", permutations, 0)
    if permutations and not set(checked.models) & set(CHEAP) and not checked.columns.covariates:
        raise UsageError(
            f"--permutations is for {', '.join(CHEAP)}; name one with --model, or leave it out"
        )
    if tuning is not None:
        check_installed()
    cohort = read_cohort(Path(table), None if bags is None else Path(bags), checked)
    run = TrainingRun(
        Path(output_path),
        cohort,
        checked,
        devices=devices,
        cache=None if cache is None else Path(cache),
        say=say,
        tuning=tuning,
        loggers=loggers,
        permutations=permutations,
    )
    if say is not None:
        for line in run.plan.messages:
            say(f"note: {line}")
    evaluations = run.train()
    bundles = {}
    for model in run.plan.with_bundles:
        place = run.plan.ensemble(model)
        if len(run.plan.folds) == 1:
            place = run.plan.fold_folder(model, run.plan.folds[0]) / BUNDLE
        bundles[model] = place
    return Trained(evaluations, bundles, run.plan.folder / MODELS)


def _config(
    config: TrainingConfig | Mapping[str, Any] | str | Path, models: Sequence[str]
) -> TrainingConfig:
    if isinstance(config, TrainingConfig):
        settings, source = config.model_dump(), "config"
    elif isinstance(config, Mapping):
        settings, source = dict(config), "config"
    else:
        settings, source = read_settings(Path(config)), str(config)
    return make_config(settings | ({"models": tuple(models)} if models else {}), source)
