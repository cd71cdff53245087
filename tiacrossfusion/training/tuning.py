"""Choose settings by Optuna, inside the training part of each fold; test patients are not touched.

For each fold of a training, a study of its own: a trial draws settings from the space, trains the network on
inner folds of the patients outside the test part, and is worth the C-index of the inner test patients (pairs
within an inner fold). The fold is then trained with the settings of the best trial, so that its test patients
judge the whole procedure, as in nested cross-validation (Varma and Simon, BMC Bioinformatics 7:91, 2006).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.cohorts.folds import Fold, check_folds
from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.survival import PairSums, harrell_pairs, risk_of, survival_curve
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.config import TrainingConfig
from tiacrossfusion.training.devices import Devices
from tiacrossfusion.training.fold import fit_fold
from tiacrossfusion.training.patients import patient_hazards, patients_of, times_and_events
from tiacrossfusion.training.plan import Plan, divide
from tiacrossfusion.training.space import Dimension, Tuning, settings_of

if TYPE_CHECKING:
    import optuna

#: Folder of the trials within that of the run; in it, for each fold, the study and its trials as a table.
FOLDER, STUDY, TRIALS = "tuning", "study.log", "trials.csv"

Say = Callable[[str], None]


def check_installed() -> None:
    """Refuse to tune without Optuna.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec("optuna") is None:
        raise UsageError("tuning needs Optuna; install it with pip install tiacrossfusion[tune]")


def tuned_settings(
    plan: Plan, tuning: Tuning, bags: CohortBags, *, devices: Devices, say: Say
) -> dict[int, TrainingConfig]:
    """Return the settings of each fold, by its number, after all trials that are not made yet.

    Raises:
        TiacfError: no trial of a fold could be trained, or the record of trials cannot be read or written.
    """
    model = plan.networks[0]
    fits = tuning.trials * tuning.inner_folds
    say(f"{model}: up to {fits} trainings for each of {len(plan.folds)} folds to choose settings")
    return {
        fold.number: _best_of_fold(plan, fold, tuning, bags, devices, say) for fold in plan.folds
    }


def _best_of_fold(
    plan: Plan, fold: Fold, tuning: Tuning, bags: CohortBags, devices: Devices, say: Say
) -> TrainingConfig:
    import optuna

    folder = plan.folder / FOLDER / f"fold-{fold.number}"
    model, seed = plan.networks[0], plan.config.seed * 1000 + fold.number
    inner = _inner_folds(plan, fold, tuning, seed)
    with _quiet(), _reading(folder):
        study = _open_study(folder / STUDY)
    if not study.trials:
        study.enqueue_trial(_recipe_values(plan.config, model, tuning.space))
    while len(made := _made(study)) < tuning.trials:
        # As many trials made, the same seed: a study that goes on draws what it would have drawn.
        study.sampler = optuna.samplers.TPESampler(
            seed=seed * 10_007 + len(made), constant_liar=False
        )
        with _quiet():
            trial = study.ask()
            values = {name: _drawn(trial, name, space) for name, space in tuning.space.items()}
        config = settings_of(plan.config, values)
        try:
            value = _inner_c(plan, inner, config, bags, folder / "trial", devices, seed)
        except TiacfError as error:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            say(f"{model}, fold {fold.number}: trial failed ({one_line(error)})")
            last: TiacfError | None = error
        else:
            study.tell(trial, value)
            shown = ", ".join(f"{name} {_plain(drawn)}" for name, drawn in values.items())
            place = f"trial {len(made) + 1} of {tuning.trials}"
            say(f"{model}, fold {fold.number}, {place}: inner C {value:.3f} with {shown}")
            last = None
        write_text(folder / TRIALS, _table(study))
        if last is not None and len(_made(study)) == tuning.trials and not _whole(study):
            raise TiacfError(
                f"{folder}: none of {tuning.trials} trials could be trained, the last as {last}"
            ) from last
    best = study.best_trial
    shown = ", ".join(f"{name} {_plain(value)}" for name, value in best.params.items())
    say(f"{model}, fold {fold.number}: best inner C {best.value:.3f} with {shown}")
    return settings_of(plan.config, best.params)


def _inner_folds(plan: Plan, fold: Fold, tuning: Tuning, seed: int) -> list[Fold]:
    """Divide the patients outside the test part."""
    table = plan.cohort.table.of(fold.outside_test)
    share = plan.config.protocol.validation_share
    folds, _ = divide(table, tuning.inner_folds, share, seed=seed)
    try:
        check_folds(folds, table, plan.config.network.num_bins)
    except TiacfError as error:
        raise TiacfError(
            f"the inner folds of fold {fold.number}: {error}; or take fewer --inner-folds"
        ) from error
    return folds


def _inner_c(
    plan: Plan,
    folds: Sequence[Fold],
    config: TrainingConfig,
    bags: CohortBags,
    folder: Path,
    devices: Devices,
    seed: int,
) -> float:
    """C-index of the inner test patients, pairs within an inner fold."""
    sums: list[PairSums] = []
    for fold in folds:
        shutil.rmtree(folder, ignore_errors=True)  # of a trial that was killed
        training, validation, test = (
            patients_of(plan.cohort.table, names)
            for names in (fold.train, fold.validation, fold.test)
        )
        fitted = fit_fold(
            plan.networks[0],
            config,
            bags,
            training,
            validation,
            folder,
            seed=seed,
            devices=devices,
            show_progress=False,
        )
        risks = risk_of(survival_curve(patient_hazards(fitted.network, bags, test)))
        sums.append(harrell_pairs(*times_and_events(test), risks))
    shutil.rmtree(folder, ignore_errors=True)
    return float(sum(sums[1:], start=sums[0]).ratio)


def _open_study(path: Path) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    path.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(
        study_name="settings", storage=storage, direction="maximize", load_if_exists=True
    )


def _made(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended, whether they could be trained or not; others were killed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _whole(study: optuna.Study) -> bool:
    return any(trial.value is not None for trial in _made(study))


def _drawn(trial: optuna.Trial, name: str, space: Dimension) -> Any:
    if space.choices is not None:
        return trial.suggest_categorical(name, list(space.choices))
    low, high = space.low, space.high
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=space.log)
    return trial.suggest_float(name, float(low or 0), float(high or 0), log=space.log)


def _recipe_values(
    config: TrainingConfig, model: str, space: Mapping[str, Dimension]
) -> dict[str, Any]:
    """Settings that the network would be trained with, where the space has them: the first trial."""
    recipe = config.recipe_of(model)
    given = {"attention_dropout": config.network.attention_dropout, **vars(recipe)}
    return {name: given[name] for name, place in space.items() if place.holds(given[name])}


def _table(study: optuna.Study) -> str:
    """Return the trials that ended as CSV."""
    frame = study.trials_dataframe(attrs=("value", "params", "state"))
    frame = frame[frame["state"] != "RUNNING"].reset_index(drop=True)
    frame.insert(0, "trial", np.arange(1, len(frame) + 1))
    return frame.rename(columns={"value": "inner_c"}).to_csv(index=False, lineterminator="\n")


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Optuna's own lines and its notes on what is experimental."""
    import warnings

    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn errors about the record of trials into one line."""
    try:
        yield
    except OSError as error:
        raise TiacfError(
            f"{folder}: cannot be read or written ({error.strerror or error}); check its rights"
        ) from error
    except Exception as error:  # Optuna raises what parsing its lines raises
        raise TiacfError(
            f"{folder / STUDY}: damaged ({one_line(error)}); remove {folder} to make the trials again"
        ) from error
