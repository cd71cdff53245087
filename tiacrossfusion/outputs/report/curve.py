"""The survival curve and the contributions of the scales as drawings of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tiacrossfusion.outputs.report.fragment import Survival

#: Of the drawing, and of the axes within it, in its units.
WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 466, 14, 252

_TICKS = 5

#: A bar as long as the room stands for this much risk at least: next to nothing should look so.
_LEAST_REACH = 0.05


@dataclass(frozen=True)
class Drawing:
    """A survival curve, in the units of the drawing.

    Attributes:
        points: of the predicted curve, (x, y) from S(0) = 1.
        groups: label, and points, of each group of training patients.
        x_ticks: x and label.
        y_ticks: y and label.
        x_label: what the axis counts.
        median: x and y of the median, None where there is none.
        median_label: the median in words; empty where times are unknown.
    """

    points: tuple[tuple[float, float], ...]
    groups: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    median: tuple[float, float] | None
    median_label: str


def draw_survival(survival: Survival) -> Drawing:
    """Lay a survival curve out; as in the figures it is straight between the bin edges."""
    from matplotlib.ticker import MaxNLocator

    edges = survival.edges or tuple(float(k) for k in range(len(survival.survival) + 1))
    end = edges[-1]

    def x(time: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * time / end, 1)

    def y(share: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    def points(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
        return tuple((x(t), y(s)) for t, s in zip(edges, (1.0, *values), strict=True))

    ticks = np.asarray(MaxNLocator(_TICKS, integer=survival.edges is None).tick_values(0, end))
    median_label = ""
    if survival.edges is not None and survival.median is None:
        median_label = f"median not reached within {end:.3g} {survival.unit}"
    elif survival.median is not None:
        median_label = f"median {survival.median:.3g} {survival.unit}"
    return Drawing(
        points=points(survival.survival),
        groups=tuple(
            (f"training, {group.name} risk (n = {group.patients:,})", points(group.survival))
            for group in survival.groups
        ),
        x_ticks=tuple((x(t), f"{t:g}") for t in ticks.tolist() if 0 <= t <= end * 1.0001),
        y_ticks=tuple((y(s), f"{s:.0%}") for s in np.linspace(0, 1, 5).tolist()),
        x_label=f"time ({survival.unit})" if survival.edges else "time bin (bin edges unknown)",
        median=None if survival.median is None else (x(survival.median), y(0.5)),
        median_label=median_label,
    )


def contribution_bars(contribution: Mapping[str, float]) -> list[tuple[str, float, float, float]]:
    """Lay out what each scale adds to the risk as bars from a common zero.

    Returns:
        For each scale its name and value, and where its bar starts and how long it is, in hundredths
        of the room.
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
