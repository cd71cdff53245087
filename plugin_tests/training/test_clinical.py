"""The clinical record: its terms, and ridge Cox regression on them, against lifelines and a known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.records import record_of, refuse_outcome
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.survival import TimeBins, breslow_increments
from tiacrossfusion.survival.clinical import ClinicalCox
from tiacrossfusion.survival.dependence_on_variables import (
    COLUMNS,
    dependence_on_variables,
    opposite,
)
from tiacrossfusion.survival.record import Record, RecordTerms
from tiacrossfusion.survival.ridge_cox import choose_ridge, fit_ridge, log_likelihood
from tiacrossfusion.training.api import train
from tiacrossfusion.training.config import make_config

BINS = TimeBins(edges=(0, 3, 10, 20, 60), unit="months")


def patients(size: int = 400, seed: int = 0) -> pd.DataFrame:
    """Hazard rises by a factor e with ten years of age, and by e for stage III."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.normal(65, 10, size),
            "female": rng.uniform(size=size) < 0.5,
            "stage": rng.choice(["I", "II", "III"], size, p=[0.3, 0.5, 0.2]),
        },
        index=[f"p{number}" for number in range(size)],
    )
    log_hazard = (frame["age"] - 65) / 10 + (frame["stage"] == "III")
    time, censoring = rng.exponential(20 * np.exp(-log_hazard)), rng.exponential(40, size)
    return frame.assign(time=np.minimum(time, censoring), event=(time <= censoring).astype(int))


def fitted(frame: pd.DataFrame, *names: str) -> ClinicalCox:
    return ClinicalCox(Record.of(frame[list(names)])).fit(frame)


def test_cox_regression_is_that_of_lifelines_and_the_penalty_pulls_as_written():
    frame = patients()
    frame["time"] += np.random.default_rng(1).uniform(0, 1e-3, len(frame))  # no ties
    x = np.column_stack([(frame["age"] - 65) / 10, frame["female"], frame["stage"] == "III"])
    x, times, events = x.astype(float), frame["time"].to_numpy(), frame["event"].to_numpy()
    table = pd.DataFrame(x, columns=["a", "b", "c"], index=frame.index)
    expected = CoxPHFitter().fit(
        table.join(frame[["time", "event"]]), "time", "event", fit_options={"precision": 1e-12}
    )
    found = fit_ridge(x, times, events, np.full(3, 1e-12))
    np.testing.assert_allclose(found, expected.params_, atol=1e-6)
    assert log_likelihood(x, times, events, found) == pytest.approx(
        expected.log_likelihood_, abs=1e-6
    )
    penalties = np.array([0.01, 0.1, 1.0])
    shrunk = fit_ridge(x, times, events, penalties)
    slopes = [
        (
            log_likelihood(x, times, events, shrunk + step)
            - log_likelihood(x, times, events, shrunk - step)
        )
        / 2e-5
        for step in 1e-5 * np.eye(3)
    ]
    np.testing.assert_allclose(slopes, len(x) * penalties * shrunk, atol=1e-3)


def test_a_known_truth_is_found():
    frame = patients(4000)
    model = fitted(frame, "age", "female", "stage")
    terms = dict(zip(model.record.names, range(3), strict=True))
    assert set(terms) == {"age", "female", "stage"}
    people = pd.DataFrame(
        {"age": [65.0, 75.0, 65.0], "female": [True, False, True], "stage": ["II", "II", "III"]}
    )
    risks = model.risk(people)
    assert risks[1] - risks[0] == pytest.approx(1, abs=0.1)
    assert risks[2] - risks[0] == pytest.approx(1, abs=0.15)
    truth = np.exp(-np.outer(np.exp([0, 1, 1]), BINS.edges[1:]) / 20)
    np.testing.assert_allclose(model.survival(people, BINS), truth, atol=0.07)


def test_the_penalty_is_small_with_signal_and_large_with_noise():
    frame = patients(600)
    noise = np.random.default_rng(0).normal(size=(600, 30))
    times, events = frame["time"].to_numpy(), frame["event"].to_numpy()
    signal = ((frame["age"] - 65) / 10).to_numpy()[:, None]
    free = np.full(30, np.nan)
    assert choose_ridge(signal, times, events, free[:1], seed=0)[0][0] <= 0.03
    assert choose_ridge(noise, times, events, free, seed=0)[0][0] >= 0.3


def test_units_of_a_covariate_do_not_matter():
    frame = patients()
    days = frame.assign(age=frame["age"] * 365)
    np.testing.assert_allclose(
        fitted(frame, "age").risk(frame), fitted(days, "age").risk(days), atol=1e-6
    )


def test_terms_are_as_described():
    frame = pd.DataFrame(
        {
            "age": np.arange(40.0),
            "count": np.exp(np.arange(40) / 5),
            "stage": ["I"] * 20 + ["II"] * 15 + ["III"] * 5,
        }
    )
    frame.loc[:9, ["age", "count"]] = np.nan  # missing together: one indicator for both
    record = Record.of(frame)
    assert [variable.kind for variable in record.variables] == ["number", "skewed", "category"]
    codes, notes = record.codes(frame)
    assert notes == []
    terms = RecordTerms.fit(record, codes)
    names = np.array(terms.names(record))
    assert list(names[terms.used]) == ["age", "age missing", "count", "stage=I", "stage=II"]
    z = pd.DataFrame(terms.encode(codes), columns=names)
    known = frame["age"].notna()
    assert (z.loc[~known, ["age", "count"]] == 0).all(axis=None)
    assert z.loc[known, "age"].std(ddof=0) == pytest.approx(1)
    logs = np.log1p(frame.loc[known, "count"])
    np.testing.assert_allclose(z.loc[known, "count"], (logs - logs.mean()) / logs.std(ddof=0))
    assert set(z["stage=I"].round(6)) == {0.5, -0.5}
    assert (z["stage=III"] == 0).all()
    np.testing.assert_allclose(z[["age missing", "stage=I", "stage=II"]].mean(), 0, atol=1e-12)


def test_levels_that_are_not_known_are_missing_and_named():
    frame = patients()
    record = Record.of(frame[["stage"]])
    codes, (note,) = record.codes(frame.head(3).assign(stage=["IV", "ii", None]))
    assert np.isnan(codes[0, 0])
    assert record.variables[0].levels[int(codes[1, 0])] == "II"
    assert "stage: 1 unknown levels taken as missing, such as IV" in note
    assert "nearest to IV" in note
    average = fitted(frame, "stage").risk(frame.head(1).assign(stage="IV"))[0]
    assert average == pytest.approx(0, abs=1e-9)


def test_numbers_of_another_unit_are_told_by_patient():
    frame = patients()
    record = Record.of(frame[["age"]], units={"age": "years"})
    days = frame.head(2).assign(age=[60.0, 25_000.0])
    codes, (note,) = record.codes(days)
    assert "years for 1 patients, such as p1: 25000; check the unit" in note
    assert codes[1, 0] == 25_000


def test_kinds_can_be_given_and_are_checked():
    frame = patients().assign(code=np.arange(400) % 3)
    columns = Columns(covariates=("code", "stage"), kinds={"code": "category"})
    assert [v.kind for v in record_of(frame, columns).variables] == ["category", "category"]
    with pytest.raises(TiacfError, match="stage is to be a number, and holds text"):
        record_of(frame, columns.model_copy(update={"kinds": {"stage": "number"}}))
    with pytest.raises(UsageError, match=r"columns\.kinds: age is not among"):
        record_of(frame, columns.model_copy(update={"kinds": {"age": "number"}}))
    with pytest.raises(TiacfError, match="gone is missing for all 400 patients"):
        record_of(frame.assign(gone=np.nan), Columns(covariates=("gone",)))


def test_a_constant_covariate_is_left_out_and_told():
    frame = patients().assign(sex="F", site=1)
    model = fitted(frame, "sex", "age", "site")
    assert model.messages == [
        "covariate sex is the same for all 400 training patients and is left out",
        "covariate site is the same for all 400 training patients and is left out",
    ]
    with pytest.raises(TiacfError, match="no covariate of sex, site varies among 400"):
        fitted(frame, "sex", "site")


def test_hard_cases_are_solved():
    frame = patients().assign(rare="no")
    frame["double"] = 2 * frame["age"]  # collinear
    quiet = frame.index[frame["event"] == 0][:9]
    frame.loc[quiet, "rare"] = "yes"  # a category without events
    frame["name"] = frame.index  # a level a patient
    model = fitted(frame, "age", "double", "rare", "name")
    risks, alone = model.risk(frame), fitted(frame, "age").risk(frame)
    rare = (frame["rare"] == "yes").to_numpy()
    assert np.corrcoef(risks[~rare], alone[~rare])[0, 1] > 0.9999
    assert (risks[rare] < alone[rare]).all()
    assert np.isfinite(risks).all()


@given(gaps=st.lists(st.integers(0, 199), max_size=150, unique=True), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_any_gaps_leave_finite_risks_and_all_patients(gaps, seed):
    frame = patients(200, seed)
    frame.iloc[gaps, 0] = np.nan
    frame.iloc[gaps[: len(gaps) // 2], 2] = None
    model = fitted(frame, "age", "stage")
    assert np.isfinite(model.risk(frame)).all()
    curves = model.survival(frame, BINS)
    assert curves.shape == (200, 4)
    assert (np.diff(curves, axis=1) <= 0).all()


def test_breslow_with_late_entry_counts_who_has_entered():
    times, events = np.array([2.0, 4.0, 6.0]), np.array([1, 1, 1])
    bins = TimeBins(edges=(0, 3, 5, 7), unit="months")
    entries = np.array([0.0, 3.0, 0.0])
    found = breslow_increments(np.zeros(3), times, events, bins, entries)
    np.testing.assert_allclose(found, [1 / 2, 1 / 2, 1])


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("last_seen", lambda f: f["time"] + 0.01, "of follow-up times"),
        ("alive", lambda f: np.where(f["event"] == 1, "no", "yes"), "of events"),
        ("days_left", lambda f: -(f["time"] ** 3), "of follow-up times"),
    ],
)
def test_a_record_with_the_outcome_in_it_is_refused(tmp_path, name, make, words):
    frame = patients()
    frame[name] = make(frame)
    with pytest.raises(
        TiacfError, match=f"{name} has a correlation of .* {words}.*--covariates"
    ) as caught:
        refuse_outcome(tmp_path / "t.csv", frame, ("age", name))
    assert "\n" not in str(caught.value)
    refuse_outcome(tmp_path / "t.csv", frame, ("age", "stage"))


def test_the_other_name_of_the_model_is_known():
    config = make_config({"time_unit": "months", "models": ["cox-covariates"]}, "test")
    assert config.models == ("clinical",)
    with pytest.raises(UsageError, match="named twice"):
        make_config({"time_unit": "months", "models": ["clinical", "cox-covariates"]}, "test")


def test_permutation_finds_an_effect_and_none(tmp_path):
    frame = patients(150)
    frame["noise"] = np.random.default_rng(1).normal(size=len(frame))
    frame.rename_axis("patient").to_csv(tmp_path / "t.csv")
    found = {}
    for name in ("age", "noise"):
        config = {
            "time_unit": "months",
            "models": ["clinical"],
            "columns": {"covariates": [name]},
        }
        trained = train(tmp_path / "t.csv", None, tmp_path / name, config=config, permutations=19)
        found[name] = trained.evaluations["clinical"]
    assert found["age"].permutation_p == pytest.approx(1 / 20)
    assert found["noise"].permutation_p > 1 / 20
    assert "19 permutations" in (tmp_path / "age/clinical/report.html").read_text()


def test_dependence_on_a_variable_and_effects_that_turn_round():
    random = np.random.default_rng(0)
    true = random.normal(size=2000)
    frame = pd.DataFrame({"true": true, "echo": 0.9 * true + 0.45 * random.normal(size=2000)})
    times = random.exponential(10 * np.exp(-(2 * frame["true"] - frame["echo"])))
    events = np.ones(2000, int)
    patients = frame.assign(time=times, event=events)
    model = fitted(patients, "true", "echo")
    codes = model.record.codes(frame)[0]
    found = dependence_on_variables(model.record, codes, model.log_hazard, times, events)
    assert list(found.columns) == list(COLUMNS)
    for name, slope in (("true", 2), ("echo", -1)):
        mine = found[found["variable"] == name]
        assert np.polyfit(mine["number"], mine["log_hazard"], 1)[0] == pytest.approx(slope, abs=0.3)
        assert np.polyfit(mine["number"], mine["alone"], 1)[0] > 0.4
    (line,) = opposite([found, found])
    assert line.startswith("The effect of echo beside the other variables is opposite")
    straight = found.assign(log_hazard=found["alone"])
    assert opposite([found, straight]) == []
