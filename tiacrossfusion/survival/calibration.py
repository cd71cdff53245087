"""Calibration at a time t: predicted survival against what was observed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tiacrossfusion.survival.kaplan_meier import kaplan_meier
from tiacrossfusion.survival.stratified_cox import stratified_cox


@dataclass(frozen=True)
class CalibrationGroup:
    """Patients with similar predictions.

    Attributes:
        events: how many of them had the event up to t.
        predicted: mean predicted survival at t.
        observed: Kaplan-Meier estimate at t; NaN where nobody is followed that long.
        low: lower end of the 95 % interval of `observed`; NaN where that is unknown, 1 or 0.
        high: upper end.
    """

    patients: int
    events: int
    predicted: float
    observed: float
    low: float
    high: float


def calibration_groups(
    times: np.ndarray,
    events: np.ndarray,
    survival: np.ndarray,
    at: float,
    groups: int,
    entries: np.ndarray | None = None,
) -> list[CalibrationGroup]:
    """Compare predictions with Kaplan-Meier in groups of predicted survival, by rising prediction.

    Intervals are lifelines' (Greenwood's variance on the log-minus-log scale; Kalbfleisch and Prentice,
    The Statistical Analysis of Failure Time Data, 2002).

    Args:
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        survival: (N,) predicted survival at t.
        at: t.
        groups: how many groups of about equal size; equal predictions stay together, so there may be
            fewer.
        entries: (N,) times at which follow-up begins; None is 0.
    """
    entries = np.zeros(len(times)) if entries is None else entries
    inner = np.quantile(survival, np.linspace(0, 1, groups + 1)[1:-1])
    index = np.searchsorted(inner, survival, side="right")
    return [
        _group(times[members], events[members], survival[members], at, entries[members])
        for members in (index == number for number in range(groups))
        if members.any()
    ]


def observed_over_expected(
    times: np.ndarray,
    events: np.ndarray,
    survival: np.ndarray,
    at: float,
    counts: np.ndarray | None = None,
    entries: np.ndarray | None = None,
) -> np.ndarray:
    """Observed over expected share of patients with the event up to t (calibration in the large).

    One less the Kaplan-Meier estimate of all patients, over the mean of one less the predicted survival
    (van Houwelingen, Statistics in Medicine 19, 2000). Above 1 the model is too optimistic. Arguments as
    of `calibration_groups`; `counts` (..., N) is how often each patient counts, None is once.

    Returns:
        (...); NaN where nobody is followed up to t or no event is expected.
    """
    weights = np.ones(len(times)) if counts is None else np.asarray(counts, float)
    curve = kaplan_meier(times, events, np.array([at]), weights, entries)[..., 0]
    known = (weights * (times >= at)).any(axis=-1) | (curve == 0)
    expected = (weights @ (1 - survival)) / weights.sum(axis=-1)
    defined = known & (expected > 0)
    return np.divide(1 - curve, expected, out=np.full(np.shape(curve), np.nan), where=defined)


def expected_events(survival: np.ndarray) -> np.ndarray:
    """Expected events (...) of patients from the predicted survival at the end of their follow-up.

    The cumulative hazard `-log S`: the event count less its sum is a martingale (Crowson, Atkinson and
    Therneau, Statistical Methods in Medical Research 25, 2016, section 2).
    """
    return -np.log(np.clip(survival, 1e-12, 1.0))


def calibration_intercept(
    observed: np.ndarray, expected: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """Calibration intercept (...): logarithm of observed over expected events (Crowson et al., 2016).

    The intercept of a Poisson regression of the events with the expected events as offset. Above 0 the
    model is too optimistic.

    Args:
        observed: (N,) 1 where the event was observed up to a time.
        expected: (N,) expected events of each patient up to that time or the end of follow-up.
        counts: (..., N) how often each patient counts; None is once.
    """
    weights = np.ones(len(observed)) if counts is None else np.asarray(counts, float)
    seen, awaited = np.asarray(weights @ observed), np.asarray(weights @ expected)
    known = (seen > 0) & (awaited > 0)
    ratio = np.divide(seen, awaited, out=np.ones(np.shape(seen)), where=known)
    return np.where(known, np.log(ratio), np.nan)


def calibration_slope(
    times: np.ndarray,
    events: np.ndarray,
    survival: np.ndarray,
    at: float,
    strata: np.ndarray,
    entries: np.ndarray | None = None,
) -> tuple[float, float]:
    """Calibration slope at a time t, with its standard error, by lifelines.

    The coefficient of `log(-log S(t))` in a Cox regression on the follow-up up to t (van Houwelingen,
    Statistics in Medicine 19, 2000; Austin, Harrell and van Klaveren, Statistics in Medicine 39, 2020). 1 is
    right; below 1 the predictions differ too much between patients.

    Args:
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        survival: (N,) predicted survival at t.
        at: t.
        strata: (N,) groups with a baseline hazard each, such as folds.
        entries: (N,) times at which follow-up begins; None is 0.

    Returns:
        NaN where the predictions are all the same, or the regression has no solution.
    """
    predictor = np.log(expected_events(np.clip(survival, None, 1 - 1e-12)))
    frame = pd.DataFrame(
        {
            "time": np.minimum(times, at),
            "event": np.asarray(events, bool) & (times <= at),
            "predictor": predictor,
            "stratum": strata,
        }
    )
    if entries is not None and entries.any():
        frame = frame.assign(entry=entries)[entries < at]
    if not frame["event"].any() or np.ptp(predictor) < 1e-8:
        return float("nan"), float("nan")
    model = stratified_cox(frame)
    if model is None:
        return float("nan"), float("nan")
    error = float(model.standard_errors_["predictor"])
    slope = float(model.params_["predictor"])
    return (slope, error) if error < 100 else (float("nan"), float("nan"))


def _group(
    times: np.ndarray, events: np.ndarray, survival: np.ndarray, at: float, entries: np.ndarray
) -> CalibrationGroup:
    from lifelines import KaplanMeierFitter

    observed = low = high = float("nan")
    failures = int((np.asarray(events, bool) & (times <= at)).sum())
    curve = KaplanMeierFitter().fit(times, events, entry=entries if entries.any() else None)
    estimate = float(curve.predict(at))
    if times.max() >= at or estimate == 0:
        observed = estimate
        if failures and estimate > 0:
            band = curve.confidence_interval_survival_function_
            row = band.iloc[int(band.index.searchsorted(at, side="right")) - 1]
            low, high = float(row.iloc[0]), float(row.iloc[1])
    return CalibrationGroup(len(times), failures, float(survival.mean()), observed, low, high)
