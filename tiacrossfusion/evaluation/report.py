"""The files of an evaluation: `evaluation.json` and its figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.calibration_figure import calibration_figure
from tiacrossfusion.evaluation.evaluation_files import EVALUATION
from tiacrossfusion.evaluation.kaplan_meier_figure import kaplan_meier_figure
from tiacrossfusion.evaluation.learning_figure import learning_figure
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.roc_figure import roc_figure
from tiacrossfusion.evaluation.scores import Evaluation

if TYPE_CHECKING:
    import pandas as pd

#: Prefix of the folder in which the files of a report are made.
STAGING = ".report-"


def write_evaluation(
    folder: Path,
    folds: Sequence[FoldPredictions],
    evaluation: Evaluation,
    *,
    title: str,
    learning_curves: Mapping[int, pd.DataFrame] | None = None,
    note: str = "",
    figures: str = "png",
) -> list[Path]:
    """Write `evaluation.json` and its figures, each atomically; existing files are replaced.

    The figures are `kaplan_meier.png`, `roc_over_time.png`, `calibration.png` and, if there are learning
    curves, `learning_curves.png`. The first three show all folds pooled.

    Args:
        folder: created if it does not exist.
        folds: out-of-fold predictions.
        evaluation: their evaluation.
        title: heading of the figures, such as the names of cohort and model.
        learning_curves: for each fold one row per epoch, see `learning_figure`.
        figures: format of the figures, "png", "svg" or "pdf".
        note: written at the foot of the figures, after a warning if the evaluation is optimistic.

    Returns:
        The files.

    Raises:
        TiacfError: the folder cannot be written, or a learning curve lacks a column.
    """
    warning = "Optimistic: the same patients chose the model." if evaluation.optimistic else ""
    label = {"title": title, "note": " ".join(text for text in (warning, note) if text)}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=STAGING, dir=folder, ignore_cleanup_errors=True
        ) as made:
            staging = Path(made)
            text = evaluation.model_dump_json(indent=1) + "\n"
            (staging / EVALUATION).write_text(text, encoding="utf-8")
            groups = evaluation.pooled.risk_groups
            kaplan_meier_figure(folds, groups, staging / f"kaplan_meier.{figures}", **label)
            roc_figure(folds, evaluation, staging / f"roc_over_time.{figures}", **label)
            calibration_figure(evaluation, staging / f"calibration.{figures}", **label)
            if learning_curves is not None:
                learning_figure(learning_curves, staging / f"learning_curves.{figures}", **label)
            written = []
            for file in sorted(staging.iterdir()):
                os.replace(file, folder / file.name)
                written.append(folder / file.name)
            return written
    except OSError as error:
        raise TiacfError(
            f"{folder}: the report cannot be written ({error.strerror}); check the folder's permissions "
            "and free space, or give another one"
        ) from error
