"""Cox's score test of one covariate."""

from __future__ import annotations

import numpy as np


def cox_score(
    times: np.ndarray,
    events: np.ndarray,
    covariate: np.ndarray,
    entries: np.ndarray | None = None,
) -> tuple[float, float]:
    """Score and information of a Cox model at a coefficient of 0 (Cox, J R Stat Soc B 34, 1972, 187-220).

    At each event, the patient's covariate less its mean over the patients at risk, and its variance over
    them; events at one time share the patients at risk (Breslow).

    Args:
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        covariate: (N,) of each patient; with 0 and 1 this is the log-rank test.
        entries: (N,) times at which follow-up begins, before which a patient is not at risk; None is 0.

    Returns:
        Their sums over the events. The score over the root of the information is standard normal if the
        covariate has no effect.
    """
    ends, x = np.asarray(times, float), np.asarray(covariate, float)
    x = x - x.mean() if len(x) else x
    at = ends[np.asarray(events, bool)]
    sums = _sums_from(ends, x, at)
    if entries is not None:  # who enters at a time is at risk after it
        sums = sums - _sums_from(np.asarray(entries, float), x, at)
    at_risk, first, second = sums
    mean = first / at_risk
    variance = np.maximum(second / at_risk - mean**2, 0)
    return float((x[np.asarray(events, bool)] - mean).sum()), float(variance.sum())


def _sums_from(places: np.ndarray, x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Number, sum and sum of squares (3, T) of values x (N,) whose place (N,) is at or after times (T,)."""
    order = np.argsort(places, kind="stable")
    values = np.stack([np.ones_like(x), x, x**2])[:, order]
    beyond = np.concatenate([np.cumsum(values[:, ::-1], axis=1)[:, ::-1], np.zeros((3, 1))], axis=1)
    return beyond[:, np.searchsorted(places[order], at, side="left")]
