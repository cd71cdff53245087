"""ROC curves at a few times, and the AUC over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tiacrossfusion.evaluation.figures import COLOURS, add_axes, interval, new_figure, say, spread
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import Evaluation
from tiacrossfusion.outputs.figures import save_png
from tiacrossfusion.survival import RocCurve, roc_curve

_STYLES = ("-", (0, (6, 1.5)), (0, (1.5, 1.2)))


def roc_figure(
    folds: Sequence[FoldPredictions],
    evaluation: Evaluation,
    path: Path,
    *,
    title: str,
    note: str,
) -> None:
    """Draw pooled ROC curves at up to three of the evaluation's times, and AUC(t) with its interval.

    Args:
        folds: out-of-fold predictions.
        evaluation: of those.
        path: the PNG file.
        title: heading.
        note: stands at the foot.
    """
    unit = evaluation.time_unit
    figure = new_figure(9.6, 4.9, title=title, note=note)
    left, right = add_axes(figure, 0.8, 1.0, 3.3, 3.3), add_axes(figure, 5.3, 1.0, 4.0, 3.3)
    left.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    left.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    left.set_xlabel("false positive rate", fontsize=12)
    left.set_ylabel("true positive rate", fontsize=12)
    drawn = 0
    for position in spread(evaluation.times, 3):
        auc = evaluation.pooled.auc[position]
        curve = pooled_roc(folds, auc.time)
        if curve is None:
            continue
        left.plot(
            *curve,
            color=COLOURS[drawn],
            linewidth=1.8,
            linestyle=_STYLES[drawn],
            label=f"{auc.time:.3g} {unit}: {auc.value:.2f}{interval(auc.low, auc.high)}",
        )
        drawn += 1
    if drawn:
        left.legend(
            loc="lower right",
            fontsize=8.5,
            title="time: AUC (95 % interval)",
            title_fontsize=8.5,
            framealpha=0.9,
            edgecolor="0.9",
            alignment="left",
        )
    else:
        say(left, "no time with cases and controls")
    known = [point for point in evaluation.auc_over_time if np.isfinite(point.value)]
    right.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
    if known:
        times = [point.time for point in known]
        right.fill_between(
            times,
            [point.low for point in known],
            [point.high for point in known],
            color=COLOURS[0],
            alpha=0.16,
            linewidth=0,
        )
        right.plot(times, [point.value for point in known], color=COLOURS[0], linewidth=2)
        lowest = np.nanmin([[point.low, point.value, 0.5] for point in known])
        right.set(ylim=(max(0.0, np.floor(lowest * 10 - 0.5) / 10), 1), xlim=(0, times[-1]))
    else:
        say(right, "no time with cases and controls")
    right.set_xlabel(f"time ({unit})", fontsize=12)
    right.set_ylabel("AUC(t), 95 % interval", fontsize=12)
    save_png(figure, path)


def pooled_roc(folds: Sequence[FoldPredictions], at: float) -> tuple[np.ndarray, np.ndarray] | None:
    """ROC curve at a time over all folds.

    The true positive rates of the folds at equal false positive rates are averaged (Fawcett, Pattern
    Recognition Letters 27, 2006, vertical averaging), each fold weighing what its pairs weigh in the
    pooled AUC, so that the area is that AUC.

    Returns:
        False and true positive rates (P,), rising; None when no fold has cases and controls.
    """
    curves = [
        curve
        for fold in folds
        if (curve := roc_curve(fold.times, fold.events, fold.risks, at, fold.censoring))
    ]
    if not curves:
        return None
    steps = np.unique(np.concatenate([curve.false_positive for curve in curves]))
    weights = np.array([curve.weight for curve in curves])
    rates = [_rates(curve, steps) for curve in curves]  # each (S, 2)
    return np.repeat(steps, 2), np.average(rates, axis=0, weights=weights).ravel()


def _rates(curve: RocCurve, steps: np.ndarray) -> np.ndarray:
    """True positive rates (S, 2) at false positive rates: where the curve goes straight up, both ends."""
    false, true = curve.false_positive, curve.true_positive
    between = np.interp(steps, false, true)
    first = np.searchsorted(false, steps, side="left")
    last = np.searchsorted(false, steps, side="right") - 1
    corner = false[first] == steps
    return np.stack(
        [np.where(corner, true[first], between), np.where(corner, true[last], between)], axis=1
    )
