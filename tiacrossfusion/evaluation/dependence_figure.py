"""Partial dependence of the log-hazard on the variables of a record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.evaluation.figures import COLOURS, DASHED, REFERENCE, add_axes, new_figure
from tiacrossfusion.outputs.figures import Style, in_own_style, save_figure
from tiacrossfusion.text import shortened

#: Panels beside each other, and most variables that are drawn.
_COLUMNS, _MOST = 4, 24


@in_own_style
def dependence_figure(frames: Sequence[pd.DataFrame], path: Path, *, title: str, note: str) -> None:
    """Draw a panel for each variable: a line or dots a fold, and dashed the effect of the variable alone.

    Args:
        frames: of each fold, see `survival.dependence_on_variables`.
        path: of the picture.
        title: heading.
        note: at the foot.
    """
    frames = [frame for frame in frames if len(frame)]
    names = list(dict.fromkeys(name for frame in frames for name in frame["variable"]))
    strongest = sorted(
        names,
        key=lambda name: (
            -max(
                float(np.ptp(f.loc[f["variable"] == name, "log_hazard"]))
                for f in frames
                if (f["variable"] == name).any()
            )
        ),
    )[:_MOST]
    shown = [name for name in names if name in strongest]
    rows = math.ceil(len(shown) / _COLUMNS)
    figure = new_figure(3.1 * _COLUMNS + 0.6, 2.5 * rows + 1.1, title=title, note=note)
    top = max(
        (float(f[["log_hazard", "alone"]].abs().to_numpy().max()) for f in frames), default=1.0
    )
    for number, name in enumerate(shown):
        column, row = number % _COLUMNS, rows - 1 - number // _COLUMNS
        axes = add_axes(figure, 0.75 + 3.1 * column, 0.95 + 2.5 * row, 2.25, 1.55)
        axes.axhline(0, **REFERENCE)
        rows_of = [frame[frame["variable"] == name] for frame in frames]
        texts = sorted({text for mine in rows_of for text in mine["value"].astype(str)})
        numbers = all(
            (mine["value"].astype(str) == mine["number"].map("{:.4g}".format)).all()
            for mine in rows_of
        )
        for mine in rows_of:
            at = mine["number"] if numbers else mine["value"].astype(str).map(texts.index)
            ordered = np.argsort(at.to_numpy())
            line: Style = {"color": COLOURS[0], "linewidth": 1.2, "marker": "."}
            alone: Style = {"color": COLOURS[1], "linewidth": 0.8, "linestyle": DASHED}
            if not numbers:  # levels have no values in between
                line |= {"linestyle": ""}
                alone |= {"linestyle": "", "marker": "_", "markersize": 9}
            axes.plot(at.iloc[ordered], mine["log_hazard"].iloc[ordered], **line)
            axes.plot(at.iloc[ordered], mine["alone"].iloc[ordered], **alone)
        if not numbers:
            axes.set_xticks(range(len(texts)), [shortened(text, 9) for text in texts])
            axes.set_xlim(-0.5, len(texts) - 0.5)
        axes.set(ylim=(-1.08 * top, 1.08 * top))
        axes.set_xlabel(shortened(name, 34), fontsize=9)
        axes.tick_params(labelsize=8)
        if column == 0:
            axes.set_ylabel("log hazard", fontsize=9)
    save_figure(figure, path)
