"""Predicted against observed survival at the bin edges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter

from tiacrossfusion.evaluation.figures import (
    COLOURS,
    REFERENCE,
    add_axes,
    add_remark,
    evenly_spaced,
    new_figure,
    with_interval,
)
from tiacrossfusion.evaluation.scores import CalibrationTable, Evaluation
from tiacrossfusion.outputs.figures import Style, in_own_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@in_own_style
def calibration_figure(evaluation: Evaluation, path: Path, *, title: str, note: str) -> None:
    """Draw the pooled calibration at up to four of the evaluation's times."""
    tables = evaluation.pooled.calibration
    chosen = [tables[index] for index in evenly_spaced(evaluation.times, 4)]
    panels = max(1, len(chosen))
    size, gap = 2.75, 0.35
    figure = new_figure(1.0 + panels * (size + gap), 4.9, title=title, note=note)
    for panel in range(panels):
        axes = add_axes(figure, 0.9 + panel * (size + gap), 1.1, size, size)
        axes.plot([0, 1], [0, 1], **REFERENCE)
        ticks = np.linspace(0, 1, 5)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=ticks, yticks=ticks)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("predicted survival", fontsize=12)
        if panel > 0:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("observed survival (95 % interval)", fontsize=11)
        if chosen:
            _draw(axes, chosen[panel], evaluation.time_unit)
        else:
            add_remark(axes, "no bin edge within\nthe supported time")
    save_figure(figure, path)


def _draw(axes: Axes, table: CalibrationTable, unit: str) -> None:
    """Draw the groups at one time; a group of unknown interval is hollow."""
    ratio = table.observed_over_expected
    known = f"O/E {with_interval(ratio.value, ratio.low, ratio.high)}"
    heading = known if np.isfinite(ratio.value) else "O/E not defined"
    axes.set_title(f"{table.time:.3g} {unit}\n{heading}", fontsize=10.5)
    rows = [row for row in table.rows if np.isfinite(row.observed)]
    predicted, observed = [row.predicted for row in rows], [row.observed for row in rows]
    axes.plot(predicted, observed, color=COLOURS[0], linewidth=1.2, alpha=0.6)
    for row in rows:
        inner, edge = "white", COLOURS[0]
        if np.isfinite(row.low):
            axes.vlines(row.predicted, row.low, row.high, color=COLOURS[0], linewidth=1.4)
            inner, edge = edge, inner
        dot: Style = {"marker": "o", "markersize": 6, "color": inner}
        dot |= {"markeredgecolor": edge, "clip_on": False, "zorder": 5}
        axes.plot(row.predicted, row.observed, **dot)
    sizes = [row.patients for row in table.rows]
    text = f"n = {sum(sizes)} in {len(sizes)} groups"
    axes.text(0.97, 0.03, text, transform=axes.transAxes, ha="right", fontsize=9, color="0.35")
    if not rows:
        add_remark(axes, "no patient is followed that long")
