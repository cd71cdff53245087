"""Kaplan-Meier curves of the two risk groups, with numbers at risk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tiacrossfusion.evaluation.figures import (
    COLOURS,
    DASHED,
    add_axes,
    add_legend,
    new_figure,
)
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import RiskGroups
from tiacrossfusion.outputs.figures import Style, in_own_style, save_figure

_RAISED = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)

#: A curve ends where fewer patients than this are at risk.
FEWEST_AT_RISK = 10


@in_own_style
def kaplan_meier_figure(
    folds: Sequence[FoldPredictions], groups: RiskGroups, path: Path, *, title: str, note: str
) -> None:
    """Draw the observed survival of both groups with 95 % bands (Greenwood, log-minus-log).

    Each patient is in the group given by the cut-off of its fold's training patients; the log-rank p of
    `groups` is that of all folds pooled. A curve ends where fewer than 10 patients are at risk: beyond, a
    single patient makes a step (Pocock, Clayton and Altman, Lancet 359, 2002, 1686-1689).
    """
    from lifelines import KaplanMeierFitter

    times = np.concatenate([fold.times for fold in folds])
    events = np.concatenate([fold.events for fold in folds])
    entries = np.concatenate([fold.entered for fold in folds])
    high = np.concatenate([fold.high for fold in folds]).astype(bool)
    figure = new_figure(7.2, 5.4, title=title, note=note)
    axes = add_axes(figure, 1.05, 1.75, 5.85, 3.1)
    rising = np.asarray(MaxNLocator(6, steps=[1, 2, 3, 5, 6, 10]).tick_values(0, times.max()))
    ticks = rising[(rising >= 0) & (rising <= times.max())]
    beside: Style = {"transform": axes.transAxes, "ha": "right", "fontsize": 10}
    below: Style = beside | {"transform": axes.get_xaxis_transform(), "ha": "center"}
    axes.text(-0.06, -0.25, "at risk", **beside)
    drawn = (("low", ~high, COLOURS[0], "-"), ("high", high, COLOURS[1], DASHED))
    for row, (name, members, colour, style) in enumerate(drawn):
        y = -0.32 - 0.07 * row
        axes.text(-0.06, y, name, color=colour, **beside)
        for tick in ticks:
            at_risk = _at_risk(times[members], entries[members], tick)
            axes.text(tick, y, str(at_risk), color=colour, **below)
        if not members.any():
            continue
        entry = entries[members] if entries.any() else None
        fitter = KaplanMeierFitter().fit(times[members], events[members], entry=entry)
        end = fitter.survival_function_.index.to_numpy()
        followed = [_at_risk(times[members], entries[members], time) for time in end]
        shown = np.array(followed) >= FEWEST_AT_RISK
        if not shown.any():
            shown[0] = True  # the group is named in the legend, with a curve of no length
        end = end[shown]
        curve = fitter.survival_function_.iloc[:, 0].to_numpy()[shown]
        # The band is not defined before the first event; there it is the curve itself.
        band = fitter.confidence_interval_survival_function_.to_numpy()
        band = band[shown]
        band = np.where(np.isfinite(band), band, curve[:, None])
        shade: Style = {"color": colour, "alpha": 0.16, "linewidth": 0}
        axes.fill_between(end, band[:, 0], band[:, 1], step="post", **shade)
        label = f"{name} risk (n = {members.sum()}, {events[members].sum()} events)"
        line: Style = {"linewidth": 2, "linestyle": style, "label": label}
        axes.step(end, curve, where="post", color=colour, **line)
        censored = np.unique(times[members & (events == 0)])
        censored = censored[censored <= end[-1]]
        survival = fitter.predict(censored) if len(censored) else []
        ticks_up: Style = {"marker": "|", "markersize": 6, "markeredgewidth": 0.8}
        axes.plot(censored, survival, linestyle="", color=colour, **ticks_up)
    axes.set(xlim=(0, times.max()), ylim=(0, 1.02), xticks=ticks, yticks=np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(f"time ({folds[0].bins.unit})", fontsize=12)
    axes.set_ylabel("observed survival", fontsize=12)
    add_legend(axes, 10, loc="best", title=_p_text(groups))
    save_figure(figure, path)


def _at_risk(times: np.ndarray, entries: np.ndarray, at: float) -> int:
    """Patients who have entered before a time, or at 0, and whose follow-up has not ended."""
    return int(((times >= at) & ((entries < at) | (entries == 0))).sum())


def _p_text(groups: RiskGroups) -> str:
    p = groups.log_rank_p
    if not np.isfinite(p):
        return f"no log-rank test: {groups.note}"
    if p >= 0.001:
        return f"log-rank p = {p:.2g}"
    if p == 0:
        return "log-rank p below the smallest number"
    mantissa, exponent = f"{p:.1e}".split("e")
    return f"log-rank p = {mantissa} \u00d7 10{str(int(exponent)).translate(_RAISED)}"
