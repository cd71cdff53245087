"""Scale bars of figures and of the report."""

from __future__ import annotations

import numpy as np

from tiacrossfusion.outputs.curve import PlainValues


class ScaleBar(PlainValues):
    """A scale bar.

    Attributes:
        label: its length in words, such as "0.2 mm" or "50 μm".
        length: its length in units of the picture.
    """

    label: str
    length: float


def scale_bar(microns: float, units: float) -> ScaleBar:
    """Return a scale bar of 1, 2 or 5 times 10^n microns, at most a quarter of a picture's width.

    Args:
        microns: width of the picture in microns.
        units: the same width in units of the picture.
    """
    most = microns / 4
    power = 10.0 ** np.floor(np.log10(most))
    long = float(max(step * power for step in (1, 2, 5) if step * power <= most))
    label = f"{long / 1000:g} mm" if long >= 100 else f"{long:g} μm"
    return ScaleBar(label=label, length=round(long / microns * units, 2))
