"""Fit a model on the folds of a training that are not finished, and predict their test patients."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.cohorts.folds import Fold
from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.evaluation.prediction_files import TABLE as PREDICTIONS
from tiacrossfusion.evaluation.prediction_files import read_predictions, write_predictions
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.report import STAGING
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.registry import CLINICAL, FUSIONS
from tiacrossfusion.survival import TimeBins, quantile_bins, risk_of, survival_curve
from tiacrossfusion.survival.clinical import ClinicalCox
from tiacrossfusion.survival.dependence_on_variables import dependence_on_variables
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.bundles import save_fold_bundle
from tiacrossfusion.training.devices import Devices
from tiacrossfusion.training.fold import BEST, LAST, METRICS, FittedFold, fit_fold, wait_for_others
from tiacrossfusion.training.fusion import fit_fusion
from tiacrossfusion.training.patients import patient_hazards, patients_of
from tiacrossfusion.training.plan import BUNDLE, Plan
from tiacrossfusion.training.variants import is_network

#: How the log-hazard of a fold depends on each variable of the record.
DEPENDENCE = "partial_dependence.csv"

Say = Callable[[str], None]


def fit_model(
    plan: Plan,
    model: str,
    bags: CohortBags | None,
    *,
    devices: Devices,
    loggers: Sequence[str] = (),
    leader: bool,
    say: Say,
    show_progress: bool,
) -> None:
    """Fit a model on the folds that are not finished; only the `leader` among the processes writes.

    The predictions of a fold are written last: where they exist, the fold is finished.

    Raises:
        TiacfError: a finished fold is damaged, or something went wrong.
    """
    if leader:
        _sweep(plan, model)
    for number, fold in enumerate(plan.folds, 1):
        place = plan.fold_folder(model, fold)
        label = f"{model}, fold {fold.number} ({number} of {len(plan.folds)})"
        if is_finished(place):
            _check_finished(place, model)
            say(f"{label}: finished before")
            continue
        say(
            f"{label}: {len(fold.train)} patients to train, "
            f"{len(fold.validation)} to stop by, {len(fold.test)} to test"
        )
        if bags is not None and model != CLINICAL:
            if is_network(model):
                for line in _about_steps(plan, model, fold, devices):
                    say(f"{label}: {line}")
            _fit_network(
                plan,
                model,
                fold,
                bags,
                devices,
                loggers,
                leader,
                show_progress,
                partial(_say_of, say, label),
            )
        elif leader:
            predictions, dependence = fit_covariates(plan, fold, say)
            write_text(place / DEPENDENCE, dependence.to_csv(index=False, lineterminator="\n"))
            write_predictions(place, [predictions])


def _say_of(say: Say, label: str, line: str) -> None:
    say(f"{label}: {line}")


def _about_steps(plan: Plan, model: str, fold: Fold, devices: Devices) -> Iterator[str]:
    """Yield what to say about the number of steps of the optimiser in a fold."""
    own = plan.config_of(fold).recipe_of(model)
    recipe = plan.config_of(fold).recipe_of(model, len(fold.train), devices.count())
    steps = math.ceil(len(fold.train) / (devices.count() * recipe.patients_per_step))
    if recipe.epochs > own.epochs:
        yield f"{recipe.epochs} epochs instead of {own.epochs}, since an epoch has only {steps} steps"
    if recipe.epochs * steps < recipe.least_steps:
        yield (
            f"{recipe.epochs} epochs of {steps} steps make {recipe.epochs * steps} steps of the optimiser, "
            f"and {model} needs about {recipe.least_steps}; give more --epochs, or leave them out"
        )


def is_finished(place: Path) -> bool:
    """Return whether a fold is finished, that is, whether its predictions exist."""
    return (place / PREDICTIONS).is_file()


@contextmanager
def or_train_again(place: Path) -> Iterator[None]:
    """Add a remedy to errors about the files of a fold, which the options did not cause."""
    try:
        yield
    except TiacfError as error:
        raise TiacfError(f"{error}; or remove {place} to have the fold trained again") from error


def read_metrics(path: Path) -> pd.DataFrame:
    """Read the figures of the epochs of a fold.

    Raises:
        TiacfError: they are missing or damaged.
    """
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise TiacfError(
            f"{path}: cannot be read ({one_line(error)}); take the file as training wrote it"
        ) from error


def _check_finished(place: Path, model: str) -> None:
    """Refuse a fold that lost a file, or of which one was damaged, after it had been finished."""
    with or_train_again(place):
        read_predictions(place)
        if model != CLINICAL:
            load_bundle(place / BUNDLE)
        if is_network(model):
            read_metrics(place / METRICS)


def _fit_network(
    plan: Plan,
    model: str,
    fold: Fold,
    bags: CohortBags,
    devices: Devices,
    loggers: Sequence[str],
    leader: bool,
    show_progress: bool,
    say: Say,
) -> None:
    place, cohort = plan.fold_folder(model, fold), plan.cohort
    training, validation = (
        patients_of(cohort.table, names) for names in (fold.train, fold.validation)
    )
    if model in FUSIONS:
        fitted, dependence = fit_fusion(plan, model, fold, bags, devices=devices, say=say)
        if leader:
            write_text(place / DEPENDENCE, dependence.to_csv(index=False, lineterminator="\n"))
    else:
        fitted = fit_fold(
            model,
            plan.config_of(fold),
            bags,
            training,
            validation,
            place,
            seed=plan.config.seed * 1000 + fold.number,
            devices=devices,
            loggers=loggers,
            show_progress=show_progress,
            say=say,
        )
    if leader:
        predictions, risks = network_predictions(plan, fold, fitted, bags)
        save_fold_bundle(place / BUNDLE, model, cohort, bags, fold, fitted, risks, predictions)
        # An ensemble in place was made with an earlier training of this fold.
        shutil.rmtree(plan.ensemble(model), ignore_errors=True)
        write_predictions(place, [predictions])  # last: the fold is finished
        _sweep(plan, model)
    wait_for_others()


def network_predictions(
    plan: Plan, fold: Fold, fitted: FittedFold, bags: CohortBags
) -> tuple[FoldPredictions, np.ndarray]:
    """Return a network's predictions for the test patients, and its risks of the training patients (N,)."""
    # Nothing stops the fit of a record, which learns from the validation patients, too.
    fused = fitted.architecture.record is not None
    fitted_on = fold.outside_test if fused else fold.train
    on_train, on_test = (
        survival_curve(patient_hazards(fitted.network, bags, patients_of(plan.cohort.table, names)))
        for names in (fitted_on, fold.test)
    )
    risks = risk_of(on_train)
    made = _predictions(plan, fold, risk_of(on_test), on_test, risks, fitted.bins, fitted_on)
    return made, risks


def fit_covariates(plan: Plan, fold: Fold, say: Say) -> tuple[FoldPredictions, pd.DataFrame]:
    """Fit Cox regression on the covariates of a fold.

    Returns:
        Predictions for its test patients, and how the log-hazard depends on each variable.
    """
    patients, config = plan.cohort.table.patients, plan.config
    # Nothing stops this fit, so that the validation patients are free to be learnt from.
    fitted_on = fold.outside_test
    training, test = patients.loc[list(fitted_on)], patients.loc[list(fold.test)]
    bins = quantile_bins(
        training.time.to_numpy(float),
        training.event.to_numpy(int),
        config.network.num_bins,
        config.time_unit,
    )
    fitted = ClinicalCox(plan.record).fit(training, seed=config.seed * 1000 + fold.number)
    risks, survival = fitted.risk(test), fitted.survival(test, bins)
    for line in dict.fromkeys(fitted.messages):
        say(f"{CLINICAL}, fold {fold.number}: {line}")
    assert plan.record is not None  # noqa: S101 - the model needs covariates
    dependence = dependence_on_variables(
        plan.record,
        plan.record.codes(training)[0],
        fitted.log_hazard,
        training.time.to_numpy(float),
        training.event.to_numpy(int),
    )
    made = _predictions(plan, fold, risks, survival, fitted.risk(training), bins, fitted_on)
    return made, dependence


def _predictions(
    plan: Plan,
    fold: Fold,
    risks: np.ndarray,
    survival: np.ndarray,
    train_risks: np.ndarray,
    bins: TimeBins,
    fitted_on: Sequence[str],
) -> FoldPredictions:
    """Return predictions; time bins, cut-off and censoring are those of the patients `fitted_on`."""
    patients = plan.cohort.table.patients
    training, test = patients.loc[list(fitted_on)], patients.loc[list(fold.test)]
    return FoldPredictions(
        fold=fold.number,
        patients=tuple(fold.test),
        times=test.time.to_numpy(float),
        events=test.event.to_numpy(int),
        risks=risks,
        survival=survival,
        high=risks > np.median(train_risks),
        bins=bins,
        training_times=training.time.to_numpy(float),
        training_events=training.event.to_numpy(int),
        entries=test["entry"].to_numpy(float) if "entry" in test else None,
    )


def _sweep(plan: Plan, model: str) -> None:
    """Remove checkpoints of finished folds, and what a killed run was about to write."""
    folder = plan.model_folder(model)
    for part in (*plan.folder.glob(".*.part"), *folder.rglob(".*.part")):
        part.unlink(missing_ok=True)
    for staging in folder.glob(f"{STAGING}*"):
        shutil.rmtree(staging, ignore_errors=True)
    for fold in plan.folds:
        place = plan.fold_folder(model, fold)
        if is_finished(place):
            for name in (LAST, BEST):
                (place / name).unlink(missing_ok=True)
