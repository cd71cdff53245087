"""The bootstrap by patient: resamples as counts, and intervals from them.

Patients are drawn with replacement within their fold, so that every fold keeps its size and pairs stay
within a fold (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: percentile
interval). A resample is a row of counts; row 0 counts everybody once, so that the first of the values
computed from the rows is the estimate and the others are its draws.

The models and the censoring distributions are those of the training patients and stay as they are. That the
folds of a cross-validation are not independent is accounted for by `widened` (see `dependence`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.scores import Estimate

_SMALLEST_DRAWS = 100


def bootstrap_counts(sizes: Sequence[int], draws: int, seed: int) -> list[np.ndarray]:
    """How often each patient of each fold is drawn, from the sizes of the folds.

    Equal seeds and sizes give equal counts.

    Returns:
        For each fold (1 + draws, N) counts, the first row ones.

    Raises:
        TiacfError: too few draws for an interval.
    """
    if draws < _SMALLEST_DRAWS:
        raise UsageError(
            f"{draws} bootstrap draws give no interval; take {_SMALLEST_DRAWS} or more"
        )
    random = np.random.default_rng(seed)
    return [
        np.concatenate([np.ones((1, n)), random.multinomial(n, np.full(n, 1 / n), size=draws)])
        for n in sizes
    ]


def widened(values: np.ndarray, factor: float) -> np.ndarray:
    """Draws (1 + D,), the first the estimate, with `factor` times their variance about the estimate."""
    return values[0] + np.sqrt(factor) * (values - values[0])


def estimate(
    values: np.ndarray,
    undefined: str = "",
    *,
    factor: float = 1.0,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Estimate with the 2.5 % and 97.5 % percentiles of its draws.

    Args:
        values: (1 + D,) the estimate and its draws, NaN where not defined.
        undefined: says why the estimate is not defined, should it not be.
        factor: of the variance of the draws, see `Dependence`.
        limits: of the figure; an interval ends there.
    """
    value, draws = float(values[0]), values[1:]
    if not np.isfinite(value):
        return Estimate(value=np.nan, low=np.nan, high=np.nan, note=undefined)
    known = draws[np.isfinite(draws)]
    missing = len(draws) - len(known)
    if missing > len(draws) / 2:
        note = f"not defined in {missing} of {len(draws)} bootstrap draws, so without an interval"
        return Estimate(value=value, low=np.nan, high=np.nan, note=note)
    narrow = np.quantile(known, [0.025, 0.975])
    low, high = np.clip(widened(np.array([value, *narrow]), factor)[1:], *limits)
    note = f"{missing} of {len(draws)} bootstrap draws left out, not defined there"
    return Estimate(
        value=value,
        low=low,
        high=high,
        unwidened_low=narrow[0],
        unwidened_high=narrow[1],
        note=note if missing else "",
    )


def two_sided_p(draws: np.ndarray) -> float:
    """Two-sided bootstrap p that a difference is 0, from its draws (D,).

    Twice the smaller share of draws on one side of 0, where the estimate itself is counted as one more
    draw on either side, so that p is never 0 (Davison and Hinkley, Bootstrap Methods and their
    Application, 1997, section 4.2).
    """
    known = draws[np.isfinite(draws)]
    if len(known) == 0:
        return float("nan")
    smaller = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (1 + smaller) / (1 + len(known))))
