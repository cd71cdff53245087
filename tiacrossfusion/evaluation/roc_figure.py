"""ROC curves at a few times, and the AUC over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tiacrossfusion.evaluation.figures import (
    COLOURS,
    DASHED,
    REFERENCE,
    add_axes,
    add_legend,
    add_remark,
    evenly_spaced,
    new_figure,
    with_interval,
)
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import Evaluation
from tiacrossfusion.outputs.figures import in_own_style, save_figure
from tiacrossfusion.survival import RocCurve, roc_curve

_STYLES = ("-", DASHED, (0, (1.5, 1.2)))


@in_own_style
def roc_figure(
    folds: Sequence[FoldPredictions], evaluation: Evaluation, path: Path, *, title: str, note: str
) -> None:
    """Draw pooled ROC curves at up to three of the evaluation's times, and AUC(t) with its interval."""
    unit = evaluation.time_unit
    figure = new_figure(9.6, 4.9, title=title, note=note)
    left, right = add_axes(figure, 0.8, 1.0, 3.3, 3.3), add_axes(figure, 5.3, 1.0, 4.0, 3.3)
    left.plot([0, 1], [0, 1], **REFERENCE)
    left.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    left.set_xlabel("false positive rate", fontsize=12)
    left.set_ylabel("true positive rate", fontsize=12)
    styles = zip(COLOURS, _STYLES, strict=False)
    for index in evenly_spaced(evaluation.times, 3):
        auc = evaluation.pooled.auc[index]
        curve = pooled_roc(folds, auc.time)
        if curve is not None:
            colour, style = next(styles)
            label = f"{auc.time:.3g} {unit}: {with_interval(auc.value, auc.low, auc.high)}"
            left.plot(*curve, color=colour, linewidth=1.8, linestyle=style, label=label)
    if len(left.lines) > 1:
        add_legend(left, 8.5, loc="lower right", title="time: AUC (95 % interval)")
    else:
        add_remark(left, "no time with cases and controls")
    known = [p for p in evaluation.auc_over_time if np.isfinite(p.value)]
    right.axhline(0.5, **REFERENCE)
    if known:
        times, values, low, high = np.array([(p.time, p.value, p.low, p.high) for p in known]).T
        right.fill_between(times, low, high, color=COLOURS[0], alpha=0.16, linewidth=0)
        right.plot(times, values, color=COLOURS[0], linewidth=2)
        lowest = np.nanmin([*low, *values, 0.5])
        right.set(ylim=(max(0.0, np.floor(lowest * 10 - 0.5) / 10), 1), xlim=(0, times[-1]))
    else:
        add_remark(right, "no time with cases and controls")
    right.set_xlabel(f"time ({unit})", fontsize=12)
    right.set_ylabel("AUC(t), 95 % interval", fontsize=12)
    save_figure(figure, path)


def pooled_roc(folds: Sequence[FoldPredictions], at: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the ROC curve at a time over all folds.

    The true positive rates of the folds at equal false positive rates are averaged (vertical averaging;
    Fawcett, Pattern Recognition Letters 27, 2006), weighted like the folds' pairs in the pooled AUC, so
    that the area under the curve is that AUC.

    Returns:
        False and true positive rates (P,), rising; None when no fold has cases and controls.
    """
    curves = [
        curve
        for fold in folds
        if not fold.enters_late
        and (curve := roc_curve(fold.times, fold.events, fold.risks, at, fold.censoring))
    ]
    if not curves:
        return None
    steps = np.unique(np.concatenate([curve.false_positive for curve in curves]))
    weights = np.array([curve.weight for curve in curves])
    rates = [_rates(curve, steps) for curve in curves]  # each (S, 2)
    return np.repeat(steps, 2), np.average(rates, axis=0, weights=weights).ravel()


def _rates(curve: RocCurve, steps: np.ndarray) -> np.ndarray:
    """Return true positive rates (S, 2) at false positive rates; both ends where the curve is vertical."""
    false, true = curve.false_positive, curve.true_positive
    first = np.searchsorted(false, steps, side="left")
    last = np.searchsorted(false, steps, side="right") - 1
    ends = true[np.stack([first, last], axis=1)]
    corner = false[first] == steps
    return np.where(corner[:, None], ends, np.interp(steps, false, true)[:, None])
