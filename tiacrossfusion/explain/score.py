"""A score of the patches of a grid, the input of every writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """Values of one kind for all patches of one grid.

    Attributes:
        name: in every output, such as "Attention fused", "Attention 20x mean" or "Attribution 20x".
        scale: grid of the values, "5x", "10x" or "20x", with N patches.
        values: (N,) float64 in the order of the grid's patches; NaN where a value is unknown or not finite.
        signed: whether values above 0 raise `unit` and values below 0 lower it.
        unit: unit of the values, such as "risk"; empty for shares of attention.
        meaning: one sentence on which property of the network or the slide the score shows.
        limit: value from which a signed score has the strongest colour, the same for all slides of a model;
            None takes a quantile of the slide's own values.
        negligible: size below which a signed score is about zero: not coloured, and in no gallery.
        percentiles: (N,) float64 ranks within the slide, 0 to 100, NaN where the value is NaN; computed
            unless given. None for signed scores, because ranks do not show where 0 is.
    """

    name: str
    scale: str
    values: np.ndarray
    signed: bool = False
    unit: str = ""
    meaning: str = ""
    limit: float | None = None
    negligible: float = 0.0
    percentiles: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Rank an unsigned score."""
        values = np.asarray(self.values, np.float64)
        object.__setattr__(self, "values", np.where(np.isfinite(values), values, np.nan))
        if not self.signed and self.percentiles is None:
            object.__setattr__(self, "percentiles", percentile_rank(self.values))

    @property
    def raises(self) -> np.ndarray:
        """Return which values of a signed score are above 0 and not negligible, (N,) bool."""
        return self.values > self.negligible

    @property
    def lowers(self) -> np.ndarray:
        """Return which values of a signed score are below 0 and not negligible, (N,) bool."""
        return self.values < -self.negligible


def percentile_rank(values: np.ndarray) -> np.ndarray:
    """Return the percentile of each value: (N,) float64, NaN where a value is not finite.

    The lowest finite value has 0 and the highest 100; equal values share their mean rank, so that
    constant values, or a single one, have 50.
    """
    percentiles = np.full(len(values), np.nan)
    finite = np.isfinite(values)
    _, inverse, counts = np.unique(values[finite], return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts + 1) / 2  # from 0 to n - 1
    n = len(inverse)
    percentiles[finite] = 100 * mean_rank[inverse] / (n - 1) if n > 1 else 50.0
    return percentiles


def named(scores: Iterable[Score], name: str) -> Score | None:
    """Return the score of this name; None when there is no such score."""
    return next((score for score in scores if score.name == name), None)


def on_own_grid(scores: Mapping[str, Sequence[Score]], name: str) -> Score:
    """Return a score on the grid that it was computed on: the coarsest that has this name.

    Finer grids repeat the values; coarser ones have the mean under another name. `scores` are those of
    each grid, from coarse to fine.
    """
    return next(score for grid in scores.values() for score in grid if score.name == name)


def colour_score(scores: Sequence[Score]) -> Score | None:
    """Return the score that colours the patches of a grid; None of an empty list.

    It is the attribution; without it, attention after fusion on the 20x grid and the grid's own attention
    on the others; for a network without these, attention at 20x, else the first score.
    """
    if not scores:
        return None
    scale = scores[0].scale
    stages = ("fused" if scale == "20x" else scale, "20x", "20x mean")
    wanted = ["Attribution total", "Attribution total mean"]
    wanted += [f"Attention {stage}" for stage in stages]
    found = (named(scores, name) for name in wanted)
    return next((score for score in found if score is not None), scores[0])
