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
from tiacrossfusion.evaluation.figures import COLOURS, REFERENCE, add_axes, new_figure
from tiacrossfusion.outputs.colours import COLOUR_MAP
from tiacrossfusion.outputs.figures import Style, in_own_style, save_figure

_COLUMNS = ("epoch", "train_loss", "val_loss", "val_c")


@in_own_style
def learning_figure(
    curves: Mapping[int, pd.DataFrame], path: Path, *, title: str, note: str
) -> None:
    """Draw training loss, validation loss and Harrell's C of the validation patients, each on its axis.

    `curves` has for each fold one row per epoch, with the columns epoch, train_loss, val_loss, val_c.

    Raises:
        TiacfError: a curve lacks a column.
    """
    for fold, curve in curves.items():
        missing = [column for column in _COLUMNS if column not in curve.columns]
        if missing:
            raise TiacfError(f"learning curve of fold {fold}: lacks {', '.join(missing)}")
    # Not on one axis: Cox's loss grows with the number at risk, which is a step's in training and all in
    # validation.
    figure = new_figure(12.6, 4.2, title=title, note=note)
    left, middle, right = (add_axes(figure, 0.85 + 3.6 * k, 1.05, 2.8, 2.65) for k in range(3))
    right.axhline(0.5, **REFERENCE)
    many = colormaps[COLOUR_MAP](np.linspace(0, 0.95, len(curves)))
    palette = COLOURS if len(curves) <= len(COLOURS) else many
    names = []
    for colour, (fold, curve) in zip(palette, sorted(curves.items()), strict=False):
        # The curve of a fold that stopped after one epoch is a dot; a line would be invisible.
        marker = "." if len(curve) == 1 else ""
        line: Style = {"color": colour, "linewidth": 1.4, "marker": marker}
        drawn = ((left, "train_loss"), (middle, "val_loss"), (right, "val_c"))
        for axes, column in drawn:
            known = curve.dropna(subset=[column])
            axes.plot(known["epoch"], known[column], **line)
        names.append(Line2D([], [], color=colour, linewidth=2, label=f"fold {fold}"))
    beside: Style = {"loc": "upper left", "bbox_to_anchor": (1.03, 1.0)}
    right.legend(handles=names, fontsize=9, frameon=False, **beside)
    labels = (
        (left, "training loss of a step"),
        (middle, "loss of the validation patients"),
        (right, "Harrell's C, validation patients"),
    )
    for axes, label in labels:
        axes.set_xlabel("epoch", fontsize=12)
        axes.set_ylabel(label, fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    save_figure(figure, path)
