"""One score of the tokens of a grid, as every writer takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """Values of one kind for all patches of one grid.

    Attributes:
        name: as it stands in every output, such as "Attention fused" or "Attribution 20x".
        scale: grid of the values, "5x", "10x" or "20x".
        values: (N,) float64 in the order of the grid's patches; NaN where a patch has no value.
        signed: whether values below 0 mean the opposite of values above 0.
        unit: of the values, such as "risk"; empty for shares of attention.
        percentiles: (N,) float64 rank among the patches of the slide, 0 to 100; None for signed scores.
    """

    name: str
    scale: str
    values: np.ndarray
    signed: bool = False
    unit: str = ""
    percentiles: np.ndarray | None = None
