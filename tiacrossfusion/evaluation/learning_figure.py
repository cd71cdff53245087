"""Learning curves: loss and concordance by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.figures import COLOURS, REFERENCE, add_axes, add_legend, new_figure
from tiacrossfusion.outputs.colours import COLOUR_MAP
from tiacrossfusion.outputs.figures import Style, in_own_style, save_png

_COLUMNS = ("epoch", "train_loss", "val_loss", "val_c")
_DASHED = (0, (4, 1.5))


@in_own_style
def learning_figure(
    curves: Mapping[int, pd.DataFrame], path: Path, *, title: str, note: str
) -> None:
    """Draw training and validation loss, and Harrell's C of the validation patients.

    `curves` has for each fold one row per epoch, with the columns epoch, train_loss, val_loss, val_c.

    Raises:
        TiacfError: a curve lacks a column.
    """
    for fold, curve in curves.items():
        missing = [column for column in _COLUMNS if column not in curve.columns]
        if missing:
            raise TiacfError(f"learning curve of fold {fold}: lacks {', '.join(missing)}")
    figure = new_figure(9.5, 4.2, title=title, note=note)
    left, right = add_axes(figure, 0.85, 1.05, 3.2, 2.65), add_axes(figure, 4.95, 1.05, 3.2, 2.65)
    right.axhline(0.5, **REFERENCE)
    many = colormaps[COLOUR_MAP](np.linspace(0, 0.95, len(curves)))
    palette = COLOURS if len(curves) <= len(COLOURS) else many
    names = []
    for colour, (fold, curve) in zip(palette, sorted(curves.items()), strict=False):
        # The curve of a fold that stopped after one epoch is a dot; a line would be invisible.
        marker = "." if len(curve) == 1 else ""
        line: Style = {"color": colour, "linewidth": 1.4, "marker": marker}
        drawn = ((left, "train_loss", "-"), (left, "val_loss", _DASHED), (right, "val_c", "-"))
        for axes, column, style in drawn:
            known = curve.dropna(subset=[column])
            axes.plot(known["epoch"], known[column], linestyle=style, **line)
        names.append(Line2D([], [], color=colour, linewidth=2, label=f"fold {fold}"))
    grey: Style = {"color": "0.3", "linewidth": 1.4}
    training = Line2D([], [], label="training", **grey)
    validation = Line2D([], [], label="validation", linestyle=_DASHED, **grey)
    add_legend(left, 9, handles=[training, validation])
    beside: Style = {"loc": "upper left", "bbox_to_anchor": (1.03, 1.0)}
    right.legend(handles=names, fontsize=9, frameon=False, **beside)
    for axes, label in ((left, "loss"), (right, "Harrell's C, validation patients")):
        axes.set_xlabel("epoch", fontsize=12)
        axes.set_ylabel(label, fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    save_png(figure, path)
