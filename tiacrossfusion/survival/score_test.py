"""Cox's score test of one covariate, and of many that are each added to a model."""

from __future__ import annotations

import numpy as np

from tiacrossfusion.survival.ridge_cox import CoxData, fit_ridge

#: Penalty of the terms of a model that is tested: next to none.
_UNPENALISED = 1e-6


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


def added_scores(
    candidates: np.ndarray,
    beside: np.ndarray,
    times: np.ndarray,
    events: np.ndarray,
    entries: np.ndarray | None = None,
) -> np.ndarray:
    """Score test of each of M covariates, added alone to a Cox model of other terms.

    With e the events less those that the model without the covariate expects, `U = x^T e`, and I the
    information of all terms at that model's coefficients, `z = U / sqrt(I_xx - I_xb I_bb^-1 I_bx)` (Cox and
    Hinkley, Theoretical Statistics, 1974, 9.3).

    Args:
        candidates: (N, M) covariates.
        beside: (N, P) terms of the model, P from 0.
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        entries: (N,) times at which follow-up begins; None is 0.

    Returns:
        z (M,), standard normal without an effect and above 0 for a covariate that raises the hazard; NaN
        where the covariate does not vary, or follows from the terms.
    """
    x = candidates - candidates.mean(axis=0)
    z = beside - beside.mean(axis=0)
    coefficients = np.zeros(0)
    if z.shape[1]:
        penalties = np.full(z.shape[1], _UNPENALISED)
        coefficients = fit_ridge(z, times, events, penalties, entries)
    data = CoxData.of(np.concatenate([x, z], axis=1), times, events, entries)
    gradient, hazards, means = data.moments(np.concatenate([np.zeros(x.shape[1]), coefficients]))
    m = x.shape[1]

    def covariance(a: slice, b: slice) -> np.ndarray:
        whole = (data.x[:, a].T * hazards) @ data.x[:, b]
        return np.asarray(whole - (means[:, a].T * data.count) @ means[:, b])

    own, others = slice(0, m), slice(m, None)
    variance = hazards @ x**2 - data.count @ means[:, own] ** 2
    total = variance.copy()
    if z.shape[1]:
        across = covariance(own, others)
        inverse = np.linalg.pinv(covariance(others, others), hermitian=True)
        variance = variance - np.einsum("ij,jk,ik->i", across, inverse, across)
    with np.errstate(divide="ignore", invalid="ignore"):
        tested = gradient[:m] / np.sqrt(variance)
    return np.where((total > 0) & (variance > 1e-6 * total), tested, np.nan)
