"""From hazards to a survival curve and a risk, and back.

`S_k = prod_{j <= k} (1 - h_j)` and `risk = -sum_k S_k` (Soraki et al., MIDL 2026).
"""

from __future__ import annotations

import numpy as np

from tiacrossfusion.survival.time_bins import TimeBins


def survival_curve(hazards: np.ndarray) -> np.ndarray:
    """Survival at the end of each bin, (..., K), from hazards (..., K)."""
    return np.cumprod(1 - hazards, axis=-1)


def hazards_of(survival: np.ndarray) -> np.ndarray:
    """Hazards (..., K) from survival at the end of each bin (..., K); 0 once nobody is left."""
    before = np.concatenate([np.ones_like(survival[..., :1]), survival[..., :-1]], axis=-1)
    return 1 - np.divide(survival, before, out=np.ones_like(survival), where=before > 0)


def risk_of(survival: np.ndarray) -> np.ndarray:
    """Risk (...), minus the sum of the curve over the bins; higher is worse."""
    return -survival.sum(axis=-1)


def interpolation(bins: TimeBins, times: np.ndarray) -> np.ndarray:
    """Weights that read curves of K bins at other times (T,), 0 or later.

    Between edges a curve is straight, beyond the last edge it stays at its last value.

    Returns:
        (T, K + 1) weights; `weights @ [1, S_1 .. S_K]` is the survival at the times.
    """
    edges = np.asarray(bins.edges)
    return np.stack([np.interp(times, edges, row) for row in np.eye(len(edges))], axis=1)
