"""Scores of one grid on the others, which are nested in it or around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.extent import tiles_of
from tiacrossfusion.explain.score import Score
from tiacrossfusion.slides.families import parents_of
from tiacrossfusion.slides.spec import CELLS_20X

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag


class Nesting:
    """Assigns the patches of each grid of a bag to the patches of the coarser grids around them.

    Raises:
        TiacfError: the positions of the patches are unknown, or a patch lies in no kept patch of the
            next coarser grid.
    """

    def __init__(self, bag: FeatureBag) -> None:
        """Find the larger patches around each patch."""
        self._bag = bag
        # _around[grid][other]: for each patch of `grid`, the patch of `other` that it lies in.
        self._around = {scale: {scale: np.arange(len(bag.scales[scale]))} for scale in bag.scales}
        for coarse, fine in pairwise(bag.scales):
            parents = _parents(bag, fine, coarse)
            for scale, around in self._around[coarse].items():
                self._around[fine][scale] = around[parents]

    def spread(self, score: Score) -> list[Score]:
        """Return a score on each grid, from coarse to fine.

        A patch inside a larger one has the larger one's value and percentile. A patch around smaller ones
        has the mean over those that were kept, ranked among the means, under the name "... mean".
        """
        check_score(self._bag, score)
        scores = []
        for scale, around in self._around.items():
            if (index := around.get(score.scale)) is not None:
                name, values = score.name, score.values[index]
                ranks = None if score.percentiles is None else score.percentiles[index]
            else:
                inside = self._around[score.scale][scale]
                name, ranks = f"{score.name} mean", None
                values = _mean_inside(score.values, inside, len(self._bag.scales[scale]))
            on_grid = replace(score, name=name, scale=scale, values=values, percentiles=ranks)
            scores.append(on_grid)
        return scores

    def total(self, scores: Iterable[Score]) -> np.ndarray:
        """Add up, for each patch of the finest grid, the values of the patches that it lies in.

        Returns:
            (N,) sum over the scores. It does not depend on which other patches were kept.
        """
        *_, around = self._around.values()
        total = np.zeros(len(next(iter(around.values()))))
        for score in scores:
            check_score(self._bag, score)
            total = total + score.values[around[score.scale]]
        return total


def check_score(bag: FeatureBag, score: Score) -> None:
    """Raise `ValueError` unless a score has one value for each patch of its grid."""
    expected = (len(bag.scales[score.scale]),)
    if score.values.shape != expected:
        raise ValueError(f"{score.name} has the shape {score.values.shape}, not {expected}")


def _parents(bag: FeatureBag, fine: str, coarse: str) -> np.ndarray:
    """Return the index of the coarser patch around each patch, (N_fine,)."""
    cells = tiles_of(bag, fine).grid
    side = CELLS_20X[coarse] // CELLS_20X[fine] // 2  # `parents_of` halves once more
    parents = parents_of(cells // side, tiles_of(bag, coarse).grid)
    if (parents < 0).any():
        column, row = cells[np.flatnonzero(parents < 0)[0]]
        raise TiacfError(
            f"bag of {bag.provenance.slide}: the {fine} patch at column {column}, row {row} lies "
            f"in no {coarse} patch; extract it again"
        )
    return parents


def _mean_inside(values: np.ndarray, around: np.ndarray, patches: int) -> np.ndarray:
    """Return the mean of the finite values inside each patch; NaN without finite values.

    The values (M,) belong to smaller patches; `around` (M,) is the index of the patch around each.
    """
    finite = np.isfinite(values)
    total = np.bincount(around[finite], weights=values[finite], minlength=patches)
    count = np.bincount(around[finite], minlength=patches)
    return np.divide(total, count, out=np.full(patches, np.nan), where=count > 0)
