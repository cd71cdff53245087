"""The one colour scale of all attention maps."""

from __future__ import annotations

import functools

import numpy as np

#: matplotlib's name of the colour map. It is perceptually uniform and safe for the colour-blind,
#: and unlike inferno or magma it stays clear of the purples and pinks of H&E.
COLOUR_MAP = "viridis"

#: Colour of a tile whose attention is not known.
UNKNOWN = (128, 128, 128)

#: Colour of the hotspots.
HOTSPOT = (220, 20, 60)


@functools.cache
def colour_table() -> np.ndarray:
    """RGB (256, 3) uint8 from the lowest to the highest percentile."""
    from matplotlib import colormaps

    return colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3]


def percentile_colours(percentiles: np.ndarray) -> np.ndarray:
    """Colour percentiles.

    Args:
        percentiles: any shape, 0 to 100; NaN is not known.

    Returns:
        The shape with a last axis of 3, uint8 RGB.
    """
    known = np.isfinite(percentiles)
    index = np.rint(np.where(known, percentiles, 0) * 2.55).astype(np.intp)
    return np.where(known[..., None], colour_table()[index], np.array(UNKNOWN, np.uint8))
