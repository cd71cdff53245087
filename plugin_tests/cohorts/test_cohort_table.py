"""Cohort tables: what is read from a file, and what is refused in one line."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.matching import match_bags
from tiacrossfusion.cohorts.table import read_table
from tiacrossfusion.errors import TiacfError

GOOD = """slide,patient,time,event,age,stage
a1.svs,007,10,1,60,II
a2.svs,007,10,1,60,II
b.svs,b,20.5,0,70,III
c.svs,c,5,1,65,II
"""
TCGA = {
    "slide": "slide_id",
    "patient": "case_id",
    "time": "survival_months",
    "censorship": "censorship",
}


def read(tmp_path: Path, text: str, *, drop_unusable: bool = False, **columns):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return read_table(path, Columns(**columns), "months", drop_unusable=drop_unusable)


def refusal(tmp_path: Path, text: str, **options) -> str:
    with pytest.raises(TiacfError) as caught:
        read(tmp_path, text, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_table_is_read_by_patient(tmp_path):
    table = read(tmp_path, GOOD, covariates=("age", "stage"))
    assert table.patients.to_dict("index") == {
        "007": {"time": 10.0, "event": 1, "age": 60, "stage": "II"},
        "b": {"time": 20.5, "event": 0, "age": 70, "stage": "III"},
        "c": {"time": 5.0, "event": 1, "age": 65, "stage": "II"},
    }
    assert table.slides.to_dict("list") == {
        "slide": ["a1.svs", "a2.svs", "b.svs", "c.svs"],
        "patient": ["007", "007", "b", "c"],
    }
    assert (table.time_unit, table.left_out, table.messages()) == ("months", {}, [])
    assert table.sha256 == hashlib.sha256((tmp_path / "table.csv").read_bytes()).hexdigest()


def test_names_of_columns_and_censorship(tmp_path):
    text = ",slide_id,case_id,survival_months,censorship\n0,x.svs,x,3,0\n1,y.svs,y,4,1\n"
    table = read(tmp_path, text, **TCGA)
    assert table.patients["event"].to_dict() == {"x": 1, "y": 0}


@pytest.mark.parametrize("values", [("True", "False"), ("1.0", "0.0"), ("TRUE", "FALSE")])
def test_events_as_truth_or_numbers(tmp_path, values):
    text = f"slide,patient,time,event\na,a,1,{values[0]}\nb,b,2,{values[1]}\n"
    assert read(tmp_path, text).patients["event"].to_list() == [1, 0]


def test_a_packed_table_is_the_same(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("../elsewhere/t.csv", GOOD)
    packed = read_table(tmp_path / "t.csv.zip", Columns(), "months")
    assert packed.patients.equals(read(tmp_path, GOOD).patients)


def test_a_parquet_table_is_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    want = read(tmp_path, GOOD, covariates=("age", "stage"))
    frame = pd.read_csv(tmp_path / "table.csv", dtype={"patient": str})
    frame["stage"] = frame["stage"].astype("category")
    frame["event"] = frame["event"].astype("Int64")
    frame.set_index("slide").to_parquet(tmp_path / "table.parquet")
    have = read_table(tmp_path / "table.parquet", Columns(covariates=("age", "stage")), "months")
    assert have.patients.astype({"stage": str}).equals(want.patients)
    assert have.slides.equals(want.slides)
    frame["time"] = pd.Timestamp("2020-01-01")
    frame.to_parquet(tmp_path / "dates.parquet")
    with pytest.raises(TiacfError, match="no value of 'time' is a number"):
        read_table(tmp_path / "dates.parquet", Columns(), "months")


def test_parquet_without_its_library_names_it(tmp_path, monkeypatch):
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(TiacfError, match="pip install pyarrow"):
        read_table(tmp_path / "t.parquet", Columns(), "months")


def test_a_table_without_slides_has_one_named_like_each_patient(tmp_path):
    table = read(tmp_path, "patient,time,event\np,1,1\nq,2,0\n")
    assert table.slides.to_dict("list") == {"slide": ["p", "q"], "patient": ["p", "q"]}
    assert "no column 'slide'" in table.messages()[0]
    repeated = "patient,time,event\np,1,1\np,1,1\n"
    assert "1 of 2 rows repeat a slide, such as p" in refusal(tmp_path, repeated)


def test_patients_named_by_the_start_of_a_barcode(tmp_path):
    text = "case_id,slide_id,survival_months,censorship\n" + "".join(
        f"{name}-01Z,{name}-01Z-{k}.svs,3,0\n"
        for name, k in (("TCGA-3L-AA1B", 1), ("TCGA-3L-AA1B", 2), ("TCGA-4N-A93T", 1))
    )
    table = read(tmp_path, text, **TCGA, patient_characters=12)
    assert table.patients.index.to_list() == ["TCGA-3L-AA1B", "TCGA-4N-A93T"]
    assert len(table.slides) == 3


def test_missing_columns_are_named_with_their_options(tmp_path):
    line = refusal(tmp_path, "slide,case_id,Time,censorship,sex\na,a,1,1,f\n", covariates=("Sexx",))
    assert "'patient' (--patient-column)" in line
    assert "'time' (--time-column: is it Time?)" in line
    assert "'event' (--event-column)" in line
    assert "'Sexx' (--covariates: is it sex?)" in line
    assert "the table has slide, case_id, Time, censorship, sex" in line
    assert line.endswith("--censorship-column censorship")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("d.svs,d,,1", "time missing: 1"),
        ("d.svs,d,3,", "event missing: 1"),
        ("d.svs,d,0,1", "time zero or negative: 1"),
        ("d.svs,d,-3,1", "time zero or negative: 1"),
        ("d.svs,d,inf,1", "time not a finite number: 1"),
        ("d.svs,d,unknown,1", "time not a finite number: 1"),
    ],
)
def test_unusable_follow_up_is_refused_or_left_out_and_counted(tmp_path, row, reason):
    text = f"{GOOD}{row},50,I\n"
    line = refusal(tmp_path, text)
    assert f"1 of 5 rows cannot be used ({reason}), such as d.svs" in line
    assert "--drop-unusable" in line
    table = read(tmp_path, text, drop_unusable=True)
    assert table.left_out == {reason.removesuffix(": 1"): [("d.svs", "d")]}
    assert table.patients.index.to_list() == ["007", "b", "c"]
    (message,) = table.messages()
    assert "1 row (1 patient lost), such as d.svs" in message


def test_a_row_is_left_out_once_and_its_patient_may_stay(tmp_path):
    text = f"{GOOD}a3.svs,007,0,,60,II\nd.svs,d,9,0,,I\n"
    table = read(tmp_path, text, drop_unusable=True, covariates=("age",))
    assert table.left_out == {
        "time zero or negative": [("a3.svs", "007")],
        "covariate age missing": [("d.svs", "d")],
    }
    assert "(0 patients lost)" in table.messages()[0]
    assert len(table.slides) == 4


def test_covariates_matter_only_when_asked_for(tmp_path):
    text = f"{GOOD}d.svs,d,9,0,,I\ne.svs,e,9,0,inf,I\n"
    assert len(read(tmp_path, text).patients) == 5
    assert "covariate age missing: 2" in refusal(tmp_path, text, covariates=("age",))
    text = f"{GOOD}d.svs,d,9,0,old,I\n"
    line = refusal(tmp_path, text, covariates=("age",), drop_unusable=True)
    assert "1 of 5 values of the covariate 'age' are no numbers, such as old" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("slide,patient,time,event\n", "a header and no rows"),
        ("slide;patient;time;event\na;a;1;1\n", "not separated by commas"),
        ("slide,patient,time,time,event\na,a,1,1,1\n", "1 columns stand twice, such as time"),
        ("slide,patient,time,event\na,a,1,1,9\n", "more fields than the header"),
        ("slide,patient,time,event\na,a,1,1\nb,b,1,1,9\n", "more fields than the header"),
        (GOOD + "d.svs,d,3,2,50,I\n", "1 of 5 values of 'event' are neither 0 nor 1, such as 2"),
        (GOOD + "d.svs,d,3,dead,50,I\n", "such as dead (d.svs)"),
        (GOOD + "c.svs,c,5,1,65,II\n", "1 of 5 rows repeat a slide, such as c.svs"),
        (GOOD + "c.svs,d,5,1,65,II\n", "1 slides are of several patients, such as c.svs"),
        (GOOD + ",d,5,1,65,II\n", "1 of 5 rows name no slide, such as data row 5"),
        (GOOD + "d.svs,,5,1,65,II\n", "1 of 5 rows name no patient, such as data row 5"),
        (GOOD + "d.svs,c,6,1,65,II\n", "1 of 3 patients have slides that disagree on time, such"),
        ("slide,patient,time,event\na,a,1,0\nb,b,2,0\n", "none of the 2 patients has an event"),
        ("slide,patient,time,event\na,a,0,0\nb,b,,1\n", "none of the 2 rows is usable"),
        ("slide,patient,time,event\na,a,x,0\nb,b,y,1\n", "no value of 'time' is a number"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    assert message in refusal(tmp_path, text, drop_unusable=True)


def test_slides_of_a_patient_agree_on_the_covariates_asked_for(tmp_path):
    text = GOOD.replace("a2.svs,007,10,1,60,II", "a2.svs,007,10,1,61,II")
    assert len(read(tmp_path, text).patients) == 3
    assert "disagree on age, such as 007" in refusal(tmp_path, text, covariates=("age", "stage"))


def test_the_outcome_is_no_covariate(tmp_path):
    assert "'time' is asked for twice" in refusal(tmp_path, GOOD, covariates=("age", "time"))
    text = (
        GOOD.replace("age", "event_free").replace(",event,", ",status,").replace("stage", "event")
    )
    line = refusal(tmp_path, text, censorship="status", covariates=("event",))
    assert "cannot be named 'event'" in line


def test_a_cohort_without_censoring_is_read_and_noted(tmp_path):
    table = read(tmp_path, "slide,patient,time,event\na,a,1,1\nb,b,2,1\n")
    assert "no patient is censored" in table.messages()[0]


def test_files_that_are_no_table(tmp_path):
    for name, message in (("absent.csv", "no such file"), ("t.xlsx", "not a table")):
        with pytest.raises(TiacfError, match=message):
            read_table(tmp_path / name, Columns(), "months")
    (tmp_path / "latin.csv").write_bytes("slide,patient,time,event\né,a,1,1\n".encode("latin-1"))
    with pytest.raises(TiacfError, match="not UTF-8"):
        read_table(tmp_path / "latin.csv", Columns(), "months")
    (tmp_path / "broken.csv.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(TiacfError, match="cannot be read as CSV"):
        read_table(tmp_path / "broken.csv.zip", Columns(), "months")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TiacfError, match="cannot be read as CSV"):
        read_table(tmp_path / "folder.csv", Columns(), "months")
    with pytest.raises(TiacfError, match="time unit is empty"):
        read_table(tmp_path / "latin.csv", Columns(), " ")


def table_of(tmp_path: Path, *slides: str):
    rows = "".join(f"{slide},p{number},5,1\n" for number, slide in enumerate(slides))
    return read(tmp_path, f"slide,patient,time,event\n{rows}")


BARCODE = "TCGA-2F-A9KO-01Z-00-DX1.195576CF-B739-4BD9"


@pytest.mark.parametrize(
    ("slide", "store"),
    [
        ("a.svs", "a.svs.zarr"),
        ("a.svs", "a.zarr"),
        ("a", "a.zarr"),
        ("a", "a.SVS.zarr"),
        (f"{BARCODE}.svs", f"{BARCODE}.zarr"),
        (BARCODE, f"{BARCODE}.zarr"),
        (BARCODE, f"{BARCODE}.svs.zarr"),
    ],
)
def test_bags_are_found_by_name(tmp_path, slide, store):
    others = [Path("x/b.zarr"), Path("x/aa.zarr"), Path("x/TCGA-2F-A9KO-01Z-00-DX1.zarr")]
    table, found = match_bags(table_of(tmp_path, slide), [*others, Path("x") / store])
    assert found == {slide: Path("x") / store}
    assert "3 bags belong to no slide of the table" in table.messages()[-1]


def test_the_exact_name_wins(tmp_path):
    table = table_of(tmp_path, "a.svs", "a.ndpi")
    stores = [Path("a.ndpi.zarr"), Path("a.svs.zarr")]
    assert match_bags(table, stores)[1] == {"a.svs": stores[1], "a.ndpi": stores[0]}


def test_missing_and_ambiguous_bags_are_refused(tmp_path):
    table = table_of(tmp_path, "a.svs", "b.svs", "c.svs")
    line = "2 of 3 slides have no bag among 1, such as b.svs, c.svs; extract them"
    with pytest.raises(TiacfError, match=line):
        match_bags(table, [Path("a.zarr")])
    with pytest.raises(TiacfError, match=r"1 of 1 slides have no bag"):
        match_bags(table_of(tmp_path, "a.svs"), [Path("a.ndpi.zarr")])
    with pytest.raises(TiacfError, match=r"slide a has 2 bags: a.svs.zarr, a.tif.zarr"):
        match_bags(table_of(tmp_path, "a"), [Path("a.svs.zarr"), Path("a.tif.zarr")])
    with pytest.raises(TiacfError, match=r"slide a.svs has 2 bags: x/a.zarr, y/a.zarr"):
        match_bags(table_of(tmp_path, "a.svs"), [Path("x/a.zarr"), Path("y/a.zarr")])
    with pytest.raises(TiacfError, match=r"bag of two slides, a.svs and a.tif"):
        match_bags(table_of(tmp_path, "a.svs", "a.tif"), [Path("a.zarr")])


def test_slides_without_a_bag_are_left_out_on_demand_and_counted(tmp_path):
    table = table_of(tmp_path, "a.svs", "b.svs", "c.svs")
    kept, found = match_bags(table, [Path("a.zarr")], drop_missing=True)
    assert list(found) == list(kept.slides["slide"]) == ["a.svs"]
    assert len(kept.patients) == 1
    assert "left out, no bag: 2 rows (2 patients lost), such as b.svs, c.svs" in kept.messages()
    with pytest.raises(TiacfError, match="3 of 3 slides have no bag"):
        match_bags(table, [Path("x.zarr")], drop_missing=True)


@pytest.mark.parametrize(
    ("cohort", "patients", "slides", "events"),
    [
        ("blca", 373, 437, 169),
        ("coad", 393, 401, 87),
        ("luad", 444, 507, 157),
        ("ucec", 480, 539, 75),
    ],
)
def test_tcga_tables_load(shared_data, cohort, patients, slides, events):
    (path,) = (shared_data / "tables" / "tcga").glob(f"tcga_{cohort}_all_clean.csv*")
    barcode = {"patient_characters": 12} if cohort == "coad" else {}
    columns = Columns(**TCGA, **barcode)
    table = read_table(path, columns, "months", drop_unusable=cohort == "coad")
    assert (len(table.patients), len(table.slides)) == (patients, slides)
    assert table.patients["event"].sum() == events
    if cohort == "coad":
        assert {why: len(rows) for why, rows in table.left_out.items()} == {
            "time zero or negative": 23
        }
        with pytest.raises(TiacfError, match="23 of 424 rows cannot be used"):
            read_table(path, columns, "months")
