"""A figure of one patient's predicted survival."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tiacrossfusion.outputs.figures import add_caption, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PATIENT = "#1f3b73"

#: Colours of the reference curves, in their order: Okabe and Ito's, told apart by the colour-blind.
_REFERENCES = ("#009e73", "#d55e00", "#e69f00", "#cc79a7", "#56b4e9")


def survival_figure(
    survival: np.ndarray,
    bin_edges: Sequence[float] | None,
    time_unit: str | None,
    path: Path,
    *,
    title: str,
    risk_group: str | None,
    median: float | None,
    note: str,
    reference: Sequence[tuple[str, np.ndarray]] = (),
) -> None:
    """Draw a predicted survival curve as a PNG.

    The curve starts at S(0) = 1 and is straight between the bin edges, as it is where the median
    is read off. Where the bin edges are not known (an imported checkpoint) the axis counts bins,
    and no median is drawn.

    Args:
        survival: (K,) S at the end of each bin.
        bin_edges: K + 1 rising times from 0, or None.
        time_unit: unit of the edges, such as "months"; None goes with unknown edges.
        path: the PNG file.
        title: heading of the figure.
        risk_group: group of the patient, such as "high"; None where the model states no cut-off.
        median: median survival in `time_unit`; None when the curve stays above one half.
        note: what the figure may be used for; stands at the foot.
        reference: name and (K,) survival, at the same edges, of groups to compare with.
    """
    edges = np.arange(len(survival) + 1) if bin_edges is None else np.asarray(bin_edges)
    figure = Figure(figsize=(7.2, 4.8), dpi=130, facecolor="white")
    axes = figure.add_axes((0.125, 0.2, 0.835, 0.69))
    for (name, curve), colour in zip(reference, cycle(_REFERENCES), strict=False):
        axes.plot(
            edges, [1, *curve], color=colour, linewidth=1.6, linestyle=(0, (5, 2)), label=name
        )
    axes.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
    axes.plot(
        edges,
        [1, *survival],
        color=_PATIENT,
        linewidth=2.6,
        marker="o",
        markersize=6,
        markeredgecolor="white",
        clip_on=False,
        zorder=5,
        label="prediction" + (f" ({risk_group} risk)" if risk_group else ""),
    )
    if bin_edges is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("time bin (bin edges unknown)", fontsize=12)
    else:
        axes.set_xlabel(f"time ({time_unit})", fontsize=12)
        _mark_median(axes, median, float(edges[-1]), time_unit)
    axes.set_ylabel("predicted survival", fontsize=12)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlim=(0, edges[-1]), ylim=(0, 1.02), yticks=np.linspace(0, 1, 6))
    axes.tick_params(labelsize=11, color="0.6")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    axes.legend(loc="best", fontsize=10, frameon=True, framealpha=0.9, edgecolor="0.9")
    add_caption(figure, 0.945, title, size=13)
    add_caption(figure, 0.045, note, size=9, colour="0.35")
    save_png(figure, path)


def _mark_median(axes: Axes, median: float | None, end: float, time_unit: str | None) -> None:
    """Mark where the curve crosses one half, or say that it does not up to the last edge."""
    label: dict[str, Any] = {"fontsize": 10, "color": "0.25", "textcoords": "offset points"}
    if median is None:
        text = f"median not reached within {end:.3g} {time_unit}"
        axes.annotate(text, (0, 0.5), xytext=(8, -13), **label)
        return
    axes.vlines(median, 0, 0.5, color=_PATIENT, linewidth=1.2, linestyle=":")
    axes.plot(
        [median], [0.5], marker="D", markersize=7, color=_PATIENT, markeredgecolor="white", zorder=6
    )
    text = f"median {median:.3g} {time_unit}"
    if median > end / 2:  # to the left, where there is room
        axes.annotate(text, (median, 0.5), xytext=(-8, -13), ha="right", **label)
    else:
        axes.annotate(text, (median, 0.5), xytext=(8, 6), **label)
