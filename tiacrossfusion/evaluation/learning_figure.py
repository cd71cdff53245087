"""Learning curves: loss and concordance by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.figures import COLOURS, add_axes, new_figure
from tiacrossfusion.outputs.colours import COLOUR_MAP
from tiacrossfusion.outputs.figures import save_png

_COLUMNS = ("epoch", "train_loss", "val_loss", "val_c")


def learning_figure(
    curves: Mapping[int, pd.DataFrame], path: Path, *, title: str, note: str
) -> None:
    """Draw training and validation loss, and Harrell's C of the validation patients.

    Args:
        curves: for each fold one row an epoch, with the columns epoch, train_loss, val_loss, val_c.
        path: the PNG file.
        title: heading.
        note: stands at the foot.

    Raises:
        TiacfError: there are no curves, or one lacks a column.
    """
    if not curves:
        raise TiacfError("there are no learning curves to draw; give those of one fold or more")
    for fold, curve in curves.items():
        missing = [column for column in _COLUMNS if column not in curve.columns]
        if missing:
            raise TiacfError(f"learning curve of fold {fold}: lacks {', '.join(missing)}")
    figure = new_figure(9.5, 4.2, title=title, note=note)
    left, right = add_axes(figure, 0.85, 1.05, 3.2, 2.65), add_axes(figure, 4.95, 1.05, 3.2, 2.65)
    right.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
    many = colormaps[COLOUR_MAP](np.linspace(0, 0.95, len(curves)))
    palette = COLOURS if len(curves) <= len(COLOURS) else [to_hex(colour) for colour in many]
    names = []
    for number, (fold, curve) in enumerate(sorted(curves.items())):
        colour = palette[number]
        # A fold stopped after one epoch is a dot, not an invisible line.
        line: dict[str, Any] = {
            "color": colour,
            "linewidth": 1.4,
            "marker": "." if len(curve) == 1 else "",
        }
        known = curve.dropna(subset=["train_loss"])
        left.plot(known["epoch"], known["train_loss"], **line)
        known = curve.dropna(subset=["val_loss"])
        left.plot(known["epoch"], known["val_loss"], linestyle=(0, (4, 1.5)), **line)
        known = curve.dropna(subset=["val_c"])
        right.plot(known["epoch"], known["val_c"], **line)
        names.append(Line2D([], [], color=colour, linewidth=2, label=f"fold {fold}"))
    left.legend(
        handles=[
            Line2D([], [], color="0.3", linewidth=1.4, label="training"),
            Line2D([], [], color="0.3", linewidth=1.4, linestyle=(0, (4, 1.5)), label="validation"),
        ],
        fontsize=9,
        framealpha=0.9,
        edgecolor="0.9",
    )
    right.legend(
        handles=names, fontsize=9, loc="upper left", bbox_to_anchor=(1.03, 1.0), frameon=False
    )
    for axes, label in ((left, "loss"), (right, "Harrell's C, validation patients")):
        axes.set_xlabel("epoch", fontsize=12)
        axes.set_ylabel(label, fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    save_png(figure, path)
