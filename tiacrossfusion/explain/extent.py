"""Places of the tiles of a slide, and the visible part of each in a viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.grid import PatchGrid

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag


def why_no_maps(bag: FeatureBag) -> str:
    """Return why no map can be drawn of a bag; empty when one can.

    Features of another program may lack coordinates, or have grids that do not nest.
    """
    if "20x" not in bag.scales:
        return "it has no 20x patches"
    unplaced = [name for name, scale in bag.scales.items() if scale.bounds is None]
    if unplaced:
        return f"it is not known where its patches lie ({', '.join(unplaced)} without coordinates)"
    if any(scale.grid is None for scale in bag.scales.values()):
        return "its patches of the three scales do not lie in each other"
    return ""


def slide_size(bag: FeatureBag) -> tuple[int, int]:
    """Return width and height of the slide in level-0 pixels; if unknown, the extent of its patches.

    Args:
        bag: bag of the slide, with coordinates.
    """
    if bag.provenance.dimensions is not None:
        return bag.provenance.dimensions
    reach = np.max([tiles_of(bag, scale).bounds[:, 2:].max(axis=0) for scale in bag.scales], axis=0)
    return int(reach[0]), int(reach[1])


def tiles_of(bag: FeatureBag, scale: str) -> PatchGrid:
    """Return the places of the tiles of a scale.

    Args:
        bag: bag of the slide.
        scale: "5x", "10x" or "20x".

    Raises:
        TiacfError: they are unknown.
    """
    if reason := why_no_maps(bag):
        raise TiacfError(
            f"bag of {bag.provenance.slide}: {reason}, so there can be no maps; the risk does not need "
            "it, for maps make the bag with tiacf extract"
        )
    placed = bag.scales[scale]
    assert placed.bounds is not None  # noqa: S101 - checked above
    assert placed.grid is not None  # noqa: S101
    return PatchGrid(scale, placed.bounds, placed.grid)


def clip_to_slide(bag: FeatureBag, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Cut the tiles of a grid at the borders of the slide.

    The grid covers the whole slide, so tiles extend over its right and lower edge. QuPath shows nothing
    left of or above the `offset` that some files state; that strip has no tissue and is cut too.

    Args:
        bag: bag of the slide.
        scale: "5x", "10x" or "20x", with N tiles.

    Returns:
        Bounds (N, 4) int64 in level-0 pixels (x0, y0, x1, y1), and (N,) bool: False for a tile that was
        cut away, whose bounds have no meaning.
    """
    low = np.maximum(bag.provenance.offset, 0)
    bounds = np.clip(tiles_of(bag, scale).bounds, np.tile(low, 2), np.tile(slide_size(bag), 2))
    return bounds, (bounds[:, :2] < bounds[:, 2:]).all(axis=1)
