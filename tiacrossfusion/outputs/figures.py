"""Captions of figures, and writing them."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def add_caption(figure: Figure, y: float, text: str, *, size: float, colour: str = "black") -> None:
    """Write a centred text, wrapped to the width of the figure.

    Args:
        figure: the figure.
        y: height of its middle, as a share of the figure's.
        text: the text.
        size: font size in points.
        colour: colour of the text.
    """
    figure.text(0.5, y, text, fontsize=size, color=colour, ha="center", va="center", wrap=True)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the same figure gives the same bytes, and "$" is not read as a formula."""
    for text in figure.findobj(Text):
        # Not set_parse_math: matplotlib still looks for formulas where it breaks lines.
        text.set_text(text.get_text().replace("$", r"\$"))
    # matplotlib adds its version as "Software" unless told not to.
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
