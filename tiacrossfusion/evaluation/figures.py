"""What the figures of a report have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from tiacrossfusion.outputs.figures import add_caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which the colour-blind can distinguish.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Of the risk groups.
LOW, HIGH = COLOURS[0], COLOURS[1]

_DPI = 150


def new_figure(width: float, height: float, *, title: str, note: str) -> Figure:
    """Start a figure with its title above and a note at its foot.

    Args:
        width: in inches.
        height: in inches; the title takes 0.55 of them at the top, the note 0.4 at the foot.
        title: heading.
        note: what a reader has to know; may be empty.
    """
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    add_caption(figure, 1 - 0.27 / height, title, size=13)
    add_caption(figure, 0.22 / height, note, size=8, colour="0.35")
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, color="0.6")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    return axes


def say(axes: Axes, text: str) -> None:
    """Write in the middle of empty axes why nothing is drawn."""
    axes.text(
        0.5,
        0.65,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="0.35",
        bbox={"facecolor": "white", "edgecolor": "none"},
    )


def spread(times: Sequence[float], most: int) -> list[int]:
    """Positions of at most `most` times, spread over all of them."""
    chosen = np.linspace(0, len(times) - 1, min(most, len(times)))
    return sorted({round(position) for position in chosen})


def interval(low: float, high: float, digits: int = 2) -> str:
    """An interval in brackets, empty where it is not known."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    return f" ({low:.{digits}f} to {high:.{digits}f})"
