"""Folds in which no site is in two parts, and ordered levels of covariates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.levels import level_numbers, read_levels
from tiacrossfusion.cohorts.site_folds import site_folds
from tiacrossfusion.cohorts.table import read_table
from tiacrossfusion.errors import TiacfError, UsageError


@pytest.fixture
def table(tmp_path):
    random = np.random.default_rng(0)
    sites = random.choice(
        ["A1", "B2", "C3", "D4", "E5", "F6", "G7", "H8"], 200, p=[0.3] + [0.1] * 7
    )
    pd.DataFrame(
        {
            "patient": [f"TCGA-{site}-{i:04}" for i, site in enumerate(sites)],
            "time": random.exponential(20, 200) + 0.1,
            "event": random.integers(0, 2, 200),
            "hospital": sites,
        }
    ).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


@pytest.mark.parametrize("column", ["hospital", "tcga-site"])
def test_no_site_is_in_two_parts_and_all_are_tested_once(table, column):
    cohort = read_table(table, Columns(fold_by=column), "months")
    folds, said = site_folds(cohort, 4, seed=1)
    for fold in folds:
        parts = [set(cohort.sites[list(part)]) for part in (fold.train, fold.validation, fold.test)]
        assert all(parts)
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
    assert sorted(name for fold in folds for name in fold.test) == list(cohort.patients.index)
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) < 40  # the largest site alone has about 60 of 200
    assert "8 sites" in said[0]
    assert site_folds(cohort, 4, seed=1)[0] == folds


def test_too_few_sites_and_patients_without_one_are_refused(table):
    cohort = read_table(table, Columns(fold_by="hospital"), "months")
    with pytest.raises(TiacfError, match=r"8 sites .* are too few for 9 test folds"):
        site_folds(cohort, 9, seed=0)
    frame = pd.read_csv(table)
    frame.assign(hospital="A1").to_csv(table, index=False)
    with pytest.raises(TiacfError, match=r"1 sites \(A1\) are too few"):
        site_folds(read_table(table, Columns(fold_by="hospital"), "months"), 5, seed=0)
    frame.loc[3, "hospital"] = None
    frame.to_csv(table, index=False)
    with pytest.raises(TiacfError, match="1 of 200 patients have no site"):
        read_table(table, Columns(fold_by="hospital"), "months")
    frame.assign(patient=frame.patient.str[5:]).to_csv(table, index=False)
    with pytest.raises(TiacfError, match=r"200 of 200 patients have no site .*tcga-site"):
        read_table(table, Columns(fold_by="tcga-site"), "months")


def test_levels_become_numbers_and_others_are_named(tmp_path):
    levels = read_levels(["stage=I,II|IIA|IIB,III"])["stage"]
    values = pd.Series(["i", "IIB", "III", "[Not Available]", None, "II"], name="stage")
    found = level_numbers(tmp_path, values, levels)
    np.testing.assert_array_equal(found, [0, 1, 2, np.nan, np.nan, 1])
    grades = level_numbers(tmp_path, pd.Series([1.0, 2.0, np.nan], name="g"), ("1", "2"))
    np.testing.assert_array_equal(grades, [0, 1, np.nan])
    with pytest.raises(TiacfError, match=r"IIIa .did you mean iii"):
        level_numbers(tmp_path, pd.Series(["IIIa"], name="stage"), levels)
    for wrong in ("stage", "stage=", "stage=I", "stage=I,,II"):
        with pytest.raises(UsageError, match="--ordinal"):
            read_levels([wrong])
