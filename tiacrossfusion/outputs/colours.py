"""Colour scales of percentiles, such as attention's, and of signed scores, such as attribution."""

from __future__ import annotations

import functools

import numpy as np

from tiacrossfusion.explain.score import Score

#: Matplotlib's colour map of percentiles. It is perceptually uniform and safe for colour-blind readers,
#: and unlike inferno or magma it stays clear of the purples and pinks of H&E.
COLOUR_MAP = "viridis"

#: Matplotlib's colour map of signed scores: blue lowers the risk, red raises it.
SIGNED_COLOUR_MAP = "RdBu_r"

#: Values beyond this quantile share the strongest colour, so that one tile does not make all others pale.
_STRONGEST = 0.99

#: Colour of a tile whose score is unknown or about zero.
UNKNOWN = (128, 128, 128)

#: Colour of the hotspots, by kind.
HOTSPOTS = {"raises": (178, 24, 43), "lowers": (33, 102, 172), "attention": (220, 20, 60)}


@functools.cache
def colour_table(*, signed: bool) -> np.ndarray:
    """RGB (256, 3) uint8 from the lowest value to the highest."""
    from matplotlib import colormaps

    name = SIGNED_COLOUR_MAP if signed else COLOUR_MAP
    return colormaps[name](np.arange(256), bytes=True)[:, :3]


def limit_of(score: Score) -> float:
    """Return the value from which a signed score has the strongest colour."""
    if score.limit is not None:
        return score.limit
    sizes = np.abs(score.values[np.isfinite(score.values)])
    strongest = np.quantile(sizes, _STRONGEST) if len(sizes) else 0.0
    return float(strongest or sizes.max(initial=0) or 1.0)


def score_shares(score: Score) -> np.ndarray:
    """Return the place of each value on its colour scale: (N,) from 0 to 1, NaN where it has no colour.

    Of a signed score 0 lowers the risk most, 0.5 is zero and 1 raises it most; a negligible value has no
    colour.
    """
    if score.percentiles is not None:
        return score.percentiles / 100
    shares = 0.5 + 0.5 * np.clip(score.values / limit_of(score), -1, 1)
    about_zero = (score.negligible > 0) & (np.abs(score.values) < score.negligible)
    return np.where(about_zero, np.nan, shares)


def score_colours(score: Score) -> np.ndarray:
    """Return the colour of each value: (N, 3) uint8 RGB, `UNKNOWN` where it is unknown."""
    ranks = score.percentiles
    place = score_shares(score) * 255 if ranks is None else ranks * 2.55
    known = np.isfinite(place)
    index = np.rint(np.where(known, place, 0)).astype(np.intp)
    colours = colour_table(signed=ranks is None)[index]
    return np.where(known[:, None], colours, np.array(UNKNOWN, np.uint8))
