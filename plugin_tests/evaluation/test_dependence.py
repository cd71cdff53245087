"""Intervals and tests under cross-validation: what the widening is, and that the p values hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lifelines.datasets import load_rossi

from tiacrossfusion.evaluation.bootstrap import estimate
from tiacrossfusion.evaluation.dependence import dependence_of
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.survival import cox_score, harrell_c, quantile_bins


def cross_validated(
    patients: int, folds: int, *, seed: int, train_share: float = 1.0, first: int = 0
) -> list[FoldPredictions]:
    """One covariate without any effect, whose sign each model learns from the other folds."""
    random = np.random.default_rng(seed)
    x = random.normal(size=patients)
    times, stop = random.exponential(1.0, patients), random.exponential(1.5, patients)
    events, times = (times <= stop).astype(int), np.minimum(times, stop)
    place, made = random.permutation(patients) % folds, []
    for fold in range(folds):
        test, others = place == fold, np.flatnonzero(place != fold)
        training = others[: round(train_share * len(others))]
        score, information = cox_score(times[training], events[training], x[training])
        risks = x * score / information
        bins = quantile_bins(times[training], events[training], 3, "years")
        curve = np.exp(-np.outer(np.exp(risks[test]), bins.edges[1:]))
        made.append(
            FoldPredictions(
                fold=first + fold,
                patients=tuple(f"P{i}" for i in np.flatnonzero(test)),
                times=times[test],
                events=events[test],
                risks=risks[test],
                survival=curve,
                high=risks[test] > np.median(risks[training]),
                bins=bins,
                training_times=times[training],
                training_events=events[training],
            )
        )
    return made


def test_the_factor_follows_the_design():
    assert dependence_of(cross_validated(100, 5, seed=0)).factor == 2
    assert dependence_of(cross_validated(100, 5, seed=0, train_share=0.8)).factor == 1.8
    single = cross_validated(100, 5, seed=0)[:1]
    assert dependence_of(single).factor == 1
    assert "patients resampled, the model as it is" in dependence_of(single).sentence
    assert "sqrt(1 + f) = 1.41" in dependence_of(cross_validated(100, 5, seed=0)).sentence
    twice = cross_validated(100, 5, seed=0) + cross_validated(100, 5, seed=0, first=5)
    found = dependence_of(twice)
    # 1 + f + 2 f (1 - 1/K) (R - 1) with f = 1, K = 5, R = 2: of half the variance of one division.
    assert (found.factor, found.repeats) == (pytest.approx(3.6), 2)
    assert "tested 2 times" in found.sentence


def test_widening_is_about_the_estimate_and_ends_at_the_limits():
    values = np.array([0.9, *np.linspace(0.8, 0.99, 200)])
    plain, wide = estimate(values), estimate(values, factor=4.0, limits=(0, 1))
    assert (wide.unwidened_low, wide.unwidened_high) == (plain.low, plain.high)
    assert wide.low == pytest.approx(0.9 - 2 * (0.9 - plain.low))
    assert wide.high == 1


def test_the_score_is_that_of_cox():
    rossi = load_rossi()
    random = np.random.default_rng(0)
    times = rossi.week + random.uniform(0, 0.5, len(rossi))  # no ties, for which conventions differ
    score, information = cox_score(times, rossi.arrest, rossi.age)
    x = (rossi.age - rossi.age.mean()).to_numpy()
    at_risk = [x[times >= times[i]] for i in np.flatnonzero(rossi.arrest.to_numpy())]
    observed = x[rossi.arrest.to_numpy() == 1]
    assert score == pytest.approx(sum(o - a.mean() for o, a in zip(observed, at_risk, strict=True)))
    assert information == pytest.approx(sum(a.var() for a in at_risk))


def test_p_values_hold_without_a_signal_where_those_of_independent_folds_do_not():
    found = [evaluate(cross_validated(60, 5, seed=seed), draws=100) for seed in range(80)]
    association = sum(one.pooled.association_p < 0.05 for one in found)
    groups = [one.pooled.risk_groups for one in found]
    corrected = sum(group.log_rank_p < 0.05 for group in groups)
    plain = sum(group.log_rank_p_of_independent_folds < 0.05 for group in groups)
    assert association <= 9  # 4 expected; above 9 has a chance of 1 in 200
    assert corrected <= 9
    assert plain > corrected


def test_the_rank_test_finds_a_signal_and_knows_its_direction():
    made = cross_validated(200, 2, seed=1)
    folds = [replace(fold, risks=-fold.times) for fold in made]
    assert evaluate(folds, draws=100).pooled.association_p < 1e-6
    turned = [replace(fold, risks=fold.times) for fold in made]
    assert evaluate(turned, draws=100).pooled.association_p > 0.999


def test_rounding_does_not_order_patients():
    times, events = np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0])
    assert harrell_c(times, events, np.array([1e-9, 0.0, -1e-9])) == 0.5
    assert harrell_c(times, events, np.array([1e-7, 0.0, -1e-7])) == 1.0
