"""Hotspots: the few connected regions that raise or lower the risk most, or have the highest attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import shapely

from tiacrossfusion.explain.extent import clip_to_slide, tiles_of
from tiacrossfusion.explain.score import Score, colour_score, named, percentile_rank

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag

#: Tiles at or above this percentile within the slide are hot.
HOT_PERCENTILE = 95.0

#: Smaller regions are left out if there is a larger one. Two 10x tiles are 8 of 20x: fused attention is
#: on the 10x grid, and a single tile of it is not a region.
MIN_TILES = 8

#: Of each kind. Viewers draw annotations one by one, and a pathologist looks at few.
MAX_HOTSPOTS = 5

#: What hotspots are found in.
HotspotsBy = Literal["attribution", "attention"]

#: Names of the kinds of hotspots.
NAMES = {"raises": "Raises the risk", "lowers": "Lowers the risk", "attention": "Hotspot"}


@dataclass(frozen=True)
class Hotspot:
    """A connected region of hot 20x tiles.

    Attributes:
        kind: "raises" or "lowers" (the risk, by attribution), or "attention".
        rank: of its kind; 1 is the region with the largest mean.
        score: name of the score it was found in, such as "Attribution total" or "Attention fused".
        polygon: outline in level-0 pixels of the whole slide, clipped to the slide; its exterior has the
            orientation of the tiles, its holes the opposite one.
        percentiles: mean percentile of its tiles by name of the score, NaN where unknown.
        means: mean value of its tiles by name of the score, NaN where unknown.
        tiles: number of 20x tiles.
        area: in square microns; None when the slide's resolution is unknown.
    """

    kind: Literal["raises", "lowers", "attention"]
    rank: int
    score: str
    polygon: shapely.Polygon
    percentiles: dict[str, float]
    means: dict[str, float]
    tiles: int
    area: float | None

    @property
    def name(self) -> str:
        """Name to show, such as "Raises the risk 1"."""
        return f"{NAMES[self.kind]} {self.rank}"

    @property
    def mean(self) -> float:
        """Mean of the score it was found in."""
        return self.means[self.score]

    @property
    def rings(self) -> list[np.ndarray]:
        """Borders, (n, 2) level-0 pixels with the first point repeated: the outer one, then holes."""
        return [shapely.get_coordinates(ring) for ring in shapely.get_rings(self.polygon)]

    @property
    def label_place(self) -> tuple[float, float]:
        """Level-0 pixel (x, y) at the top centre, where its rank is written."""
        x0, y0, x1, _ = self.polygon.bounds
        return (x0 + x1) / 2, y0


def find_hotspots(
    bag: FeatureBag, scores: Sequence[Score], by: HotspotsBy = "attribution"
) -> list[Hotspot]:
    """Return at most `MAX_HOTSPOTS` regions of each kind, in order of decreasing size of their mean.

    By attribution, hot tiles are the 5 % that raise the risk most and the 5 % that lower it most, without
    those about zero; by attention, or where there is no attribution, the 5 % of the highest attention.
    Tiles that share an edge belong to one region. Constant scores have no hotspot. The scores are those of
    the bag's finest grid, which is that of 20x unless the model reads less.
    """
    total = named(scores, "Attribution total")
    if by == "attribution" and total is not None:
        ranks = percentile_rank(total.values)
        raising = total.raises & (ranks >= HOT_PERCENTILE)
        lowering = total.lowers & (ranks <= 100 - HOT_PERCENTILE)
        return [
            *_regions(bag, scores, "raises", total, raising, total.values),
            *_regions(bag, scores, "lowers", total, lowering, -total.values),
        ]
    score = colour_score([score for score in scores if not score.signed])
    if score is None or score.percentiles is None:
        return []
    hot = score.percentiles >= HOT_PERCENTILE
    return _regions(bag, scores, "attention", score, hot, score.values)


def _regions(
    bag: FeatureBag,
    scores: Sequence[Score],
    kind: Literal["raises", "lowers", "attention"],
    score: Score,
    among: np.ndarray,
    values: np.ndarray,
) -> list[Hotspot]:
    """Return the regions of the tiles `among` (N,) bool with the highest mean of `values` (N,)."""
    bounds, shown = clip_to_slide(bag, bag.finest)
    # A comparison with NaN is False, so tiles of unknown scores are not hot.
    hot = np.flatnonzero(shown & among)
    regions = _connected(tiles_of(bag, bag.finest).grid[hot])
    if regions.max(initial=0) == 0:
        return []
    members = [hot[regions == region] for region in range(1, regions.max() + 1)]
    members = [tiles for tiles in members if len(tiles) >= MIN_TILES] or members
    # Of equal means the larger region comes first, then the one whose first tile is first on the grid.
    members.sort(key=lambda tiles: (-values[tiles].mean(), -len(tiles), tiles[0]))
    mpp = bag.provenance.mpp
    hotspots = []
    for rank, tiles in enumerate(members[:MAX_HOTSPOTS], start=1):
        # Tiles share their edges to the pixel, so the union of edge-connected tiles is one valid
        # polygon; simplifying by 0 drops the tile corners along its straight sides.
        merged = shapely.unary_union(shapely.box(*bounds[tiles].T)).simplify(0)
        polygon = shapely.geometry.polygon.orient(shapely.normalize(merged), 1.0)
        hotspots.append(
            Hotspot(
                kind=kind,
                rank=rank,
                score=score.name,
                polygon=polygon,
                percentiles={
                    other.name: _finite_mean(other.percentiles[tiles])
                    for other in scores
                    if other.percentiles is not None
                },
                means={other.name: _finite_mean(other.values[tiles]) for other in scores},
                tiles=len(tiles),
                area=None if mpp is None else float(polygon.area * mpp[0] * mpp[1]),
            )
        )
    return hotspots


def _connected(cells: np.ndarray) -> np.ndarray:
    """Return the number, from 1, of the edge-connected region of each cell (N, 2), column and row."""
    if len(cells) == 0:
        return np.zeros(0, np.int32)
    place = cells - cells.min(axis=0)
    lattice = np.zeros(place.max(axis=0) + 1, np.uint8)
    lattice[place[:, 0], place[:, 1]] = 1
    _, labels = cv2.connectedComponents(lattice, connectivity=4)
    return labels[place[:, 0], place[:, 1]]


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
