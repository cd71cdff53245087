"""What a perturbation does to risks: figures with intervals over slides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

#: Bootstrap draws of slides.
DRAWS = 1000


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """How far a perturbation moves the risks of slides.

    Attributes:
        shift: mean change, in SDs of the risks.
        size: mean size of the change, in SDs of the risks.
        spread: SD of the change, in SDs of the risks; a shift of all slides alike has none.
        changed: share of the slides whose risk group changes.
        rank: rank correlation of the risks with and without it.
    """

    shift: Figure
    size: Figure
    spread: Figure
    changed: Figure
    rank: Figure


def effect_of(
    before: np.ndarray,
    after: np.ndarray,
    cutoff: float | None,
    *,
    sd: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Effect:
    """Compare risks (N,) with and without a perturbation, with bootstrap intervals over slides.

    Args:
        before: without.
        after: with it.
        cutoff: between the risk groups; None takes the median of `before`.
        sd: of the risks, which changes are divided by; None takes that of `before`.
        draws: of the bootstrap; 0 gives no intervals.
        seed: of the draws.
    """
    cutoff = float(np.median(before)) if cutoff is None else cutoff
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(before), size=(draws, len(before)))
    whole = _figures(before, after, cutoff, sd)
    if draws == 0:
        return Effect(*(Figure(value, np.nan, np.nan) for value in whole))
    drawn = np.array([_figures(before[row], after[row], cutoff, sd) for row in rows])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return Effect(*(Figure(*map(float, triple)) for triple in zip(whole, low, high, strict=True)))


def _figures(before: np.ndarray, after: np.ndarray, cutoff: float, sd: float | None) -> list[float]:
    change, sd = after - before, before.std() if sd is None else sd
    if sd == 0:
        return [np.nan] * 5
    ranks = [rankdata(values) for values in (before, after)]
    constant = np.ptp(before) == 0 or np.ptp(after) == 0
    correlation = np.nan if constant else float(np.corrcoef(*ranks)[0, 1])
    return [
        float(change.mean() / sd),
        float(np.abs(change).mean() / sd),
        float(change.std() / sd),
        float(np.mean((before > cutoff) != (after > cutoff))),
        correlation,
    ]
