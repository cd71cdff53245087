"""Predicted against observed survival at the bin edges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter

from tiacrossfusion.evaluation.figures import COLOURS, add_axes, interval, new_figure, say, spread
from tiacrossfusion.evaluation.scores import CalibrationTable, Evaluation
from tiacrossfusion.outputs.figures import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def calibration_figure(evaluation: Evaluation, path: Path, *, title: str, note: str) -> None:
    """Draw the pooled calibration at up to four of the evaluation's times.

    Args:
        evaluation: of the predictions.
        path: the PNG file.
        title: heading.
        note: stands at the foot.
    """
    tables = evaluation.pooled.calibration
    chosen = [tables[position] for position in spread(evaluation.times, 4)]
    panels = max(1, len(chosen))
    size, gap = 2.75, 0.35
    figure = new_figure(1.0 + panels * (size + gap), 4.9, title=title, note=note)
    for panel in range(panels):
        axes = add_axes(figure, 0.9 + panel * (size + gap), 1.1, size, size)
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=np.linspace(0, 1, 5))
        axes.set_yticks(np.linspace(0, 1, 5))
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
            say(axes, "no bin edge within\nthe supported time")
    save_png(figure, path)


def _draw(axes: Axes, table: CalibrationTable, unit: str) -> None:
    """Draw the groups at one time; a group whose interval is not known is hollow."""
    ratio = table.observed_over_expected
    known = f"O/E {ratio.value:.2f}{interval(ratio.low, ratio.high)}"
    axes.set_title(
        f"{table.time:.3g} {unit}\n{known if np.isfinite(ratio.value) else 'O/E not defined'}",
        fontsize=10.5,
    )
    rows = [row for row in table.rows if np.isfinite(row.observed)]
    axes.plot(
        [row.predicted for row in rows],
        [row.observed for row in rows],
        color=COLOURS[0],
        linewidth=1.2,
        alpha=0.6,
    )
    for row in rows:
        sure = np.isfinite(row.low)
        if sure:
            axes.vlines(row.predicted, row.low, row.high, color=COLOURS[0], linewidth=1.4)
        axes.plot(
            row.predicted,
            row.observed,
            marker="o",
            markersize=6,
            color=COLOURS[0] if sure else "white",
            markeredgecolor="white" if sure else COLOURS[0],
            clip_on=False,
            zorder=5,
        )
    sizes = [row.patients for row in table.rows]
    axes.text(
        0.97,
        0.03,
        f"n = {sum(sizes)} in {len(sizes)} groups",
        transform=axes.transAxes,
        ha="right",
        fontsize=9,
        color="0.35",
    )
    if not rows:
        say(axes, "nobody is followed that long")
