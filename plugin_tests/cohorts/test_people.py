"""Who is who in a table, and what may be left out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import TiacfError


def table(
    folder: Path, frame: pd.DataFrame, unit: str = "months", **options: object
) -> CohortTable:
    drop = bool(options.pop("drop_unusable", False))
    frame.to_csv(folder / "t.csv", index=False)
    return read_table(folder / "t.csv", Columns(**options), unit, drop_unusable=drop)


def people(*names: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "slide": [f"s{n}" for n in range(len(names))],
            "patient": names,
            "time": np.arange(len(names)) + 10,
            "event": np.arange(len(names)) % 2,
        }
    )


def test_tcga_barcodes_are_reduced_to_the_patient_and_it_is_said(tmp_path):
    frame = people("TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0001-01Z-00-DX2", "tcga-aa-0002", "other")
    frame.loc[1, ["time", "event"]] = frame.loc[0, ["time", "event"]]
    read = table(tmp_path, frame)
    assert list(read.patients.index) == ["TCGA-AA-0001", "TCGA-AA-0002", "other"]
    (note,) = (line for line in read.messages() if "barcodes" in line)
    assert "4 names to 3 patients" in note
    assert "--patient-characters 1000" in note
    assert len(table(tmp_path, frame, patient_characters=1000).patients) == 4
    frame.loc[1, "time"] += 1
    with pytest.raises(TiacfError, match=r"disagree on time, such as TCGA-AA-0001.*barcodes"):
        table(tmp_path, frame)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ab1", "aB1"),
        ("M\u00fcller", "Mu\u0308ller"),
        ("p 1", "p1"),
        ("p1", "p1.svs"),
        ("\uff301", "P1"),
    ],
    ids=["case", "unicode", "space", "ending", "width"],
)
def test_names_that_are_likely_one_person_are_named(tmp_path, one, other):
    with pytest.raises(TiacfError, match="1 patients have several names") as caught:
        table(tmp_path, people(one, other, "x"))
    assert repr(one) in str(caught.value)
    assert repr(other) in str(caught.value)
    assert len(table(tmp_path, people(one, f"{other}2", "x")).patients) == 3


def test_na_is_a_name(tmp_path):
    read = table(tmp_path, people("NA", "NB", "null"))
    assert list(read.patients.index) == ["NA", "NB", "null"]
    with pytest.raises(TiacfError, match="1 of 3 rows name no patient"):
        table(tmp_path, people("", "NB", "null"))


@pytest.mark.parametrize("time", ["1,234", "12,5", "1.234.567", "1 234", "1'234.5", "1.234,5"])
def test_numbers_in_another_notation_are_refused_even_where_rows_may_be_left_out(tmp_path, time):
    frame = people(*(f"p{n}" for n in range(20))).astype({"time": object})
    frame.loc[19, "time"] = time
    with pytest.raises(
        TiacfError, match="1 of 20 values of 'time' are numbers with separators"
    ) as caught:
        table(tmp_path, frame, drop_unusable=True)
    assert time.replace("\u00a0", " ") in str(caught.value)


def test_values_that_are_left_out_are_shown(tmp_path):
    frame = people(*(f"p{n}" for n in range(20))).astype({"time": object})
    frame.loc[3, "time"] = "unknown"
    lines = table(tmp_path, frame, drop_unusable=True).messages()
    assert any("values: unknown" in line for line in lines)


@pytest.mark.parametrize(
    ("times", "unit", "years"),
    [(900.0, "months", "75 years"), (50.0, "Years", "50 years"), (20_000.0, "days", "55 years")],
)
def test_times_that_are_too_long_for_the_unit_are_refused(tmp_path, times, unit, years):
    frame = people("a", "b", "c").assign(time=times)
    with pytest.raises(TiacfError, match=f"median follow-up is .* {unit}, which is {years}"):
        table(tmp_path, frame, unit)
    table(tmp_path, frame.assign(time=10.0), unit)
    table(tmp_path, frame, "visits")  # a unit that is not known is not checked


def test_what_is_left_out_must_not_differ_in_follow_up_or_events(tmp_path):
    frame = people(*(f"p{n}" for n in range(60))).assign(x=1.0)
    alike = frame.assign(x=[None if n % 5 == 0 else n * 1.0 for n in range(60)])
    read = table(tmp_path, alike, covariates=("x",), drop_unusable=True)
    assert len(read.patients) == 48
    late = frame.assign(x=[None if n >= 48 else n * 1.0 for n in range(60)])
    with pytest.raises(TiacfError, match="another follow-up than the rest"):
        table(tmp_path, late, covariates=("x",), drop_unusable=True)
    dead = frame.assign(x=[None if n % 2 and n < 40 else n * 1.0 for n in range(60)])
    with pytest.raises(TiacfError, match="have an event, of the rest"):
        table(tmp_path, dead, covariates=("x",), drop_unusable=True)
