"""Forest plot of hazard ratios, and decision curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from tiacrossfusion.evaluation.figures import (
    COLOURS,
    DASHED,
    REFERENCE,
    add_axes,
    add_legend,
    new_figure,
)
from tiacrossfusion.evaluation.scores import AddedValue, HazardRatio, Subgroups
from tiacrossfusion.outputs.figures import Style, in_own_style, save_figure

#: Hazard ratios outside are drawn at the edge.
_WIDEST = 20.0
_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


@in_own_style
def forest_figure(
    added: AddedValue | None, groups: Sequence[Subgroups], path: Path, *, title: str, note: str
) -> None:
    """Draw hazard ratios with their 95 % intervals: of the risk, of the covariates, and in subgroups."""
    rows: list[tuple[str, HazardRatio | None]] = []
    if added is not None:
        rows += [
            ("Model risk, per SD", None),
            ("alone", added.risk_alone),
            ("adjusted for the covariates", added.risk_adjusted),
            ("Covariates, adjusted (numbers per SD)", None),
            *((term.term, term) for term in added.terms),
        ]
    for group in groups:
        p = (
            f", p of interaction {group.interaction_p:.2g}"
            if np.isfinite(group.interaction_p)
            else ""
        )
        rows.append((f"Model risk, per SD, by {group.column}{p} (events/patients)", None))
        rows += [
            (f"{level.level} ({level.events}/{level.patients})", level.hazard_ratio)
            for level in group.levels
        ]
    height = 1.9 + 0.28 * len(rows)
    figure = new_figure(9.0, height, title=title, note=note)
    axes = add_axes(figure, 4.0, 1.0, 3.0, 0.28 * len(rows))
    axes.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), yticks=[])
    known = [r for _, r in rows if r is not None and np.isfinite(r.value)]
    low = min([0.5, *(max(1 / _WIDEST, r.low) for r in known)])
    high = max([2.0, *(min(_WIDEST, r.high) for r in known)])
    axes.set_xlim(low / 1.1, high * 1.1)
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axvline(1, **REFERENCE)
    axes.set_xlabel("hazard ratio (95 % interval)", fontsize=11)
    left: Style = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    for place, (name, ratio) in enumerate(rows):
        if ratio is None:
            axes.text(-1.28, place, name, fontweight="bold", **left)
            continue
        axes.text(-1.22, place, name if len(name) < 46 else f"{name[:44]}...", **left)
        if not np.isfinite(ratio.value):
            axes.text(1.04, place, ratio.note or "not given: too few events", color="0.4", **left)
            continue
        colour = COLOURS[1] if name in ("alone", "adjusted for the covariates") else COLOURS[0]
        ends = np.clip([ratio.low, ratio.high], low, high)
        axes.hlines(place, *ends, color=colour, linewidth=1.6)
        axes.plot(np.clip(ratio.value, low, high), place, "s", color=colour, markersize=5)
        axes.text(1.04, place, f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})", **left)
    save_figure(figure, path)


@in_own_style
def decision_figure(added: AddedValue, path: Path, *, title: str, note: str) -> None:
    """Draw the net benefit of covariates, risk and both against treating all or none."""
    figure = new_figure(7.2, 4.9, title=title, note=note)
    axes = add_axes(figure, 1.0, 1.05, 5.9, 3.2)
    thresholds = [point.threshold for point in added.decision_curve]
    lines = (
        ("both", "covariates and risk", COLOURS[1], "-"),
        ("covariates", "covariates", COLOURS[0], DASHED),
        ("risk", "risk", COLOURS[2], (0, (1.5, 1.2))),
        ("everybody", "treat all", "0.5", "-"),
    )
    for name, label, colour, style in lines:
        values = [getattr(point, name) for point in added.decision_curve]
        width = 1.0 if name == "everybody" else 1.8
        axes.plot(thresholds, values, color=colour, linestyle=style, linewidth=width, label=label)
    axes.axhline(0, **REFERENCE)
    top = max(max(point.both, point.covariates, point.everybody) for point in added.decision_curve)
    axes.set(ylim=(-0.05 - 0.1 * abs(top), 1.1 * top + 0.01), xlim=(0, thresholds[-1]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    unit = f"{added.time:.3g} {added.time_unit}"
    axes.set_xlabel(f"threshold of the predicted probability of an event by {unit}", fontsize=11)
    axes.set_ylabel("net benefit", fontsize=12)
    add_legend(axes, 9, loc="best", title="out of fold; dotted: treat none")
    save_figure(figure, path)
