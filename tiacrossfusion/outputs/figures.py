"""What all figures share: captions, and writing them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from matplotlib import rc_context, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Keyword arguments of a matplotlib function.
Style: TypeAlias = dict[str, Any]


def in_own_style(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Draw with matplotlib's defaults: a user's matplotlibrc may want TeX, which may not be there."""

    @wraps(draw)
    def drawn(*arguments: _P.args, **options: _P.kwargs) -> _R:
        style = {
            name: value
            for name, value in rcParamsDefault.items()
            if not name.startswith(("backend", "interactive", "toolbar", "datapath"))
        }
        with rc_context(style):
            return draw(*arguments, **options)

    return drawn


def add_caption(figure: Figure, y: float, text: str, *, size: float, colour: str = "black") -> None:
    """Write a centred text at height `y` (0 to 1), wrapped to the width of the figure."""
    figure.text(0.5, y, text, fontsize=size, color=colour, ha="center", va="center", wrap=True)


#: Formats of figures, by the ending of the file, with metadata that would differ between two runs.
FORMATS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's ending, one of `FORMATS`.

    The same figure gives the same bytes, and "$" does not start a formula.
    """
    for text in figure.findobj(Text):
        # Not set_parse_math: matplotlib still looks for formulas where it breaks lines.
        text.set_text(text.get_text().replace("$", r"\$"))
    kind = path.suffix.removeprefix(".")
    if kind == "png":
        FigureCanvasAgg(figure).print_png(path, metadata=FORMATS[kind])
        return
    with rc_context({"svg.hashsalt": "tiacf", "pdf.fonttype": 42, "svg.fonttype": "path"}):
        figure.savefig(path, format=kind, metadata=FORMATS[kind])
