"""Permutation test of models that are quickly fitted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.networks.registry import CLINICAL, COXNETS
from tiacrossfusion.survival import PairSums, harrell_pairs
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.fit import fit_covariates, network_predictions
from tiacrossfusion.training.fold import fit_fold
from tiacrossfusion.training.patients import patients_of
from tiacrossfusion.training.plan import Plan

#: Models that are fitted in closed form or nearly so.
CHEAP = (CLINICAL, *COXNETS)


def permutation_p(
    plan: Plan,
    model: str,
    bags: CohortBags | None,
    folds: Sequence[FoldPredictions],
    count: int,
    say: Callable[[str], None],
) -> float:
    """Return the p of the pooled C when follow-up is dealt to the patients anew and all folds are refitted.

    Follow-up (time and event together) is permuted over all patients, so that covariates, features and folds
    stay as they are and their association with the outcome is gone; the observed C counts as one more draw
    (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.3).

    Args:
        plan: folds and settings.
        model: one of `CHEAP`.
        bags: features; None for models of covariates.
        folds: predictions of the model for the true follow-up.
        count: of permutations.
        say: gets a line now and then.

    Raises:
        TiacfError: a fold cannot be fitted to permuted follow-up.
    """
    random, observed = np.random.default_rng(plan.config.seed), _pooled_c(folds)
    table = plan.cohort.table
    follow_up = [name for name in ("time", "event", "entry") if name in table.patients]
    above = 0
    for draw in range(1, count + 1):
        patients = table.patients.copy()
        order = random.permutation(len(patients))
        patients[follow_up] = patients[follow_up].iloc[order].to_numpy()
        patients["event"] = patients["event"].astype(int)
        cohort = replace(plan.cohort, table=replace(table, patients=patients))
        above += _pooled_c(_refitted(replace(plan, cohort=cohort), model, bags)) >= observed
        if draw % 50 == 0:
            say(f"{model}: {draw} of {count} permutations")
    return (1 + above) / (1 + count)


def _refitted(plan: Plan, model: str, bags: CohortBags | None) -> list[FoldPredictions]:
    if model == CLINICAL or bags is None:
        return [fit_covariates(plan, fold, lambda _: None)[0] for fold in plan.folds]
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for fold in plan.folds:
            training, validation = (
                patients_of(plan.cohort.table, names) for names in (fold.train, fold.validation)
            )
            seed = plan.config.seed * 1000 + fold.number
            fitted = fit_fold(
                model, plan.config, bags, training, validation, Path(folder), seed=seed
            )
            made.append(network_predictions(plan, fold, fitted, bags)[0])
    return made


def _pooled_c(folds: Sequence[FoldPredictions]) -> float:
    sums: list[PairSums] = [
        harrell_pairs(fold.times, fold.events, fold.risks, entries=fold.entered) for fold in folds
    ]
    return float(sum(sums[1:], start=sums[0]).ratio)
