"""Up to which time the follow-up of the training patients supports figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiacrossfusion.evaluation.predictions import FoldPredictions

#: Smallest G in use, so that no censoring weight is above 10 (100 in Uno's C, which squares it).
SMALLEST_G = 0.1


@dataclass(frozen=True, eq=False)
class Horizon:
    """Times that the follow-up of the training patients supports.

    Attributes:
        end: last time that every fold supports; NaN if no time is supported.
        edges: inner bin edges, averaged over the folds.
    """

    end: float
    edges: np.ndarray

    @classmethod
    def of(cls, folds: Sequence[FoldPredictions]) -> Horizon:
        """Return that of some folds."""
        end = min(fold.censoring.supported(SMALLEST_G) for fold in folds)
        return cls(end, np.mean([fold.bins.edges[1:-1] for fold in folds], axis=0))

    @property
    def times(self) -> np.ndarray:
        """Return the edges that are supported."""
        return self.edges[self.edges <= self.end]

    @property
    def middle(self) -> float:
        """Return the middle one of these; half of the horizon if no edge is supported."""
        times = self.times
        return float(times[len(times) // 2]) if len(times) else self.end / 2
