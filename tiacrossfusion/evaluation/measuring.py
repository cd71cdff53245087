"""Figures of a model from its out-of-fold predictions.

Risks of two folds come from two models and are not comparable: pooled measures of ranking add up the
pairs within the folds. Measures of a patient alone (Brier score, calibration, risk groups) pool the
patients, each with the curve, the cut-off and the censoring weights of the patient's fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiacrossfusion.evaluation.bootstrap import bootstrap_counts, estimate
from tiacrossfusion.evaluation.dependence import INDEPENDENT, Dependence, dependence_of
from tiacrossfusion.evaluation.evaluation_notes import OPTIMISTIC, evaluation_notes
from tiacrossfusion.evaluation.horizon import Horizon
from tiacrossfusion.evaluation.predictions import FoldPredictions, check_predictions
from tiacrossfusion.evaluation.scores import (
    CalibrationRow,
    CalibrationTable,
    Estimate,
    Evaluation,
    FoldScores,
    RiskGroups,
    Scores,
    TimeEstimate,
)
from tiacrossfusion.survival import (
    PairSums,
    auc_pairs,
    calibration_groups,
    calibration_intercept,
    calibration_slope,
    cox_score,
    expected_events,
    harrell_pairs,
    integrated_brier_parts,
    interpolation,
    kaplan_meier,
    observed_over_expected,
    survival_at,
    uno_pairs,
)

#: Steps of the integral of the Brier score.
_BRIER_STEPS = 100

#: Points of AUC over time.
_AUC_POINTS = 20

#: Calibration groups hold about 20 patients or more and are no more than 5; fewer than 4 are remarked on.
_GROUP_SIZE, _MOST_GROUPS, _FEW_GROUPS = 20, 5, 4


@dataclass(frozen=True, eq=False)
class Measured:
    """What adds up over folds; the first axis is 1 + D bootstrap draws throughout."""

    harrell: PairSums  # of all pairs
    uno: PairSums  # of all pairs up to the horizon
    auc: tuple[PairSums, ...]  # at each time
    brier: np.ndarray  # (1 + D,) sum over patients
    brier_without_model: np.ndarray  # (1 + D,) sum over patients
    times: np.ndarray  # (N,) follow-up
    events: np.ndarray  # (N,)
    entries: np.ndarray  # (N,) begin of follow-up
    high: np.ndarray  # (N,) above the cut-off
    survival: np.ndarray  # (N, T) predicted at the times of the calibration
    expected: np.ndarray  # (N, T) expected events up to the times, or the end of follow-up
    fold: np.ndarray  # (N,) number of the fold
    counts: np.ndarray  # (1 + D, N)
    score: np.ndarray  # (2,) Cox's score of the rank within the fold, and its information

    def __add__(self, other: Measured) -> Measured:
        """Pool two folds."""
        return Measured(
            self.harrell + other.harrell,
            self.uno + other.uno,
            tuple(one + two for one, two in zip(self.auc, other.auc, strict=True)),
            self.brier + other.brier,
            self.brier_without_model + other.brier_without_model,
            np.concatenate([self.times, other.times]),
            np.concatenate([self.events, other.events]),
            np.concatenate([self.entries, other.entries]),
            np.concatenate([self.high, other.high]),
            np.concatenate([self.survival, other.survival]),
            np.concatenate([self.expected, other.expected]),
            np.concatenate([self.fold, other.fold]),
            np.concatenate([self.counts, other.counts], axis=1),
            self.score + other.score,
        )


def evaluate(
    folds: Sequence[FoldPredictions],
    *,
    draws: int = 1000,
    seed: int = 0,
    optimistic: bool = False,
    why: str = OPTIMISTIC,
) -> Evaluation:
    """Compute all figures of a model, per fold and pooled. docs/metrics.md describes each.

    `optimistic`: the patients were also used to train or choose the model; the result then says so, and
    `why`.

    Raises:
        TiacfError: the folds do not go together, or there are too few draws.
    """
    check_predictions(folds)
    supported = Horizon.of(folds)
    horizon, edges, times = supported.end, supported.edges, supported.times
    counts = bootstrap_counts([len(fold.patients) for fold in folds], draws, seed)
    measured = [
        _measure(fold, drawn, horizon, times) for fold, drawn in zip(folds, counts, strict=True)
    ]
    pooled = sum(measured[1:], start=measured[0])
    scores = [
        FoldScores(
            fold=fold.fold, **_scores(part, times, horizon, INDEPENDENT, slopes=len(folds) == 1)
        )
        for fold, part in zip(folds, measured, strict=True)
    ]
    c = np.array([score.harrell_c.value for score in scores])
    dependence = dependence_of(folds)
    of_all = Scores(**_scores(pooled, times, horizon, dependence))
    return Evaluation(
        time_unit=folds[0].bins.unit,
        times=tuple(times),
        horizon=horizon,
        folds=tuple(scores),
        pooled=of_all,
        harrell_c_mean=float(c.mean()),
        harrell_c_sd=float(c.std(ddof=1)) if len(c) > 1 else np.nan,
        auc_over_time=_auc_over_time(folds, counts, horizon, dependence.factor),
        interval=dependence.sentence,
        variance_factor=dependence.factor,
        optimistic=optimistic,
        draws=draws,
        seed=seed,
        notes=evaluation_notes(
            folds, edges, times, horizon, scores, of_all, why if optimistic else ""
        ),
    )


def pooled_sums(
    folds: Sequence[FoldPredictions],
    counts: Sequence[np.ndarray],
    horizon: float,
    times: np.ndarray,
) -> Measured:
    """Return the sums of all folds together, for bootstrap counts (1 + D, N) of each fold."""
    parts = [
        _measure(fold, drawn, horizon, times) for fold, drawn in zip(folds, counts, strict=True)
    ]
    return sum(parts[1:], start=parts[0])


def _measure(
    fold: FoldPredictions, counts: np.ndarray, horizon: float, times: np.ndarray
) -> Measured:
    """Compute what adds up over folds."""
    censoring = fold.censoring
    # Weights for censoring alone do not make up for patients who died before they could enter.
    weighted = np.isfinite(horizon) and not fold.enters_late
    unknown = np.full(len(counts), np.nan)
    if weighted:
        uno = uno_pairs(fold.times, fold.events, fold.risks, censoring, horizon, counts)
        grid = np.linspace(0, horizon, _BRIER_STEPS + 1)
        without = kaplan_meier(fold.training_times, fold.training_events, grid)
        brier, brier_without_model = (
            counts @ integrated_brier_parts(fold.times, fold.events, curves, grid, censoring)
            for curves in (
                survival_at(fold.survival, fold.bins, grid),
                np.tile(without, (len(fold.times), 1)),
            )
        )
    else:
        uno, brier, brier_without_model = PairSums(unknown, unknown), unknown, unknown
    return Measured(
        harrell_pairs(fold.times, fold.events, fold.risks, counts, fold.entered),
        uno,
        tuple(
            PairSums(unknown, unknown) if fold.enters_late else _auc(fold, time, counts)
            for time in times
        ),
        brier,
        brier_without_model,
        fold.times,
        fold.events,
        fold.entered,
        fold.high,
        survival_at(fold.survival, fold.bins, times),
        np.array([_expected(fold, time) for time in times]).reshape(len(times), len(fold.times)).T,
        np.full(len(fold.times), fold.fold),
        counts,
        np.array(cox_score(fold.times, fold.events, _ranks(fold.risks), fold.entered)),
    )


def _expected(fold: FoldPredictions, time: float) -> np.ndarray:
    """Expected events (N,) from entry up to a time, or to the end of follow-up."""
    curves = np.concatenate([np.ones_like(fold.survival[:, :1]), fold.survival], axis=1)

    def up_to(times: np.ndarray) -> np.ndarray:
        weights = interpolation(fold.bins, np.minimum(times, time))  # (N, K + 1)
        return expected_events((weights * curves).sum(axis=1))

    return up_to(fold.times) - up_to(fold.entered)


def _auc(fold: FoldPredictions, time: float, counts: np.ndarray) -> PairSums:
    return auc_pairs(fold.times, fold.events, fold.risks, time, fold.censoring, counts)


def _ranks(risks: np.ndarray) -> np.ndarray:
    """Ranks (N,) of risks within a fold, from above -1/2 to below 1/2; ties have their mean rank."""
    from scipy.stats import rankdata

    return (rankdata(np.round(risks, 8)) - 0.5) / len(risks) - 0.5


def _association_p(score: np.ndarray, factor: float) -> float:
    """One-sided p of the summed scores of the folds; NaN without any information."""
    from scipy.stats import norm

    total, information = score
    return (
        float(norm.sf(total / np.sqrt(factor * information))) if information > 0 else float("nan")
    )


def _scores(
    measured: Measured,
    times: np.ndarray,
    horizon: float,
    dependence: Dependence,
    *,
    slopes: bool = True,
) -> dict[str, object]:
    """Turn sums into the fields of `Scores`; `slopes` of the calibration take most of the time."""
    factor, repeats = dependence.factor, dependence.repeats
    patients, events = len(measured.times), int(measured.events.sum())
    no_pair = f"no pair of patients can be compared ({events} events among {patients} patients)"
    no_horizon = "the training patients' censoring supports no time"
    if measured.entries.any():
        no_horizon = "not computed, as follow-up begins after 0 for some patients"
    before = (
        f"no pair of patients can be compared before {horizon:.3g}"
        if np.isfinite(horizon) and not measured.entries.any()
        else no_horizon
    )
    return {
        "patients": patients,
        "events": events,
        "harrell_c": estimate(measured.harrell.ratio, no_pair, factor=factor, limits=(0, 1)),
        "association_p": _association_p(measured.score, factor),
        "uno_c": estimate(measured.uno.ratio, before, factor=factor, limits=(0, 1)),
        "auc": tuple(
            _time_estimate(time, pairs, factor)
            for time, pairs in zip(times, measured.auc, strict=True)
        ),
        "brier": estimate(measured.brier / patients, no_horizon, factor=repeats, limits=(0, 1)),
        "brier_without_model": estimate(
            measured.brier_without_model / patients, no_horizon, factor=repeats, limits=(0, 1)
        ),
        "calibration": tuple(
            _calibration(measured, index, time, dependence, slopes=slopes)
            for index, time in enumerate(times)
        ),
        "risk_groups": _risk_groups(measured, factor),
    }


def _time_estimate(time: float, pairs: PairSums, factor: float) -> TimeEstimate:
    undefined = "no event up to this time, or nobody followed beyond it"
    found = estimate(pairs.ratio, undefined, factor=factor, limits=(0, 1))
    return TimeEstimate(time=time, **found.model_dump())


def _auc_over_time(
    folds: Sequence[FoldPredictions], counts: Sequence[np.ndarray], horizon: float, factor: float
) -> tuple[TimeEstimate, ...]:
    """AUC at evenly spaced times, from the first tenth of the events to the horizon."""
    ends = np.concatenate([fold.times[fold.events == 1] for fold in folds])
    if any(fold.enters_late for fold in folds):
        return ()
    if len(ends) == 0 or not np.quantile(ends, 0.1) < horizon:
        return ()
    found = []
    for time in np.linspace(np.quantile(ends, 0.1), horizon, _AUC_POINTS):
        parts = [_auc(fold, time, drawn) for fold, drawn in zip(folds, counts, strict=True)]
        found.append(_time_estimate(time, sum(parts[1:], start=parts[0]), factor))
    return tuple(found)


def _calibration(
    measured: Measured, index: int, time: float, dependence: Dependence, *, slopes: bool
) -> CalibrationTable:
    survival, factor = measured.survival[:, index], dependence.repeats
    groups = min(_MOST_GROUPS, max(1, len(survival) // _GROUP_SIZE))
    rows = []
    entries = measured.entries
    for group in calibration_groups(
        measured.times, measured.events, survival, time, groups, entries
    ):
        note = ""
        if not np.isfinite(group.observed):
            note = "nobody of the group is followed up to this time"
        elif not np.isfinite(group.low):
            note = f"no interval at an observed survival of {group.observed:.0f}"
        rows.append(CalibrationRow(**vars(group), note=note))
    ratio = observed_over_expected(
        measured.times, measured.events, survival, time, measured.counts, entries
    )
    undefined = "nobody is followed up to this time, or no event is predicted"
    whole = estimate(ratio, undefined, factor=factor, limits=(0, np.inf))
    observed = (measured.events == 1) & (measured.times <= time)
    intercept = calibration_intercept(observed, measured.expected[:, index], measured.counts)
    return CalibrationTable(
        time=time,
        observed_over_expected=whole,
        slope=_slope(measured, survival, time, dependence) if slopes else None,
        intercept=estimate(intercept, "no event up to this time", factor=factor),
        rows=tuple(rows),
        note=(
            f"{len(rows)} groups only: {len(survival)} patients, of whom a group holds {_GROUP_SIZE} or "
            "more, and equal predictions stay together"
            if len(rows) < _FEW_GROUPS
            else ""
        ),
    )


def _slope(
    measured: Measured, survival: np.ndarray, time: float, dependence: Dependence
) -> Estimate:
    """Calibration slope with its Wald interval."""
    slope, error = calibration_slope(
        measured.times, measured.events, survival, time, measured.fold, measured.entries
    )
    narrow, wide = 1.96 * error, 1.96 * error * np.sqrt(dependence.factor)
    return Estimate(
        value=slope,
        low=slope - wide,
        high=slope + wide,
        unwidened_low=slope - narrow,
        unwidened_high=slope + narrow,
        note="" if np.isfinite(slope) else "too few events, or predictions that are all the same",
    )


def _risk_groups(measured: Measured, factor: float) -> RiskGroups:
    """Count the groups and test them (log-rank; Mantel, Cancer Chemotherapy Reports 50, 1966)."""
    from lifelines.statistics import logrank_test
    from scipy.stats import chi2

    times, entries = measured.times, measured.entries
    high, events = measured.high.astype(bool), measured.events
    p, independent, note = float("nan"), float("nan"), ""
    if not high.any() or high.all():
        note = f"all patients are in the {'high' if high.any() else 'low'} risk group"
    elif not events.any():
        note = "no events"
    else:
        if entries.any():  # lifelines' test takes no entry
            score, information = cox_score(times, events, high, entries)
            statistic = score**2 / information if information > 0 else np.nan
        else:
            test = logrank_test(times[high], times[~high], events[high], events[~high])
            statistic = test.test_statistic
        p = float(chi2.sf(statistic / factor, 1))
        independent = float(chi2.sf(statistic, 1))
        note = "" if np.isfinite(p) else "the groups are never at risk at the same time"
    return RiskGroups(
        low_patients=int((~high).sum()),
        low_events=int(events[~high].sum()),
        high_patients=int(high.sum()),
        high_events=int(events[high].sum()),
        log_rank_p=p,
        log_rank_p_of_independent_folds=independent,
        note=note,
    )
