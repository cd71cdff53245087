"""Predictions of a finished model for patients of another cohort.

The model, its time bins and its cut-off stay as they are. The censoring distribution, and the curve that is
used without a model, are those of the new cohort, whose follow-up differs from that of the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.io.csv_table import read_csv
from tiacrossfusion.survival import TimeBins
from tiacrossfusion.text import examples

#: Columns of a `patients.csv` of `tiacf predict` that are needed.
_COLUMNS = ("patient", "risk", "risk_group", "time_unit", "model", "status")


def locked_predictions(
    table: CohortTable,
    risks: Mapping[str, float],
    survival: Mapping[str, np.ndarray],
    high: Mapping[str, bool],
    bins: TimeBins,
) -> FoldPredictions:
    """Return the predictions of a finished model as one fold, of the patients that are in the table.

    Raises:
        TiacfError: times are in another unit than the model's, or no patient is in both.
    """
    if table.time_unit != bins.unit:
        raise UsageError(
            f"the table gives times in {table.time_unit}, the model in {bins.unit}; bring the table to the "
            "model's unit"
        )
    names = [name for name in table.patients.index if name in risks]
    if not names:
        raise TiacfError(
            f"none of the {len(table.patients)} patients of the table ({examples(table.patients.index)}) has "
            f"a prediction ({examples(sorted(risks))}); make the names agree"
        )
    follow_up = table.patients.loc[names]
    times, events = follow_up["time"].to_numpy(float), follow_up["event"].to_numpy(int)
    return FoldPredictions(
        fold=0,
        patients=tuple(names),
        times=times,
        events=events,
        risks=np.array([risks[name] for name in names], float),
        survival=np.array([survival[name] for name in names], float),
        high=np.array([high[name] for name in names], bool),
        bins=bins,
        training_times=times,
        training_events=events,
    )


@dataclass(frozen=True)
class PatientPredictions:
    """The `patients.csv` of `tiacf predict`.

    Attributes:
        model: its name.
        bins: time bins of the model.
        patients: index patient, columns risk, high (bool) and survival_1 to survival_K.
        failed: number of patients without a prediction.
    """

    model: str
    bins: TimeBins
    patients: pd.DataFrame
    failed: int

    @classmethod
    def read(cls, path: Path) -> PatientPredictions:
        """Read the file.

        Raises:
            TiacfError: a column is missing, several models predicted, or a patient is named twice.
        """
        frame = read_csv(
            path,
            columns=list(_COLUMNS),
            check="give the patients.csv that tiacf predict --patients writes",
            remedy="take the file as tiacf predict --patients wrote it",
            dtype=str,
            keep_default_na=False,
        )
        failed = int((frame["status"] == "failed").sum())
        frame = frame[frame["status"] != "failed"]
        models = sorted(frame["model"].unique())
        if len(models) != 1:
            raise TiacfError(f"{path}: has predictions of {len(models)} models; give those of one")
        if frame["patient"].duplicated().any():
            twice = examples(frame["patient"][frame["patient"].duplicated()])
            raise TiacfError(f"{path}: has patients twice, such as {twice}; keep one row a patient")
        count = sum(column.startswith("survival_") for column in frame.columns)
        numbers = [
            "risk",
            *(f"{kind}_{k}" for kind in ("bin_edge", "survival") for k in range(1, count + 1)),
        ]
        values = frame.reindex(columns=numbers).apply(pd.to_numeric, errors="coerce")
        if not count or values.isna().any(axis=None) or (frame["time_unit"] == "").any():
            raise TiacfError(
                f"{path}: lacks risks or curves of some patients, so that the model may have no time bins; "
                "predict with a model that has them"
            )
        edges = values[[f"bin_edge_{k}" for k in range(1, count + 1)]].to_numpy()
        bins = TimeBins(edges=(0.0, *edges[0]), unit=frame["time_unit"].iloc[0])
        made = values[["risk", *(f"survival_{k}" for k in range(1, count + 1))]]
        made = made.assign(high=frame["risk_group"] == "high").set_axis(frame["patient"])
        return cls(models[0], bins, made, failed)

    def of(self, table: CohortTable) -> tuple[FoldPredictions, list[str]]:
        """Return the predictions of the patients that are in a table, and notes.

        Raises:
            TiacfError: times are in another unit than the model's, or no patient is in the table.
        """
        curves = self.patients.filter(regex=r"^survival_\d+$").to_numpy()
        names = list(self.patients.index)
        fold = locked_predictions(
            table,
            dict(zip(names, self.patients["risk"], strict=True)),
            dict(zip(names, curves, strict=True)),
            dict(zip(names, self.patients["high"], strict=True)),
            self.bins,
        )
        notes = [
            "Whether these patients took part in the training is not known from a table; --model with --bags "
            "tells."
        ]
        if self.failed:
            notes.append(f"{self.failed} patients failed to be predicted and are left out.")
        return fold, [*notes, *coverage(table, fold)]


def coverage(table: CohortTable, fold: FoldPredictions) -> list[str]:
    """Return a note on patients of the table without a prediction."""
    lacking = sorted(set(table.patients.index) - set(fold.patients))
    if not lacking:
        return []
    return [
        f"{len(lacking)} of {len(table.patients)} patients of the table have no prediction and are left out, "
        f"such as {examples(lacking)}."
    ]


def overlap(known: Mapping[str, bool]) -> str:
    """Return a sentence on the patients whose slides the model was trained on, from that by patient."""
    seen = sorted(name for name, was in known.items() if was)
    if not seen:
        return (
            f"None of the {len(known)} patients has a slide that the model was trained on (hashes of slides "
            "and features compared)."
        )
    return (
        f"{len(seen)} of {len(known)} patients have slides that the model was trained on, such as "
        f"{examples(seen)}: the figures are optimistic. Leave these patients out of the table."
    )
