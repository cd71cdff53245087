"""What the figures have in common: captions and how they are saved."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def add_caption(figure: Figure, y: float, text: str, *, size: float, colour: str = "black") -> None:
    """Write a text in the middle of a figure, in more lines where it is too long for one.

    Args:
        figure: the figure.
        y: height of its middle, as a share of the figure's.
        text: as it is.
        size: of the letters, in points.
        colour: of the letters.
    """
    figure.text(
        0.5,
        y,
        text,
        fontsize=size,
        color=colour,
        ha="center",
        va="center",
        wrap=True,
    )


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same bytes, and a "$" in a name begins no formula."""
    for text in figure.findobj(Text):
        # Not set_parse_math: where it breaks lines, matplotlib looks for formulas all the same.
        text.set_text(text.get_text().replace("$", r"\$"))
    # matplotlib adds its version as "Software" unless told not to.
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
