"""Layout of the survival curve and of the contributions of the scales on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tiacrossfusion.outputs.curve import Curve, group_label

#: Place of the axes in a drawing of 480 x 300 units, as in `report.html`.
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 466, 14, 252

#: A bar of full length means at least this much risk, so that tiny contributions look tiny.
_LEAST_REACH = 0.05

_Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Drawing:
    """A survival curve, in the units of the drawing.

    Attributes:
        points: (x, y) of the predicted curve, from S(0) = 1.
        groups: label and points of each group of training patients.
        x_ticks: x and label.
        y_ticks: y and label.
        median: x and y of the median; None when unknown or not reached.
    """

    points: _Points
    groups: tuple[tuple[str, _Points], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    median: tuple[float, float] | None


def draw_survival(curve: Curve) -> Drawing:
    """Lay out a survival curve, straight between the bin edges as in the figures."""
    from matplotlib.ticker import MaxNLocator

    times = curve.times
    end = times[-1]

    def x(time: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * time / end, 1)

    def y(share: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)

    def points(values: Sequence[float]) -> _Points:
        return tuple((x(t), y(s)) for t, s in zip(times, (1.0, *values), strict=True))

    ticks = np.asarray(MaxNLocator(5, integer=curve.edges is None).tick_values(0, end))
    return Drawing(
        points=points(curve.survival),
        groups=tuple((group_label(group), points(group.survival)) for group in curve.groups),
        x_ticks=tuple((x(t), f"{t:g}") for t in ticks.tolist() if 0 <= t <= end * 1.0001),
        y_ticks=tuple((y(s), f"{s:.0%}") for s in np.linspace(0, 1, 5).tolist()),
        median=None if curve.median is None else (x(curve.median), y(0.5)),
    )


def contribution_bars(contribution: Mapping[str, float]) -> list[tuple[str, float, float, float]]:
    """Lay out what each scale adds to the risk as bars from a common zero.

    Returns:
        For each scale its name, its value, and start and length of its bar in per cent of the width.
    """
    low, high = (pick(0.0, *contribution.values()) for pick in (min, max))
    percent = 100 / max(high - low, _LEAST_REACH)
    return [
        (scale, value, round(percent * (min(value, 0) - low), 2), round(percent * abs(value), 2))
        for scale, value in contribution.items()
    ]
