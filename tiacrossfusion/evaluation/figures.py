"""Axes, legends and captions that the figures of an evaluation share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from tiacrossfusion.outputs.figures import Style, add_caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which colour-blind readers can distinguish.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Dashes of a second line.
DASHED = (0, (6, 1.5))

#: Line of a model without skill, or of one that is perfectly calibrated.
REFERENCE: Style = {"color": "0.6", "linewidth": 1, "linestyle": ":"}


def new_figure(width: float, height: float, *, title: str, note: str) -> Figure:
    """Return a figure of a size in inches: the title takes 0.55 at the top, the note 0.4 at the foot."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    add_caption(figure, 1 - 0.27 / height, title, size=13)
    add_caption(figure, 0.22 / height, note, size=8, colour="0.35")
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, color="0.6")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    return axes


def add_legend(axes: Axes, size: float, **options: Any) -> None:
    """Add a framed legend with a font size."""
    frame: Style = {"framealpha": 0.9, "edgecolor": "0.9", "alignment": "left"}
    axes.legend(fontsize=size, title_fontsize=size, **frame, **options)


def add_remark(axes: Axes, text: str) -> None:
    """Write in empty axes why nothing is drawn."""
    box = {"facecolor": "white", "edgecolor": "none"}
    middle: Style = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.65, text, color="0.35", bbox=box, **middle)


def evenly_spaced(times: Sequence[float], most: int) -> list[int]:
    """Return the indices of at most `most` times, evenly spaced from the first to the last."""
    chosen = np.linspace(0, len(times) - 1, min(most, len(times)))
    return sorted({round(index) for index in chosen})


def with_interval(value: float, low: float, high: float) -> str:
    """Return a value with its interval in brackets, if that is known."""
    known = np.isfinite(low) and np.isfinite(high)
    return f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if known else "")
