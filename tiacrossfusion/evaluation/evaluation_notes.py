"""What a reader of an evaluation has to know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tiacrossfusion.evaluation.horizon import SMALLEST_G
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import CHANCE, FoldScores, Scores

OPTIMISTIC = (
    "The patients reported on are those by which each fold's model was chosen while it was trained, as "
    "in the authors' protocol: the figures are optimistic."
)


def evaluation_notes(
    folds: Sequence[FoldPredictions],
    edges: np.ndarray,
    times: np.ndarray,
    horizon: float,
    scores: Sequence[FoldScores],
    pooled: Scores,
    warning: str,
) -> tuple[str, ...]:
    """Return notes, the `warning` first if there is one."""
    notes = [warning] if warning else []
    if pooled.harrell_c.low <= CHANCE:
        notes.append(
            "No better than chance on these patients: the interval of Harrell's C holds 0.5 or lies below it."
        )
    unit = folds[0].bins.unit
    if len(times) < len(edges):
        notes.append(
            f"{len(edges) - len(times)} of {len(edges)} inner bin edges lie beyond {horizon:.3g} {unit}, "
            f"where fewer than {SMALLEST_G:.0%} of a fold's training patients remain uncensored: no "
            "AUC or calibration there."
        )
    late = sum(int((fold.entered > 0).sum()) for fold in folds)
    if late:
        notes.append(
            f"Follow-up of {late} patients begins after 0 (left truncation). Kaplan-Meier, Cox regression, "
            "calibration and Harrell's C count a patient from then on; Uno's C, AUC and the Brier score are "
            "not computed."
        )
    names = [name for fold in folds for name in fold.patients]
    repeated = len(names) - len(set(names))
    if repeated:
        notes.append(
            f"{repeated} predictions are of patients who are held out in more than one fold: numbers of "
            "patients and events count them each time; the intervals are widened for it."
        )
    empty = [str(score.fold) for score in scores if not np.isfinite(score.harrell_c.value)]
    if empty:
        notes.append(
            f"No pair of patients can be compared in fold {', '.join(empty)}, so the mean over the "
            "folds is not defined."
        )
    return tuple(notes)
