"""Positions of the tiles of a slide, and the part of each that a viewer shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.grid import PatchGrid

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag, Provenance


def why_no_maps(bag: FeatureBag) -> str:
    """Return why no map of a bag can be drawn; empty when one can.

    Features of another program may lack coordinates, or have grids that are not nested.
    """
    unplaced = [name for name, scale in bag.scales.items() if scale.bounds is None]
    if unplaced:
        return f"the positions of its patches are unknown ({', '.join(unplaced)})"
    if any(scale.grid is None for scale in bag.scales.values()):
        return "its grids are not nested"
    return ""


def slide_size(bag: FeatureBag) -> tuple[int, int]:
    """Return width and height of the slide in level-0 pixels; if unknown, the extent of its patches."""
    if bag.provenance.dimensions is not None:
        return bag.provenance.dimensions
    reach = np.max([tiles_of(bag, scale).bounds[:, 2:].max(axis=0) for scale in bag.scales], axis=0)
    return int(reach[0]), int(reach[1])


def tiles_of(bag: FeatureBag, scale: str) -> PatchGrid:
    """Return the positions of the tiles of a scale.

    Raises:
        TiacfError: they are unknown.
    """
    if reason := why_no_maps(bag):
        raise TiacfError(
            f"bag of {bag.provenance.slide}: {reason}, so maps cannot be drawn; the risk needs none of "
            "this, for maps make the bag with tiacf extract"
        )
    placed = bag.scales[scale]
    assert placed.bounds is not None  # noqa: S101 - checked above
    assert placed.grid is not None  # noqa: S101
    return PatchGrid(scale, placed.bounds, placed.grid)


def clip_to_slide(bag: FeatureBag, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Clip the N tiles of a grid to the slide.

    The grid covers the whole slide, so tiles extend beyond its right and lower edges. QuPath does not
    show what is left of or above the `offset` of some files; that strip has no tissue and is clipped too.

    Returns:
        Bounds (N, 4) int64 in level-0 pixels (x0, y0, x1, y1), and (N,) bool, False for a tile with
        nothing left, whose bounds have no meaning.
    """
    return clipped(tiles_of(bag, scale).bounds, bag.provenance)


def clipped(bounds: np.ndarray, made: Provenance) -> tuple[np.ndarray, np.ndarray]:
    """Clip bounds (N, 4) to a slide, as `clip_to_slide` does those of a grid."""
    low = np.maximum(made.offset, 0)
    high = bounds[:, 2:].max(axis=0, initial=0) if made.dimensions is None else made.dimensions
    inside = np.clip(bounds, np.tile(low, 2), np.tile(high, 2))
    return inside, np.asarray((inside[:, :2] < inside[:, 2:]).all(axis=1))
