"""The files on covariates and subgroups, and the check that a table is that of the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.clinic_figures import decision_figure, forest_figure
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import AddedValue, Subgroups
from tiacrossfusion.io.atomic import write_text

ADDED_VALUE, SUBGROUPS = "added_value.json", "subgroups.json"


def same_follow_up(folds: Sequence[FoldPredictions], table: CohortTable) -> None:
    """Refuse a table that lacks patients of the predictions, or gives other follow-up.

    Raises:
        TiacfError: names the first patient.
    """
    names = [name for fold in folds for name in fold.patients]
    absent = [name for name in names if name not in table.patients.index]
    if absent:
        raise TiacfError(
            f"{len(absent)} of {len(names)} patients of the predictions are not in the table, such as "
            f"{absent[0]}; give the table of the training"
        )
    given = table.patients.loc[names]
    times = np.concatenate([fold.times for fold in folds])
    events = np.concatenate([fold.events for fold in folds])
    differs = ~np.isclose(given["time"], times, rtol=1e-9) | (given["event"] != events)
    if differs.any():
        first = names[int(np.flatnonzero(differs)[0])]
        raise TiacfError(
            f"the follow-up of {int(differs.sum())} patients in the table is not that of the predictions, "
            f"such as {first}; give the table of the training, with the same columns and unit of time "
            "(other endpoints are trained for themselves, with tiacf train --endpoint)"
        )


def write_clinic(
    folder: Path,
    added: AddedValue | None,
    groups: Sequence[Subgroups],
    *,
    title: str,
    note: str,
    figures: str = "png",
) -> list[Path]:
    """Write `added_value.json`, `subgroups.json`, `forest.png` and `decision_curve.png`, where there are any.

    `figures` is their format, "png", "svg" or "pdf".

    Returns:
        The pictures.

    Raises:
        TiacfError: the folder cannot be written.
    """
    pictures = []
    if added is not None:
        write_text(folder / ADDED_VALUE, added.model_dump_json(indent=1) + "\n")
        pictures.append(folder / f"decision_curve.{figures}")
        decision_figure(added, pictures[-1], title=title, note=note)
    if groups:
        text = ",\n".join(group.model_dump_json(indent=1) for group in groups)
        write_text(folder / SUBGROUPS, f"[{text}]\n")
    if added is not None or groups:
        pictures.append(folder / f"forest.{figures}")
        forest_figure(added, groups, pictures[-1], title=title, note=note)
    return pictures
