"""Cox on covariates, against lifelines called directly and against a known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from tiacrossfusion.survival.covariates import RIDGE, CoxCovariates

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.survival import TimeBins
from tiacrossfusion.training.api import train

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


def test_fit_and_predictions_are_those_of_lifelines():
    train, test = patients(), patients(50, seed=1)
    model = CoxCovariates(["age", "female", "stage"]).fit(train)

    def terms(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "age": (frame["age"] - train["age"].mean()) / train["age"].std(ddof=0),
                "female": (frame["female"] - train["female"].mean()) / train["female"].std(ddof=0),
                "I": (frame["stage"] == "I") * 1.0,
                "III": (frame["stage"] == "III") * 1.0,
            }
        )

    reference = CoxPHFitter(penalizer=RIDGE)
    reference.fit(terms(train).join(train[["time", "event"]]), "time", "event")
    # the same terms in another order, as lifelines iterates to 1e-7
    named = {"age": "age", "female": "female", "stage=I": "I", "stage=III": "III"}
    found = model.summary["coef"].rename(named)
    assert sorted(found.index) == sorted(reference.params_.index)
    np.testing.assert_allclose(found[reference.params_.index], reference.params_, atol=1e-6)
    np.testing.assert_allclose(
        model.risk(test), reference.predict_log_partial_hazard(terms(test)), atol=1e-6
    )
    curves = model.survival(test, BINS)
    assert curves.shape == (50, 4)
    np.testing.assert_allclose(
        curves, reference.predict_survival_function(terms(test), BINS.edges[1:]).T, atol=1e-6
    )
    assert model.messages == []


def test_a_known_truth_is_found():
    train = patients(4000)
    model = CoxCovariates(["age", "female", "stage"]).fit(train)
    coefficients = model.summary["coef"]
    assert coefficients["age"] == pytest.approx(1, abs=0.08)
    assert coefficients["female"] == pytest.approx(0, abs=0.08)
    assert coefficients["stage=III"] == pytest.approx(1, abs=0.15)
    assert coefficients["stage=I"] == pytest.approx(0, abs=0.15)
    person = pd.DataFrame({"age": [65.0, 75.0], "female": [True, False], "stage": ["II", "III"]})
    truth = np.exp(-np.outer(np.exp([0, 2]), BINS.edges[1:]) / 20)
    np.testing.assert_allclose(model.survival(person, BINS), truth, atol=0.06)


def test_units_of_a_covariate_do_not_matter():
    train = patients()
    years = CoxCovariates(["age"]).fit(train).risk(train)
    in_days = train.assign(age=train["age"] * 365)
    days = CoxCovariates(["age"]).fit(in_days).risk(in_days)
    np.testing.assert_allclose(years, days, atol=1e-6)


def test_a_constant_covariate_is_left_out_and_told():
    train = patients().assign(sex="F", site=1)
    model = CoxCovariates(["sex", "age", "site"]).fit(train)
    assert model.messages == [
        "covariate sex is F for all 400 training patients and is left out",
        "covariate site is 1 for all 400 training patients and is left out",
    ]
    np.testing.assert_allclose(model.risk(train), CoxCovariates(["age"]).fit(train).risk(train))
    with pytest.raises(TiacfError, match="no covariate of sex, site varies among 400"):
        CoxCovariates(["sex", "site"]).fit(train)


def test_an_unseen_category_takes_the_average_and_is_told():
    train = patients()
    model = CoxCovariates(["stage"]).fit(train)
    test = train.head(3).assign(stage=["IV", "I", "IV"])
    risks = model.risk(test)
    assert risks[0] == risks[2] == pytest.approx(model.risk(train).mean(), abs=1e-9)
    model.survival(test, BINS)
    (message,) = model.messages
    assert "covariate stage: 2 of 3 patients have a category" in message
    assert "(IV)" in message


def test_hard_cases_are_solved():
    train = patients().assign(rare="no")
    train["double"] = 2 * train["age"]  # collinear
    quiet = train.index[train["event"] == 0][:3]
    train.loc[quiet, "rare"] = "yes"  # a category without events
    model = CoxCovariates(["age", "double", "rare"]).fit(train)
    assert model.summary.loc["age", "coef"] == pytest.approx(model.summary.loc["double", "coef"])
    risks, alone = model.risk(train), CoxCovariates(["age"]).fit(train).risk(train)
    rare = (train["rare"] == "yes").to_numpy()
    assert np.corrcoef(risks[~rare], alone[~rare])[0, 1] > 0.9999
    assert (risks[rare] < alone[rare] - 1).all()
    assert np.isfinite(risks).all()


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_impossible_fits_are_one_line():
    train = patients()
    with pytest.raises(TiacfError, match="needs some; name them with --covariates"):
        CoxCovariates([])
    named = train.assign(name=train.index)
    with pytest.raises(TiacfError, match="399 terms of the covariates name are too many for"):
        CoxCovariates(["name"]).fit(named)
    huge = train.assign(age=np.where(train["age"] > 80, 1e200, train["age"]))
    with pytest.raises(TiacfError, match="Cox regression on age failed for 400") as caught:
        CoxCovariates(["age"]).fit(huge)
    assert "\n" not in str(caught.value)


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
