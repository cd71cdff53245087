"""Folds keep patients apart and cohorts balanced; given splits are read as they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.folds import (
    PARTS,
    Fold,
    check_folds,
    holdout_fold,
    nested_folds,
    read_folds,
    write_folds,
)
from tiacrossfusion.cohorts.splits import given_folds, official_folds, read_splits
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import TiacfError


def cohort(size: int = 100, seed: int = 0, censored: float = 0.6) -> CohortTable:
    """Patients p000 ... with a slide each, p000 with two."""
    rng = np.random.default_rng(seed)
    names = [f"p{number:03d}" for number in range(size)]
    patients = pd.DataFrame(
        {
            "time": rng.exponential(20, size) + 0.1,
            "event": (rng.uniform(size=size) > censored).astype(int),
        },
        index=pd.Index(names, name="patient"),
    )
    slides = pd.DataFrame(
        {
            "slide": ["p000-2.svs", *(f"{name}-1.x.svs" for name in names)],
            "patient": ["p000", *names],
        }
    )
    return CohortTable(patients, slides, "months", "0" * 64)


def parts(fold: Fold) -> list[tuple[str, ...]]:
    return [getattr(fold, part) for part in PARTS]


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(25, 120),
    n_folds=st.integers(2, 6),
    share=st.floats(0.1, 0.5),
    seed=st.integers(0, 2**32),
)
def test_nested_folds_partition_the_patients(size, n_folds, share, seed):
    table = cohort(size, seed % 97)
    folds = nested_folds(table, n_folds, share, seed=seed)
    assert [fold.number for fold in folds] == list(range(n_folds))
    everybody = set(table.patients.index)
    tested = [patient for fold in folds for patient in fold.test]
    assert sorted(tested) == sorted(everybody)
    for fold in folds:
        together = [patient for part in parts(fold) for patient in part]
        assert len(together) == len(set(together)) == size
        assert len(fold.validation) == round(share * (size - len(fold.test)))


def test_folds_are_balanced_in_events_and_times():
    table = cohort(403, censored=0.7)
    order = table.patients.sort_values("time")
    for fold in nested_folds(table, 5, 0.2, seed=1):
        for part, share in zip(parts(fold), (0.64, 0.16, 0.2), strict=True):
            assert abs(len(part) - share * 403) <= 1.5
            for event in (0, 1):
                stratum = order.index[order["event"] == event]
                for quarter in np.array_split(stratum, 4):
                    inside = len(set(quarter) & set(part))
                    # plain shuffling is off by up to 15 of about 70 here
                    assert abs(inside - share * len(quarter)) <= 3


def test_folds_follow_the_seed_and_not_the_order_of_rows():
    table = cohort()
    shuffled = replace(table, patients=table.patients.sample(frac=1, random_state=3))
    assert nested_folds(table, seed=5) == nested_folds(shuffled, seed=5)
    assert nested_folds(table, seed=5) != nested_folds(table, seed=6)
    assert holdout_fold(table, seed=5) == holdout_fold(shuffled, seed=5)
    assert holdout_fold(table, seed=5) != holdout_fold(table, seed=6)


def test_every_patient_is_as_likely_to_be_tested():
    table = cohort(20)
    tested = Counter(
        name for seed in range(200) for name in holdout_fold(table, 0.5, 0.2, seed=seed).test
    )
    assert set(tested) == set(table.patients.index)
    assert 60 < min(tested.values()) <= max(tested.values()) < 140  # 100 expected, SD 7


def test_a_holdout_fold_has_the_shares_asked_for():
    fold = holdout_fold(cohort(100), 0.3, 0.1, seed=0)
    assert [len(part) for part in parts(fold)] == [63, 7, 30]
    assert len({name for part in parts(fold) for name in part}) == 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: nested_folds(t, 1, seed=0), "--folds 1: must be 2 or more"),
        (lambda t: nested_folds(t, 101, seed=0), "100 patients are too few for 101 folds"),
        (lambda t: nested_folds(t, 5, 0.0, seed=0), "validation_share 0: must lie between"),
        (lambda t: nested_folds(t, 5, 0.001, seed=0), "leaves a part empty"),
        (lambda t: holdout_fold(t, 1.0, seed=0), "test_share 1: must lie between"),
    ],
)
def test_impossible_divisions_are_refused(call, message):
    with pytest.raises(TiacfError, match=message):
        call(cohort())


def write_split(path: Path, train: list[str], val: list[str]) -> Path:
    columns = {"train": pd.Series(train, dtype=object), "val": pd.Series(val, dtype=object)}
    pd.DataFrame(columns).to_csv(path)
    return path


@pytest.fixture
def names() -> list[str]:
    return [f"p{number:03d}" for number in range(100)]


@pytest.mark.parametrize("ending", ["", "-1.x", "-1.x.svs"])
def test_splits_name_patients_or_slides(tmp_path, names, ending):
    ids = [f"{name}{ending}" for name in names]
    write_split(tmp_path / "splits_0.csv", ids[:80], ids[80:])
    (split,) = read_splits(tmp_path, cohort())
    assert (split.train, split.val) == (tuple(names[:80]), tuple(names[80:]))
    assert split.messages() == []
    (fold,) = official_folds([split])
    assert fold == Fold(0, split.train, split.val, split.val)
    assert fold.optimistic


def test_splits_of_a_folder_are_read_by_number(tmp_path, names):
    for number in (10, 2):
        write_split(tmp_path / f"splits_{number}.csv", names[number:80], names[80:])
    (tmp_path / "splits_2_bool.csv").write_text("other,columns\n1,2\n")
    (tmp_path / "notes.txt").write_text("no split")
    assert [split.number for split in read_splits(tmp_path, cohort())] == [2, 10]
    files = [write_split(tmp_path / f"{name}.csv", names[:50], names[50:]) for name in "ab"]
    assert [split.number for split in read_splits(files, cohort())] == [0, 1]
    with pytest.raises(TiacfError, match="several split files have the same number"):
        read_splits([files[0], write_split(tmp_path / "splits_0.csv", names, names)], cohort())


def test_what_does_not_fit_is_told_and_passed_over(tmp_path, names):
    table = replace(cohort(), left_out={"time missing": [("q-1.svs", "q")]})
    write_split(tmp_path / "splits_0.csv", [*names[:70], "zz", "q-1"], [*names[80:], "yy"])
    (split,) = read_splits(tmp_path, table)
    assert (split.unknown, split.unusable) == (("zz", "yy"), ("q-1",))
    assert split.unnamed == tuple(names[70:80])
    text = "\n".join(split.messages())
    assert "2 ids are not in the table and are ignored, such as zz, yy" in text
    assert "1 ids were left out of the table and are ignored, such as q-1" in text
    assert "10 patients of the table are in neither column" in text
    (fold,) = given_folds([split], table, seed=0)
    assert fold.test == split.val
    assert sorted(fold.train + fold.validation) == names[:70]
    assert len(fold.validation) == 14
    check_folds([fold], table, 4)


def test_a_patient_on_both_sides_is_refused_but_for_the_official_protocol(tmp_path, names):
    train = ["p000-1.x.svs", *names[1:80]]
    write_split(tmp_path / "splits_0.csv", train, ["p000-2.svs", *names[79:]])
    table = cohort()
    splits = read_splits(tmp_path, table)
    assert splits[0].leaked == ("p000", "p079")
    with pytest.raises(TiacfError, match="2 patients are in both train and val, such as p000"):
        given_folds(splits, table, seed=0)
    assert any("2 patients are in both" in line for line in splits[0].messages())
    check_folds(official_folds(splits), table, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (",train,val\n", "a header and no rows"),
        (",train,valid\n0,p000,p001\n", "has no column val; it needs train, val"),
        (",train,val\n0,p000,\n1,p001,\n", "the column val is empty"),
        (",train,val\n0,p000,p001\n1,p000,p002\n", "1 ids stand twice in the column train"),
        (",train,val\n0,x,p001\n1,y,\n", "none of the 2 ids of the column train"),
        (",train,val,test\n0,p000,p001,p002\n", "has a column test"),
    ],
)
def test_bad_split_files_are_refused(tmp_path, text, message):
    (tmp_path / "splits_0.csv").write_text(text)
    with pytest.raises(TiacfError, match=message):
        read_splits(tmp_path, cohort())


def test_absent_splits_are_refused(tmp_path):
    with pytest.raises(TiacfError, match="no such file or folder"):
        read_splits(tmp_path / "absent", cohort())
    with pytest.raises(TiacfError, match=r"no splits_0.csv"):
        read_splits(tmp_path, cohort())
    with pytest.raises(TiacfError, match="no such file"):
        read_splits([tmp_path / "absent.csv"], cohort())


def test_an_id_of_two_patients_is_refused(tmp_path, names):
    table = cohort()
    slides = pd.concat([table.slides, pd.DataFrame({"slide": ["p001.svs"], "patient": ["p002"]})])
    write_split(tmp_path / "splits_0.csv", names[:80], names[80:])
    with pytest.raises(TiacfError, match="'p001' stands for two patients"):
        read_splits(tmp_path, replace(table, slides=slides))


def test_folds_are_checked_before_training(names):
    table = cohort()
    good = nested_folds(table, seed=0)
    check_folds(good, table, 4)
    events = table.patients.index[table.patients["event"] == 1].to_list()
    quiet = [name for name in names if name not in events]
    last = table.patients.loc[events, "time"].idxmax()
    late = [n for n in quiet if table.patients.time[n] < table.patients.time[last]]
    rest = tuple(name for name in names if name not in {*quiet[:20], last})
    for fold, problem in (
        (Fold(1, rest, good[0].validation, ()), "the test part is empty"),
        (Fold(1, good[1].train, tuple(quiet[:20]), good[1].test), "0 events among 20 validation"),
        (Fold(1, good[1].train, good[1].validation, tuple(quiet)), "0 events among"),
        (Fold(1, good[1].train, good[1].validation, (last, late[0])), "no two of them can be put"),
        (Fold(1, tuple(quiet), good[1].validation, good[1].test), "too few or too alike in time"),
        (Fold(1, names[:80], good[1].validation, ("zz",)), "1 test patients are not in the table"),
        (Fold(1, tuple(names), good[1].validation, good[1].test), "patients are in two parts"),
    ):
        with pytest.raises(TiacfError, match=r"1 of 2 folds cannot be used \(fold 1: ") as caught:
            check_folds([good[0], fold], table, 4)
        assert problem in str(caught.value)
    with pytest.raises(TiacfError, match="there is no fold"):
        check_folds([], table, 4)


def test_equal_event_times_are_too_few_for_the_bins():
    table = cohort(censored=0.2)
    table.patients["time"] = np.where(table.patients["event"] == 1, 7.0, table.patients["time"])
    with pytest.raises(TiacfError, match=r"5 of 5 folds cannot be used .*for 4 time bins"):
        check_folds(nested_folds(table, seed=0), table, 4)


def test_a_censored_patient_with_the_time_of_the_event_is_comparable():
    table = cohort(censored=0.2)
    table.patients.loc[["p000", "p001"]] = [[500.0, 1], [500.0, 0]]
    rest = tuple(table.patients.index[2:])
    check_folds([Fold(0, rest[:50], rest[50:], ("p000", "p001"))], table, 4)


def test_folds_come_back_as_written(tmp_path):
    table = cohort()
    folds = nested_folds(table, seed=2)
    official = Fold(7, ("NA", "007"), ("b",), ("b",))
    write_folds(tmp_path / "folds.csv", [*folds, official])
    assert read_folds(tmp_path / "folds.csv") == [*folds, official]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold,part,patient\n0,training,a\n", "1 rows have no patient, or a part that is none of"),
        ("fold,part,patient\n0,train,\n", "1 rows have no patient"),
        ("fold,part,patient\n0,train,a\n0,test,b\n", "fold 0 has no validation part"),
        (
            "fold,part,patient\n0,train,a\n0,train,a\n0,validation,c\n0,test,b\n",
            "fold 0 names a patient twice",
        ),
        ("fold,patient\n0,a\n", "has no column part"),
        ("fold,part,patient\nx,train,a\n", "cannot be read as CSV"),
    ],
)
def test_damaged_fold_files_are_refused(tmp_path, text, message):
    (tmp_path / "folds.csv").write_text(text)
    with pytest.raises(TiacfError, match=message):
        read_folds(tmp_path / "folds.csv")


@pytest.mark.parametrize(("name", "unknown"), [("blca", 0), ("coad", 0), ("luad", 9), ("ucec", 0)])
def test_the_given_tcga_splits_serve_and_do_not_leak(shared_data, name, unknown):
    folder = shared_data / "tables" / "tcga"
    columns = Columns(
        slide="slide_id",
        patient="case_id",
        time="survival_months",
        censorship="censorship",
        patient_characters=12 if name == "coad" else None,
    )
    (path,) = folder.glob(f"tcga_{name}_all_clean.csv*")
    table = read_table(path, columns, "months", drop_unusable=True)
    splits = read_splits(folder / f"splits_{name}", table)
    assert [split.number for split in splits] == [0, 1, 2, 3, 4]
    for split in splits:
        assert (len(split.unknown), split.leaked, split.unnamed) == (unknown, (), ())
    check_folds(given_folds(splits, table, seed=0), table, 4)
    check_folds(official_folds(splits), table, 4)
    check_folds(nested_folds(table, seed=0), table, 4)
