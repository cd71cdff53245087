"""What all figures share: captions, and writing them as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

#: Keyword arguments of a matplotlib function.
Style: TypeAlias = dict[str, Any]


def add_caption(figure: Figure, y: float, text: str, *, size: float, colour: str = "black") -> None:
    """Write a centred text at height `y` (0 to 1), wrapped to the width of the figure."""
    figure.text(0.5, y, text, fontsize=size, color=colour, ha="center", va="center", wrap=True)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the same figure gives the same bytes, and "$" does not start a formula."""
    for text in figure.findobj(Text):
        # Not set_parse_math: matplotlib still looks for formulas where it breaks lines.
        text.set_text(text.get_text().replace("$", r"\$"))
    # Without this, matplotlib adds its version as "Software".
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
