"""Patients who come under observation late: against lifelines, written-out sums, and a known truth."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from command_line import assert_failed, assert_usage, tiacf
from lifelines import CoxPHFitter, KaplanMeierFitter

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.evaluation.judging import Clinic
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.prediction_files import read_predictions
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.survival import cox_score, harrell_pairs, kaplan_meier, quantile_bins
from tiacrossfusion.survival.ridge_cox import fit_ridge


def registry(patients: int = 400, seed: int = 0) -> pd.DataFrame:
    """Patients who are registered some time after diagnosis; who died before that is not in the table."""
    random = np.random.default_rng(seed)
    x = random.normal(size=6 * patients)
    death = random.exponential(20 * np.exp(-x))
    entry = np.where(random.uniform(size=len(x)) < 0.3, 0.0, random.uniform(0, 15, len(x)))
    stop = entry + random.uniform(5, 60, len(x))
    seen = np.flatnonzero(np.minimum(death, stop) > entry)[:patients]
    frame = pd.DataFrame({"x": x, "entry": entry, "time": np.minimum(death, stop)})
    frame["event"] = (death <= stop).astype(int)
    return frame.iloc[seen].set_index(pd.Index([f"P{row}" for row in range(patients)]))


FRAME = registry()
TIMES, EVENTS, ENTRIES = (FRAME[name].to_numpy() for name in ("time", "event", "entry"))
X = FRAME["x"].to_numpy()


def test_survival_is_that_of_lifelines_and_counts_are_copies():
    at = np.array([0.5, 3.0, 11.0, 30.0])
    fitted = KaplanMeierFitter().fit(TIMES, EVENTS, entry=ENTRIES)
    found = kaplan_meier(TIMES, EVENTS, at, entries=ENTRIES)
    np.testing.assert_allclose(found, fitted.predict(at), atol=1e-9)
    counts = np.random.default_rng(0).integers(0, 3, len(TIMES))
    rows = np.repeat(np.arange(len(TIMES)), counts)
    drawn = kaplan_meier(TIMES, EVENTS, at, counts[None], ENTRIES)[0]
    copies = kaplan_meier(TIMES[rows], EVENTS[rows], at, entries=ENTRIES[rows])
    np.testing.assert_allclose(drawn, copies)


def test_cox_regression_is_that_of_lifelines():
    scaled = (X - X.mean()) / X.std()
    found = fit_ridge(scaled[:, None], TIMES, EVENTS, np.array([1e-12]), ENTRIES)
    frame = FRAME.assign(x=scaled)
    expected = CoxPHFitter().fit(frame, "time", "event", entry_col="entry")
    assert found[0] == pytest.approx(expected.params_["x"], abs=1e-5)


def test_pairs_and_score_are_written_out():
    concordant = comparable = score = information = 0.0
    for i in np.flatnonzero(EVENTS):
        risk_set = (TIMES[i] <= TIMES) & (TIMES[i] > ENTRIES)
        for j in np.flatnonzero(risk_set & (TIMES[i] < TIMES)):
            comparable += 1
            concordant += X[i] > X[j]
        score += X[i] - X[risk_set].mean()
        information += X[risk_set].var()
    pairs = harrell_pairs(TIMES, EVENTS, X, entries=ENTRIES)
    assert (float(pairs.concordant), float(pairs.comparable)) == (concordant, comparable)
    np.testing.assert_allclose(cox_score(TIMES, EVENTS, X, ENTRIES), (score, information))
    everybody = cox_score(TIMES, EVENTS, X, np.zeros(len(X)))
    np.testing.assert_allclose(everybody, cox_score(TIMES, EVENTS, X))


def predictions(entries: np.ndarray | None) -> FoldPredictions:
    bins = quantile_bins(TIMES, EVENTS, 4, "months")
    survival = np.exp(-np.outer(np.exp(X) / 20, bins.edges[1:]))
    return FoldPredictions(
        0, tuple(FRAME.index), TIMES, EVENTS, X, survival, X > 0, bins, TIMES, EVENTS, entries
    )


def test_the_true_model_is_calibrated_only_if_entry_is_known():
    known, ignored = (evaluate([predictions(entries)], draws=200) for entries in (ENTRIES, None))
    middle = len(known.times) // 2
    right, wrong = (found.pooled.calibration[middle] for found in (known, ignored))
    assert right.intercept.low < 0 < right.intercept.high
    assert wrong.intercept.high < 0  # who died before entry is not there: too few deaths
    assert right.observed_over_expected.low < 1 < right.observed_over_expected.high
    assert right.slope is not None
    assert right.slope.low < 1 < right.slope.high
    assert "left truncation" in " ".join(known.notes)
    for figure in (known.pooled.uno_c, known.pooled.brier, *known.pooled.auc):
        assert np.isnan(figure.value)
        assert figure.note
    assert known.pooled.risk_groups.log_rank_p < 1e-4


def test_entry_after_the_end_of_follow_up_is_refused():
    with pytest.raises(TiacfError, match="entry that is not before the end of follow-up"):
        replace(predictions(None), entries=TIMES)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "registry.csv"
    sites = np.where(np.arange(len(FRAME)) % 2, "north", "south")
    FRAME.assign(site=sites).rename_axis("patient").to_csv(path)
    return path


def test_training_and_evaluation_know_the_entry(table, tmp_path):
    common = ("--table", table, "--time-unit", "months", "--entry-time", "entry")
    trained, place = tmp_path / "run", tmp_path / "run" / "clinical"
    done = tiacf(
        "train", *common, "--model", "clinical", "--covariates", "x", "--output-path", trained
    )
    assert done.exit_code == 0, done.output
    assert "not computed, as follow-up begins after 0" in done.output
    kept = {
        name: when
        for fold in read_predictions(place)
        for name, when in zip(fold.patients, fold.entered, strict=True)
    }
    np.testing.assert_allclose(FRAME["entry"], [kept[name] for name in FRAME.index])
    judged = tmp_path / "judged"
    done = tiacf(
        "evaluate", *common, "--predictions", place, "--by", "site", "--covariates", "x",
        "--tables", "xlsx", "--json", "--output-path", judged,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["evaluation"]["pooled"]["brier"]["value"] is None
    sheets = pd.read_excel(judged / "tables.xlsx", sheet_name=None)
    assert {"Figures", "Folds", "Calibration", "By site"} <= set(sheets)
    assert sheets["Figures"]["value (95 % interval)"].str.contains("not computed").any()


def test_wrong_entries_and_networks_are_refused(table, tmp_path):
    frame = pd.read_csv(table)
    out = ("--output-path", tmp_path / "out", "--time-unit", "months")
    cox = ("--model", "clinical", "--covariates", "x", "--entry-time", "entry", *out)
    for value, words in ((-3.0, "no times of 0 or more"), (1e6, "entry not before the end")):
        frame["entry"] = FRAME["entry"].to_numpy()
        frame.loc[5, "entry"] = value
        frame.to_csv(tmp_path / "t.csv", index=False)
        assert_failed(tiacf("train", "--table", tmp_path / "t.csv", *cox), words)
    assert_usage(
        tiacf("train", "--table", table, *cox[:-4], *out, "--entry-time", "begin"), "begin"
    )
    done = tiacf(
        "train", "--table", table, "--bags", tmp_path, *out, "--entry-time", "entry", "--model",
        "mean-pool",
    )  # fmt: skip
    assert done.exit_code != 0
    done = tiacf(
        "evaluate", "--table", table, "--predictions", tmp_path, *out, "--entry-time", "entry",
        "--cause", "event",
    )  # fmt: skip
    assert_usage(done, "--cause with --entry-time")
    with pytest.raises(UsageError, match="--by"):
        Clinic(table, by=("hospital",)).read("months")
