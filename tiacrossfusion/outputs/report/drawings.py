"""Layout of the survival curve and of the contributions of the scales on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tiacrossfusion.outputs.curve import Curve

#: Size of the drawing and place of its axes, in its units.
WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 466, 14, 252

_TICKS = 5

#: A bar of full length means at least this much risk, so that tiny contributions look tiny.
_LEAST_REACH = 0.05


@dataclass(frozen=True)
class Drawing:
    """A survival curve, in the units of the drawing.

    Attributes:
        points: (x, y) of the predicted curve, from S(0) = 1.
        groups: label and points of each group of training patients.
        x_ticks: x and label.
        y_ticks: y and label.
        median: x and y of the median; None when there is none.
    """

    points: tuple[tuple[float, float], ...]
    groups: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    median: tuple[float, float] | None


def draw_survival(curve: Curve) -> Drawing:
    """Lay a survival curve out, straight between the bin edges as in the figures."""
    from matplotlib.ticker import MaxNLocator

    times = curve.times
    end = times[-1]

    def x(time: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * time / end, 1)

    def y(share: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    def points(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
        return tuple((x(t), y(s)) for t, s in zip(times, (1.0, *values), strict=True))

    ticks = np.asarray(MaxNLocator(_TICKS, integer=curve.edges is None).tick_values(0, end))
    return Drawing(
        points=points(curve.survival),
        groups=tuple((group.label, points(group.survival)) for group in curve.groups),
        x_ticks=tuple((x(t), f"{t:g}") for t in ticks.tolist() if 0 <= t <= end * 1.0001),
        y_ticks=tuple((y(s), f"{s:.0%}") for s in np.linspace(0, 1, 5).tolist()),
        median=None if curve.median is None else (x(curve.median), y(0.5)),
    )


def contribution_bars(contribution: Mapping[str, float]) -> list[tuple[str, float, float, float]]:
    """Lay out what each scale adds to the risk as bars from a common zero.

    Returns:
        For each scale its name, its value, and start and length of its bar in per cent of the width.
    """
    low = min(0.0, *contribution.values())
    high = max(0.0, *contribution.values())
    reach = max(high - low, _LEAST_REACH)
    return [
        (
            scale,
            value,
            round(100 * (min(value, 0) - low) / reach, 2),
            round(100 * abs(value) / reach, 2),
        )
        for scale, value in contribution.items()
    ]
