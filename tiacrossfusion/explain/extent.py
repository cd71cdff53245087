"""What of each tile lies on the image that a viewer shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tiacrossfusion.features import FeatureBag


def clip_to_slide(bag: FeatureBag, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Cut the tiles of a grid at the borders of the slide.

    The lattice covers the slide, so tiles hang over its right and lower edge. QuPath shows nothing
    left of or above the `offset` that some files state; that strip holds no tissue and is cut too.

    Args:
        bag: bag of the slide.
        scale: "5x", "10x" or "20x", with N tiles.

    Returns:
        Bounds (N, 4) int64 in level-0 pixels (x0, y0, x1, y1), and (N,) bool: False for a tile of
        which nothing is left, whose bounds mean nothing.
    """
    low = np.maximum(bag.provenance.offset, 0)
    high = np.asarray(bag.provenance.dimensions)
    bounds = np.clip(bag.scales[scale].bounds, np.tile(low, 2), np.tile(high, 2))
    return bounds, (bounds[:, :2] < bounds[:, 2:]).all(axis=1)
