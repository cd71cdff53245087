"""What a perturbation does to risks: figures with intervals over slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from tiacrossfusion.markers.folds import HazardRatio

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


#: Names of the figures of an effect, in the order of the tables.
FIGURES = tuple(figure.name for figure in fields(Effect))

#: Of each figure by random perturbations: its mean, and the range of 95 % of the draws.
Chance: TypeAlias = "dict[str, tuple[float, float, float]]"


def by_chance(drawn: Sequence[Effect]) -> Chance:
    """Summarise the effects of random perturbations, by figure."""
    found = {}
    for name in FIGURES:
        values = [getattr(one, name).value for one in drawn]
        low, high = np.quantile(values, [0.025, 0.975])
        found[name] = (float(np.mean(values)), float(low), float(high))
    return found


def columns_of(effect: Effect, chance: Chance) -> dict[str, float]:
    """Return the columns of a table: each figure, the ends of its interval, and its mean by chance."""
    row: dict[str, float] = {}
    for name in FIGURES:
        figure = getattr(effect, name)
        row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        row[f"{name}_random"] = chance[name][0]
    return row


def cells_of(effect: Effect, chance: Chance) -> list[str]:
    """Return the cells of a page's table: each figure with its interval, and its mean by chance."""
    return [
        cell
        for name in FIGURES
        for cell in (with_interval(getattr(effect, name), 2), f"{chance[name][0]:.2f}")
    ]


def with_interval(figure: Figure | HazardRatio, digits: int) -> str:
    """Return a figure with its interval, as text."""
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


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
