"""The colour scale of percentiles, such as attention's, and that of signed scores, such as attribution."""

from __future__ import annotations

import functools

import numpy as np

from tiacrossfusion.explain.score import Score

#: matplotlib's name of the colour map. It is perceptually uniform and safe for the colour-blind,
#: and unlike inferno or magma it stays clear of the purples and pinks of H&E.
COLOUR_MAP = "viridis"

#: matplotlib's name of the colour map of signed scores: blue lowers the risk, red raises it.
SIGNED_COLOUR_MAP = "RdBu_r"

#: Sizes above this quantile have the strongest colour: a single tile should not make all others pale.
_STRONGEST = 0.99

#: Colour of a tile whose score is unknown.
UNKNOWN = (128, 128, 128)

#: Colour of the hotspots.
HOTSPOT = (220, 20, 60)


@functools.cache
def colour_table() -> np.ndarray:
    """RGB (256, 3) uint8 from the lowest to the highest percentile."""
    from matplotlib import colormaps

    return colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3]


@functools.cache
def signed_colour_table() -> np.ndarray:
    """RGB (256, 3) uint8 from lowering the risk most to raising it most."""
    from matplotlib import colormaps

    return colormaps[SIGNED_COLOUR_MAP](np.arange(256), bytes=True)[:, :3]


def signed_shares(values: np.ndarray) -> np.ndarray:
    """Map signed values to the colour scale: 0 lowers the risk most, 0.5 is zero, 1 raises it most.

    Args:
        values: (N,) signed values; NaN where unknown.

    Returns:
        (N,) float64 from 0 to 1, NaN where the value is.
    """
    sizes = np.abs(values[np.isfinite(values)])
    strongest = np.quantile(sizes, _STRONGEST) if len(sizes) else 0.0
    strongest = strongest or sizes.max(initial=0) or 1.0
    return 0.5 + 0.5 * np.clip(values / strongest, -1, 1)


def score_shares(score: Score) -> np.ndarray:
    """Return where each value lies on its colour scale: (N,) from 0 to 1, NaN where it is unknown."""
    return signed_shares(score.values) if score.percentiles is None else score.percentiles / 100


def score_colours(score: Score) -> np.ndarray:
    """Return the colour of each value: (N, 3) uint8 RGB, `UNKNOWN` where it is unknown."""
    if score.percentiles is None:
        table, place = signed_colour_table(), signed_shares(score.values) * 255
    else:
        table, place = colour_table(), score.percentiles * 2.55
    known = np.isfinite(place)
    index = np.rint(np.where(known, place, 0)).astype(np.intp)
    return np.where(known[:, None], table[index], np.array(UNKNOWN, np.uint8))
