"""A figure of one patient's predicted survival."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tiacrossfusion.outputs.curve import Curve, group_label
from tiacrossfusion.outputs.figures import Style, add_caption, in_own_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PATIENT = "#1f3b73"

#: Colours of the reference curves, from Okabe and Ito's palette for colour-blind readers.
_REFERENCES = ("#009e73", "#d55e00", "#e69f00", "#cc79a7", "#56b4e9")


@in_own_style
def survival_figure(
    curve: Curve, path: Path, *, title: str, risk_group: str | None, note: str
) -> None:
    """Draw a predicted survival curve as a PNG.

    If the bin edges are unknown, the axis counts bins and no median is drawn. The risk group, such as
    "high", is None when the model has no cut-off; the note is written at the foot.
    """
    times = curve.times
    figure = Figure(figsize=(7.2, 4.8), dpi=130, facecolor="white")
    axes = figure.add_axes((0.125, 0.2, 0.835, 0.69))
    for group, colour in zip(curve.groups, cycle(_REFERENCES), strict=False):
        dashed: Style = {"color": colour, "linewidth": 1.6, "linestyle": (0, (5, 2))}
        axes.plot(times, [1, *group.survival], **dashed, label=group_label(group))
    axes.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
    axes.plot(
        times,
        [1, *curve.survival],
        color=_PATIENT,
        linewidth=2.6,
        marker="o",
        markersize=6,
        markeredgecolor="white",
        clip_on=False,
        zorder=5,
        label="prediction" + (f" ({risk_group} risk)" if risk_group else ""),
    )
    axes.set_xlabel(curve.x_label, fontsize=12)
    if curve.edges is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        _draw_median(axes, curve)
    axes.set_ylabel("predicted survival", fontsize=12)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlim=(0, times[-1]), ylim=(0, 1.02), yticks=np.linspace(0, 1, 6))
    axes.tick_params(labelsize=11, color="0.6")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    axes.legend(loc="best", fontsize=10, frameon=True, framealpha=0.9, edgecolor="0.9")
    add_caption(figure, 0.945, title, size=13)
    add_caption(figure, 0.045, note, size=9, colour="0.35")
    save_figure(figure, path)


def _draw_median(axes: Axes, curve: Curve) -> None:
    """Draw where the curve crosses one half, or note that it stays above it up to the last edge."""
    style: Style = {"fontsize": 10, "color": "0.25", "textcoords": "offset points"}
    if curve.median is None:
        axes.annotate(curve.median_label, (0, 0.5), xytext=(8, -13), **style)
        return
    axes.vlines(curve.median, 0, 0.5, color=_PATIENT, linewidth=1.2, linestyle=":")
    diamond: Style = {"marker": "D", "markersize": 7, "markeredgecolor": "white", "zorder": 6}
    axes.plot([curve.median], [0.5], color=_PATIENT, **diamond)
    late = curve.median > curve.times[-1] / 2  # then there is more room to the left
    style |= {"xytext": (-8, -13), "ha": "right"} if late else {"xytext": (8, 6)}
    axes.annotate(curve.median_label, (curve.median, 0.5), **style)
