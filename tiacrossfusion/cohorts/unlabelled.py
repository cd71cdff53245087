"""A table of clinical records without follow-up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.cohorts.columns import COLUMN_OPTIONS, Columns
from tiacrossfusion.cohorts.levels import level_numbers, without_placeholders
from tiacrossfusion.cohorts.table_file import read_table_file
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.csv_table import refuse_missing
from tiacrossfusion.text import examples


@dataclass(frozen=True)
class Unlabelled:
    """Records of patients.

    Attributes:
        patients: index patient, a column a covariate; NaN or None where missing.
        slides: columns slide and patient, one row a slide.
    """

    patients: pd.DataFrame
    slides: pd.DataFrame

    def notes(self, with_bag: int) -> list[str]:
        """Return a note on slides without a bag."""
        lost = len(self.slides) - with_bag
        return [f"{lost} of {len(self.slides)} slides of the table have no bag"] if lost else []


def read_unlabelled(path: Path, columns: Columns) -> Unlabelled:
    """Read records; columns of follow-up are not read.

    Args:
        path: CSV or Parquet, a row a slide, or a patient where there is no column of slides.
        columns: names of slides, patients and covariates.

    Raises:
        TiacfError: the file cannot be read, a column is missing, or slides of a patient disagree.
    """
    raw = read_table_file(path, [columns.slide, columns.patient])
    wanted = {columns.patient: COLUMN_OPTIONS["patient"]}
    wanted |= dict.fromkeys(columns.covariates, COLUMN_OPTIONS["covariates"])
    refuse_missing(path, raw, wanted)
    slide = columns.slide if columns.slide in raw else columns.patient
    frame = raw[list(columns.covariates)].apply(without_placeholders)
    for name, levels in columns.ordinal.items():
        if name in frame:
            frame[name] = level_numbers(path, frame[name], levels)
    numbers = frame.select_dtypes("number")
    frame[numbers.columns] = numbers.replace([np.inf, -np.inf], np.nan)
    frame.insert(0, "patient", raw[columns.patient].astype(str).str.strip())
    frame.insert(0, "slide", raw[slide].astype(str).str.strip())
    different = frame.drop(columns="slide").drop_duplicates()["patient"]
    odd = list(different[different.duplicated()].unique())
    if len(odd):
        raise TiacfError(
            f"{path}: {len(odd)} patients have rows that disagree on their record, such as {examples(odd)}; "
            "make the rows of a patient agree"
        )
    patients = frame.drop_duplicates("patient").set_index("patient")[list(columns.covariates)]
    return Unlabelled(patients, frame[["slide", "patient"]].drop_duplicates())
