"""From the log-hazards of a Cox model to hazards in time bins."""

from __future__ import annotations

import numpy as np

from tiacrossfusion.survival.time_bins import TimeBins


def breslow_increments(
    log_hazards: np.ndarray,
    times: np.ndarray,
    events: np.ndarray,
    bins: TimeBins,
    entries: np.ndarray | None = None,
) -> np.ndarray:
    """Growth of the baseline cumulative hazard in each time bin, (K,), above 0.

    Breslow's estimator: at each time of an event, `dH = d / sum_{at risk} exp(eta)`, with d the number
    of events at that time (discussion of Cox, "Regression Models and Life-Tables", J. R. Stat. Soc. B 34
    (1972), 216-217). A patient's hazard in bin k is then `1 - exp(-dH_k exp(eta))`.

    Args:
        log_hazards: (N,) eta of the training patients.
        times: (N,) follow-up.
        events: (N,) 1 observed, 0 censored.
        bins: the K bins.
        entries: (N,) times at which follow-up begins; None is 0.
    """
    event_times, counts = np.unique(times[events == 1], return_counts=True)
    at_risk = times[None, :] >= event_times[:, None]  # (T, N)
    if entries is not None:
        at_risk &= entries[None, :] < event_times[:, None]
    steps = counts / (at_risk * np.exp(log_hazards)[None, :]).sum(axis=1)  # (T,)
    increments = np.bincount(bins.index(event_times), weights=steps, minlength=bins.num_bins)
    # A bin without an event would have the hazard 0 exactly, and a logit of minus infinity.
    return np.maximum(increments, 1e-8)
