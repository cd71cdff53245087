"""Scores of every tile: attention at every stage, raw and as a percentile, and attribution.

Raw attention depends on how many tiles a slide has (a softmax over N tokens has the mean 1/N), so
it does not compare across slides or scales; the percentile within the slide does. Attribution has a
sign and a unit, that of the risk, and is given as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.extent import tiles_of
from tiacrossfusion.slides.families import parents_of
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag

#: The stages of a network at which attention may be read. "fused" is the class token's attention
#: after fusion and lies on the 10x grid; the others lie on the grid of their own scale. Every network
#: has "20x"; one that reads a single scale has that alone. "rolled" is the attention of all stages
#: followed back to the tokens, put together on the 20x grid.
STAGES = ("5x", "10x", "20x", "fused", "rolled")

#: The grid on which the attention of each stage lies.
STAGE_GRID = {"5x": "5x", "10x": "10x", "20x": "20x", "fused": "10x", "rolled": "20x"}

#: What attribution is given of: the tokens of each scale, and the place, with what all scales say of it.
ATTRIBUTIONS = ("5x", "10x", "20x", "total")

_ATTRIBUTION_GRID = {"5x": "5x", "10x": "10x", "20x": "20x", "total": "20x"}


@dataclass(frozen=True)
class TileScores:
    """Scores of the tiles of one grid: attention at the stages that the network has, attribution.

    A tile has its own score and that of the larger tile around it. For a score of a finer grid it has
    the mean over the kept tiles inside it.

    Attributes:
        scale: the grid, "5x", "10x" or "20x", with N tiles.
        values: per stage, in the order of `STAGES`, (N,) float64 attention; NaN where it is not known.
        percentiles: per stage (N,) float64, 0 to 100. That of a tile's own stage, and of the tile
            around it, is the rank on the grid of that stage; that of a mean is the rank among the
            means on this grid. NaN where the value is.
        means: those of `STAGES` and `ATTRIBUTIONS` whose values are means over smaller tiles.
        attributions: per one of `ATTRIBUTIONS` (N,) float64: above 0 raises the risk, below lowers it.
    """

    scale: str
    values: dict[str, np.ndarray]
    percentiles: dict[str, np.ndarray]
    means: frozenset[str]
    attributions: dict[str, np.ndarray] = field(default_factory=dict)

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
        return self._named(self.colour_stage)

    def measurement(self, stage: str) -> str:
        """Name of a stage's value in QuPath, such as "Attention fused" or "Attention 20x mean"."""
        return f"Attention {self._named(stage)}"

    def attribution_measurement(self, name: str) -> str:
        """Name of an attribution in QuPath, such as "Attribution 20x" or "Attribution 20x mean"."""
        return f"Attribution {self._named(name)}"

    def _named(self, name: str) -> str:
        return f"{name} mean" if name in self.means else name


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


def tile_scores(
    bag: FeatureBag,
    attention: Mapping[str, np.ndarray],
    *,
    rolled: Mapping[str, np.ndarray] | None = None,
    attribution: Mapping[str, np.ndarray] | None = None,
) -> dict[str, TileScores]:
    """Give every tile of every grid its scores.

    A 20x tile has its own 20x attention, the 10x and the fused attention of the 10x tile around it
    and the 5x attention of the 5x tile around that. A 10x tile has its own 10x and fused attention,
    the 5x attention of the tile around it, and the mean 20x attention of the kept 20x tiles inside
    it. A 5x tile has its own, and the means over the kept 10x and 20x tiles inside it. Attribution
    goes the same way.

    Two more scores lie on the 20x grid: "rolled" attention and "total" attribution. Each is that of the
    20x tile itself and its equal share of the larger tiles around it, so that the sum over the 20x
    tiles is the sum over the tokens of all scales.

    Args:
        bag: bag of the slide, with N5, N10 and N20 patches.
        attention: "5x" (N5,), "10x" (N10,), "20x" (N20,) and "fused" (N10,) attention received by
            each token; all but "20x" may be missing, and no tile has a score of a missing one.
        rolled: "5x" (N5,), "10x" (N10,) and "20x" (N20,) attention rolled back to the tokens, see
            `rolled_scores`; None where there is none.
        attribution: the same of the risk's attribution to the tokens, see `attribute`; scales that the
            network does not read may be missing.

    Returns:
        The scores keyed "5x", "10x", "20x".

    Raises:
        TiacfError: it is not known where the patches lie, or a patch stands in no kept patch of the
            next coarser grid.
        ValueError: a score does not have one value for each patch, or there is no attention at 20x.
    """
    if "20x" not in attention:
        raise ValueError(f"no attention at 20x, only {sorted(attention)}")
    # holder[grid][other]: for each tile of `grid`, which tile of `other` it lies in.
    holder = {scale: {scale: np.arange(len(bag.scales[scale]))} for scale in SCALES}
    holder["10x"]["5x"] = _parents(bag, "10x", "5x")
    holder["20x"]["10x"] = _parents(bag, "20x", "10x")
    holder["20x"]["5x"] = holder["10x"]["5x"][holder["20x"]["10x"]]

    own = {
        stage: _checked(bag, f"attention {stage}", attention[stage], STAGE_GRID[stage])
        for stage in STAGES
        if stage in attention
    }
    if rolled is not None:
        own["rolled"] = _shared(
            {scale: _checked(bag, f"rolled {scale}", rolled[scale], scale) for scale in rolled},
            holder["20x"],
        )
    own_percentiles = {stage: percentile_rank(scores) for stage, scores in own.items()}
    given = {
        scale: _checked(bag, f"attribution {scale}", attribution[scale], scale)
        for scale in SCALES
        if attribution is not None and scale in attribution
    }
    if given:
        given["total"] = _shared(given, holder["20x"])

    def on_grid(scale: str, values: np.ndarray, grid: str) -> np.ndarray:
        if grid in holder[scale]:
            return values[holder[scale][grid]]
        return _mean_inside(values, holder[grid][scale], len(bag.scales[scale]))

    scores = {}
    for scale in SCALES:
        grids = {name: STAGE_GRID[name] for name in own}
        grids |= {name: _ATTRIBUTION_GRID[name] for name in given}
        means = frozenset(name for name, grid in grids.items() if grid not in holder[scale])
        values = {stage: on_grid(scale, own[stage], STAGE_GRID[stage]) for stage in own}
        percentiles = {
            stage: percentile_rank(values[stage])
            if stage in means
            else on_grid(scale, own_percentiles[stage], STAGE_GRID[stage])
            for stage in own
        }
        attributions = {
            name: on_grid(scale, given[name], _ATTRIBUTION_GRID[name]) for name in given
        }
        scores[scale] = TileScores(scale, values, percentiles, means, attributions)
    return scores


def _checked(bag: FeatureBag, what: str, values: np.ndarray, grid: str) -> np.ndarray:
    """Give one float64 value for each tile of a grid, NaN where it is not finite."""
    values = np.asarray(values, np.float64)
    expected = (len(bag.scales[grid]),)
    if values.shape != expected:
        raise ValueError(f"{what} has the shape {values.shape}, not {expected}")
    return np.where(np.isfinite(values), values, np.nan)


def _shared(values: Mapping[str, np.ndarray], holder: Mapping[str, np.ndarray]) -> np.ndarray:
    """Share what each tile has equally among the kept 20x tiles inside it, and add it up.

    Args:
        values: of some scales, one for each tile.
        holder: for each scale (N20,) the tile that each 20x tile lies in.

    Returns:
        (N20,).
    """
    return sum(
        (
            tiles[holder[scale]] / np.bincount(holder[scale], minlength=len(tiles))[holder[scale]]
            for scale, tiles in values.items()
        ),
        start=np.zeros(len(holder["20x"])),
    )


def _parents(bag: FeatureBag, fine: str, coarse: str) -> np.ndarray:
    """Index (N_fine,) of the coarser tile around each tile."""
    cells = tiles_of(bag, fine).grid
    parents = parents_of(cells, tiles_of(bag, coarse).grid)
    if (parents < 0).any():
        column, row = cells[np.flatnonzero(parents < 0)[0]]
        raise TiacfError(
            f"bag of {bag.provenance.slide}: the {fine} patch at column {column}, row {row} lies "
            f"in no {coarse} patch; extract it again"
        )
    return parents


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
