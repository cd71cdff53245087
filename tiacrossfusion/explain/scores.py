"""Attention of every tile at every stage: raw, and as a percentile within the slide.

Raw attention depends on how many tiles a slide has (a softmax over N tokens has the mean 1/N), so
it does not compare across slides or scales; the percentile does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.sampling.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.features import FeatureBag

#: The stages of a network at which attention may be read. "fused" is the class token's attention
#: after fusion and lies on the 10x grid; the others lie on the grid of their own scale. Every network
#: has "20x"; one that reads a single scale has that alone.
STAGES = ("5x", "10x", "20x", "fused")

#: The grid on which the attention of each stage lies.
STAGE_GRID = {"5x": "5x", "10x": "10x", "20x": "20x", "fused": "10x"}


@dataclass(frozen=True)
class TileScores:
    """Attention of the tiles of one grid at the stages that the network has.

    A tile has its own attention and that of the larger tile around it. For a stage of a finer grid
    it has the mean over the kept tiles inside it.

    Attributes:
        scale: the grid, "5x", "10x" or "20x", with N tiles.
        values: per stage, in the order of `STAGES`, (N,) float64 attention; NaN where it is not known.
        percentiles: per stage (N,) float64, 0 to 100. That of a tile's own stage, and of the tile
            around it, is the rank on the grid of that stage; that of a mean is the rank among the
            means on this grid. NaN where the value is.
        means: the stages whose values are means over smaller tiles.
    """

    scale: str
    values: dict[str, np.ndarray]
    percentiles: dict[str, np.ndarray]
    means: frozenset[str]

    @property
    def colour_stage(self) -> str:
        """Stage that colours the tiles: "fused" on the 20x grid, the grid's own elsewhere.

        Of a network that does not have it, "20x".
        """
        wanted = "fused" if self.scale == "20x" else self.scale
        return wanted if wanted in self.values else "20x"

    @property
    def colour(self) -> str:
        """What colours the tiles, such as "fused" or "20x mean"."""
        stage = self.colour_stage
        return f"{stage} mean" if stage in self.means else stage

    def measurement(self, stage: str) -> str:
        """Name of a stage's value in QuPath, such as "Attention fused" or "Attention 20x mean"."""
        return f"Attention {stage} mean" if stage in self.means else f"Attention {stage}"


def percentile_rank(scores: np.ndarray) -> np.ndarray:
    """Percentile of each score among all of them.

    The lowest score has 0 and the highest 100; equal scores share their mean rank, so that constant
    attention, or a single score, is 50 throughout. Scores that are not finite take no part.

    Args:
        scores: (N,) scores.

    Returns:
        (N,) float64 from 0 to 100, NaN where the score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    percentiles = np.full(scores.shape, np.nan)
    finite = np.isfinite(scores)
    n = int(finite.sum())
    if n == 1:
        percentiles[finite] = 50.0
    elif n > 1:
        _, inverse, counts = np.unique(scores[finite], return_inverse=True, return_counts=True)
        mean_rank = np.cumsum(counts) - (counts + 1) / 2  # from 0 to n - 1
        percentiles[finite] = 100 * mean_rank[inverse] / (n - 1)
    return percentiles


def tile_scores(bag: FeatureBag, attention: Mapping[str, np.ndarray]) -> dict[str, TileScores]:
    """Give every tile of every grid its attention at all stages.

    A 20x tile has its own 20x attention, the 10x and the fused attention of the 10x tile around it
    and the 5x attention of the 5x tile around that. A 10x tile has its own 10x and fused attention,
    the 5x attention of the tile around it, and the mean 20x attention of the kept 20x tiles inside
    it. A 5x tile has its own, and the means over the kept 10x and 20x tiles inside it.

    Args:
        bag: bag of the slide, with N5, N10 and N20 patches.
        attention: "5x" (N5,), "10x" (N10,), "20x" (N20,) and "fused" (N10,) attention received by
            each token; all but "20x" may be missing, and no tile has a score of a missing one.

    Returns:
        The scores keyed "5x", "10x", "20x".

    Raises:
        TiacfError: a patch stands in no kept patch of the next coarser grid.
        ValueError: the attention does not have one score for each patch, or none at 20x.
    """
    if "20x" not in attention:
        raise ValueError(f"no attention at 20x, only {sorted(attention)}")
    own = {}
    for stage in (stage for stage in STAGES if stage in attention):
        own[stage] = np.asarray(attention[stage], np.float64)
        expected = (len(bag.scales[STAGE_GRID[stage]]),)
        if own[stage].shape != expected:
            raise ValueError(f"attention {stage} has the shape {own[stage].shape}, not {expected}")
        own[stage] = np.where(np.isfinite(own[stage]), own[stage], np.nan)
    own_percentiles = {stage: percentile_rank(scores) for stage, scores in own.items()}

    # holder[grid][other]: for each tile of `grid`, which tile of `other` it lies in.
    holder = {scale: {scale: np.arange(len(bag.scales[scale]))} for scale in SCALES}
    holder["10x"]["5x"] = _parents(bag, "10x", "5x")
    holder["20x"]["10x"] = _parents(bag, "20x", "10x")
    holder["20x"]["5x"] = holder["10x"]["5x"][holder["20x"]["10x"]]

    scores = {}
    for scale in SCALES:
        values, percentiles, means = {}, {}, set()
        for stage in own:
            grid = STAGE_GRID[stage]
            if grid in holder[scale]:
                values[stage] = own[stage][holder[scale][grid]]
                percentiles[stage] = own_percentiles[stage][holder[scale][grid]]
            else:
                values[stage] = _mean_inside(
                    own[stage], holder[grid][scale], len(bag.scales[scale])
                )
                percentiles[stage] = percentile_rank(values[stage])
                means.add(stage)
        scores[scale] = TileScores(scale, values, percentiles, frozenset(means))
    return scores


def _parents(bag: FeatureBag, fine: str, coarse: str) -> np.ndarray:
    """Index (N_fine,) of the coarser tile around each tile: the one at (column // 2, row // 2)."""
    parents = bag.scales[coarse].grid.astype(np.int64)
    wanted = bag.scales[fine].grid.astype(np.int64) // 2
    if len(wanted) == 0:
        return np.zeros(0, np.int64)
    width = max(int(parents[:, 0].max(initial=0)), int(wanted[:, 0].max())) + 1
    keys = parents[:, 1] * width + parents[:, 0]
    wanted_keys = wanted[:, 1] * width + wanted[:, 0]
    order = np.argsort(keys)
    place = np.searchsorted(keys, wanted_keys, sorter=order)
    found = place < len(keys)
    found[found] = keys[order[place[found]]] == wanted_keys[found]
    if not found.all():
        column, row = bag.scales[fine].grid[np.flatnonzero(~found)[0]]
        raise TiacfError(
            f"bag of {bag.provenance.slide}: the {fine} patch at column {column}, row {row} lies "
            f"in no {coarse} patch; extract it again"
        )
    return order[place]


def _mean_inside(values: np.ndarray, holder: np.ndarray, n_tiles: int) -> np.ndarray:
    """Mean of the finite values of the smaller tiles inside each tile.

    Args:
        values: (M,) values of the smaller tiles.
        holder: (M,) the tile each of them lies in.
        n_tiles: number of tiles.

    Returns:
        (n_tiles,), NaN where no smaller tile has a finite value.
    """
    finite = np.isfinite(values)
    total = np.bincount(holder[finite], weights=values[finite], minlength=n_tiles)
    count = np.bincount(holder[finite], minlength=n_tiles)
    return np.divide(total, count, out=np.full(n_tiles, np.nan), where=count > 0)
