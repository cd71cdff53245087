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


def percentile_colours(percentiles: np.ndarray) -> np.ndarray:
    """Colour percentiles.

    Args:
        percentiles: any shape, 0 to 100; NaN where unknown.

    Returns:
        uint8 RGB of the same shape with a last axis of 3.
    """
    known = np.isfinite(percentiles)
    index = np.rint(np.where(known, percentiles, 0) * 2.55).astype(np.intp)
    return np.where(known[..., None], colour_table()[index], np.array(UNKNOWN, np.uint8))


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


def signed_colours(values: np.ndarray) -> np.ndarray:
    """Colour signed values (N,); returns (N, 3) uint8 RGB."""
    shares = signed_shares(values)
    known = np.isfinite(shares)
    index = np.rint(np.where(known, shares, 0) * 255).astype(np.intp)
    return np.where(known[:, None], signed_colour_table()[index], np.array(UNKNOWN, np.uint8))


def score_shares(score: Score) -> np.ndarray:
    """Return where each value lies on its colour scale: (N,) from 0 to 1, NaN where it is unknown."""
    return signed_shares(score.values) if score.percentiles is None else score.percentiles / 100


def score_colours(score: Score | None, patches: int) -> np.ndarray:
    """Colour the patches of a grid by a score.

    Args:
        score: the score; without one all patches have the colour `UNKNOWN`.
        patches: number of patches N.

    Returns:
        (N, 3) uint8 RGB.
    """
    if score is None:
        return np.tile(np.array(UNKNOWN, np.uint8), (patches, 1))
    if score.percentiles is None:
        return signed_colours(score.values)
    return percentile_colours(score.percentiles)
