"""The length of a scale bar, for figures and the report."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ScaleBar(NamedTuple):
    """A scale bar.

    Attributes:
        microns: its length.
        label: its length in words, such as "0.2 mm" or "50 μm".
    """

    microns: float
    label: str


def scale_bar(width: float) -> ScaleBar:
    """Return a scale bar of 1, 2 or 5 times 10^n, at most a quarter of a picture's width.

    Args:
        width: width of the picture in microns.
    """
    most = width / 4
    power = 10.0 ** np.floor(np.log10(most))
    length = float(max(step * power for step in (1, 2, 5) if step * power <= most))
    return ScaleBar(length, f"{length / 1000:g} mm" if length >= 100 else f"{length:g} μm")
