"""What was read of a slide, and how certain its risk is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class PartialReading:
    """What was read of a slide, and how certain its risk is.

    Attributes:
        chosen_by: "random" or "focus".
        share: of the families that were read.
        families: F, of the slide.
        low: lower end of the 95 % interval of the risk from the whole slide.
        high: upper end.
        shrunken: the risk, moved towards that from 5x alone as far as it is uncertain; None if the model
            does not know what 5x tells.
        calibrated: whether the interval's width was found on slides that were held back.
        read: (F,) bool, which families were read.
        effects: (F,) how the risk would change if the whole slide were like each family; of families that
            were not read, as 5x tells to expect. NaN where nothing tells.
        disagreement: (F,) how far the risk of a slide like the family lies above that which 5x tells to
            expect; NaN for families that were not read, or where nothing tells.
        cells: (F, 4) int64 level-0 bounds of the 5x patches.
    """

    chosen_by: str
    share: float
    families: int
    low: float
    high: float
    shrunken: float | None
    calibrated: bool
    read: np.ndarray
    effects: np.ndarray
    disagreement: np.ndarray
    cells: np.ndarray

    @property
    def total_disagreement(self) -> float | None:
        """Root mean square of the families' disagreement; None where it is not known."""
        known = self.disagreement[np.isfinite(self.disagreement)]
        return float(np.sqrt((known**2).mean())) if len(known) else None


@dataclass(frozen=True)
class Checkpoint:
    """Where the features of a slide that was begun are kept.

    Attributes:
        path: of the file.
        key: of everything that they depend on; others are not taken.
    """

    path: Path
    key: str
