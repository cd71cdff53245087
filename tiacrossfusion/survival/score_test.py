"""Cox's score test of one covariate."""

from __future__ import annotations

import numpy as np


def cox_score(times: np.ndarray, events: np.ndarray, covariate: np.ndarray) -> tuple[float, float]:
    """Score and information of a Cox model at a coefficient of 0 (Cox, J R Stat Soc B 34, 1972, 187-220).

    At each event, the patient's covariate less its mean over the patients at risk, and its variance over
    them; events at one time share the patients at risk (Breslow).

    Args:
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        covariate: (N,) of each patient.

    Returns:
        Their sums over the events. The score over the root of the information is standard normal if the
        covariate has no effect.
    """
    order = np.argsort(-np.asarray(times, float), kind="stable")  # the last first
    ends, x = np.asarray(times, float)[order], np.asarray(covariate, float)[order]
    x = x - x.mean() if len(x) else x
    last = np.searchsorted(-ends, -ends, side="right") - 1  # of those at risk at each time
    at_risk = np.arange(1, len(x) + 1)[last]
    mean = np.cumsum(x)[last] / at_risk
    variance = np.cumsum(x**2)[last] / at_risk - mean**2
    observed = np.asarray(events, bool)[order]
    return float((x - mean)[observed].sum()), float(np.maximum(variance, 0)[observed].sum())
