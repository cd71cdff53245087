"""The clinical record of a cohort's patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.survival.record import Kind, Record

#: A covariate that correlates so with time or event is the outcome, or was made of it.
_OUTCOME = 0.95

#: Categories with more levels than this are not compared with the outcome: by chance they would follow it.
_MOST_LEVELS = 20


def record_of(patients: pd.DataFrame, columns: Columns) -> Record | None:
    """Describe the covariates of patients; None without any.

    Args:
        patients: see `CohortTable.patients`.
        columns: names, kinds and units of the covariates.

    Raises:
        TiacfError: a covariate is missing for all, or cannot be of its kind.
    """
    if not columns.covariates:
        return None
    for setting, given in (("kinds", columns.kinds), ("units", columns.units)):
        odd = sorted(set(given) - set(columns.covariates))
        if odd:
            raise UsageError(
                f"columns.{setting}: {odd[0]} is not among the covariates; name it with --covariates too"
            )
    kinds: dict[str, Kind] = dict(columns.kinds)
    return Record.of(
        patients[list(columns.covariates)],
        kinds=kinds,
        ordinal=columns.ordinal,
        units=columns.units,
    )


def refuse_outcome(path: Path, patients: pd.DataFrame, covariates: tuple[str, ...]) -> None:
    """Refuse covariates that order the patients like their follow-up, or tell the event.

    Raises:
        TiacfError: names the covariate and the correlation.
    """
    for name in covariates:
        values = patients[name]
        known = values.notna()
        if known.sum() < 10 or values[known].nunique() < 2:
            continue
        for outcome in ("time", "event"):
            found = _correlation(values[known], patients.loc[known, outcome])
            if found >= _OUTCOME:
                raise TiacfError(
                    f"{path}: the covariate {name} has a correlation of {found:.3f} with the column of "
                    f"{'follow-up times' if outcome == 'time' else 'events'}: it tells the outcome; leave it "
                    "out of --covariates"
                )


def _correlation(values: pd.Series, outcome: pd.Series) -> float:
    """Size of the rank correlation of numbers, or the correlation ratio of categories; 0 where undefined."""
    if outcome.nunique() < 2:
        return 0.0
    if is_numeric_dtype(values):
        found = values.astype(float).corr(outcome.astype(float), method="spearman")
        return abs(float(found)) if np.isfinite(found) else 0.0
    levels = values.astype(str)
    if levels.nunique() > _MOST_LEVELS:
        return 0.0
    ranks = outcome.rank()
    means = ranks.groupby(levels).transform("mean")
    return float(np.sqrt(means.var() / ranks.var()))
