"""What a model adds to covariates, in subgroups, and calibration, against lifelines and written-out sums."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.datasets import load_gbsg2, load_rossi

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.added_value import added_value
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.subgroups import subgroups
from tiacrossfusion.survival import (
    calibration_intercept,
    calibration_slope,
    decision_curve,
    expected_events,
    quantile_bins,
)


def cohort(patients: int = 300, seed: int = 0) -> tuple[list[FoldPredictions], pd.DataFrame]:
    """A slide and a clinic that tell different things; the risk is that of the slide."""
    random = np.random.default_rng(seed)
    slide, age, noise = random.normal(size=(3, patients))
    hazard = np.exp(0.8 * slide + 0.8 * age) / 30
    times, stop = random.exponential(1 / hazard), random.uniform(10, 90, patients)
    events, times = (times <= stop).astype(int), np.minimum(times, stop)
    names = [f"P{i:03}" for i in range(patients)]
    place, folds = np.arange(patients) % 4, []
    for fold in range(4):
        test, train = place == fold, place != fold
        bins = quantile_bins(times[train], events[train], 4, "months")
        survival = np.exp(-np.outer(np.exp(0.8 * slide[test]) / 30, bins.edges[1:]))
        folds.append(
            FoldPredictions(
                fold=fold,
                patients=tuple(np.array(names)[test]),
                times=times[test],
                events=events[test],
                risks=-survival.sum(axis=1),
                survival=survival,
                high=slide[test] > 0,
                bins=bins,
                training_times=times[train],
                training_events=events[train],
            )
        )
    sex = np.where(random.uniform(size=patients) < 0.5, "m", "f")
    table = pd.DataFrame({"age": age * 10 + 60, "noise": noise, "sex": sex}, index=names)
    return folds, table


FOLDS, TABLE = cohort()


def test_ratios_and_likelihood_are_those_of_lifelines():
    found = added_value(FOLDS, TABLE[["age"]], draws=100)
    frame = pd.concat(
        pd.DataFrame(
            {
                "time": fold.times,
                "event": fold.events,
                "fold": fold.fold,
                "risk": (fold.risks - fold.risks.mean()) / fold.risks.std(),
            },
            index=list(fold.patients),
        )
        for fold in FOLDS
    ).join(TABLE["age"])
    both = CoxPHFitter().fit(frame, "time", "event", strata=["fold"])
    alone = CoxPHFitter().fit(frame.drop(columns="age"), "time", "event", strata=["fold"])
    without = CoxPHFitter().fit(frame.drop(columns="risk"), "time", "event", strata=["fold"])
    assert found.risk_adjusted.value == pytest.approx(np.exp(both.params_["risk"]), rel=1e-6)
    assert found.risk_alone.value == pytest.approx(np.exp(alone.params_["risk"]), rel=1e-6)
    statistic = 2 * (both.log_likelihood_ - without.log_likelihood_)
    assert found.likelihood_ratio == pytest.approx(statistic, rel=1e-6)
    low, high = np.exp(both.confidence_intervals_.loc["risk"])
    width = np.log(found.risk_adjusted.high / found.risk_adjusted.low)
    assert width == pytest.approx(np.sqrt(2) * np.log(high / low), rel=1e-3)  # widened


def test_a_risk_that_tells_more_is_found_to_and_noise_is_not():
    found = added_value(FOLDS, TABLE[["age"]], draws=300)
    assert found.differences["harrell_c"].low > 0
    assert found.differences["brier"].high < 0
    assert found.models["both"].auc.value > found.models["covariates"].auc.value
    assert found.likelihood_ratio_p < 0.001
    for point in found.decision_curve:
        assert point.both >= point.everybody - 0.05
    random = np.random.default_rng(5)
    deaf = [replace(fold, risks=random.normal(size=len(fold.risks))) for fold in FOLDS]
    nothing = added_value(deaf, TABLE[["age"]], draws=300)
    assert nothing.likelihood_ratio_p > 0.05
    assert nothing.differences["harrell_c"].low <= 0


def test_missing_values_are_imputed_and_counted_and_no_patient_is_lost():
    gaps = TABLE.copy()
    gaps.loc[gaps.index[:60], "age"] = np.nan
    gaps.loc[gaps.index[40:80], "sex"] = None
    found = added_value(FOLDS, gaps[["age", "sex"]], draws=100)
    assert found.patients == 300
    assert found.missing == {"age": 60, "sex": 40}
    assert {term.term for term in found.terms} >= {"age", "age missing", "sex missing"}


def test_a_single_fold_is_judged_in_parts_of_its_own_patients():
    one = cohort(300)[0]
    whole = replace(
        one[0],
        patients=sum((fold.patients for fold in one), ()),
        **{
            name: np.concatenate([getattr(fold, name) for fold in one])
            for name in ("times", "events", "risks", "survival", "high")
        },
    )
    found = added_value([whole], TABLE[["age"]], draws=200)
    assert found.patients == 300
    assert "fitted in 5 parts" in found.interval
    assert found.differences["harrell_c"].value > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(index="P007"), "1 patients of the predictions .* P007"),
        (lambda table: table.assign(age=1.0), "no covariate of age varies"),
    ],
)
def test_tables_that_do_not_go_with_it_are_refused(change, message):
    with pytest.raises(TiacfError, match=message) as caught:
        added_value(FOLDS, change(TABLE[["age"]]), draws=100)
    assert "\n" not in str(caught.value)


def test_a_covariate_that_tells_the_events_is_said_to():
    events = dict(
        zip(
            sum((fold.patients for fold in FOLDS), ()),
            np.concatenate([fold.events for fold in FOLDS]),
            strict=True,
        )
    )
    tell = pd.DataFrame({"died": ["yes" if events[name] else "no" for name in TABLE.index]})
    tell.index = TABLE.index
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = added_value(FOLDS, tell, draws=100)
    assert any("separates patients with an event" in note for note in found.notes)
    assert all(not np.isfinite(term.value) for term in found.terms)


def test_subgroups_add_up_and_interaction_is_found_where_there_is_one():
    sexes = subgroups(FOLDS, TABLE["sex"], draws=100)
    assert sum(level.patients for level in sexes.levels) == 300
    assert sexes.interaction_p > 0.01
    ages = subgroups(FOLDS, TABLE["age"], draws=100)
    assert [level.level[:5] for level in ages.levels] == ["above", "up to"]
    women = set(TABLE.index[TABLE["sex"] == "f"])
    turned = []
    for fold in FOLDS:
        sign = np.array([1 if name in women else -1 for name in fold.patients])
        turned.append(replace(fold, risks=(fold.risks - fold.risks.mean()) * sign))
    found = subgroups(turned, TABLE["sex"], draws=100)
    assert found.interaction_p < 0.001
    ratios = {level.level: level.hazard_ratio.value for level in found.levels}
    assert ratios["f"] > 1 > ratios["m"]


def test_a_subgroup_with_few_events_has_no_figures():
    site = pd.Series("large", index=TABLE.index, name="site")
    site.iloc[:6] = "small"
    site.iloc[6:9] = None
    found = subgroups(FOLDS, site, draws=100)
    few = {level.level: level for level in found.levels}
    assert "fewer than 10" in few["small"].note
    assert few["missing"].patients == 3
    assert np.isnan(few["small"].harrell_c.value)
    assert "no test" in found.note


def test_the_decision_curve_is_its_sum():
    data = load_gbsg2()
    times, events = data.time.to_numpy(float), data.cens.to_numpy(int)
    random = np.random.default_rng(0)
    probability, at = random.uniform(size=len(times)), 1000.0
    thresholds = np.array([0.1, 0.5, 0.9, 0.9999999])
    found = decision_curve(times, events, probability, at, thresholds)
    for threshold, value in zip(thresholds, found, strict=True):
        treated = probability >= threshold
        if not treated.any():
            assert value == 0
            continue
        alive = float(KaplanMeierFitter().fit(times[treated], events[treated]).predict(at))
        true = treated.mean() * (1 - alive)
        false = treated.mean() * alive
        assert value == pytest.approx(true - false * threshold / (1 - threshold), abs=1e-9)


def test_slope_and_intercept_are_those_of_the_regressions():
    rossi = load_rossi()
    times, events = rossi.week.to_numpy(float), rossi.arrest.to_numpy(int)
    model = CoxPHFitter().fit(rossi[["week", "arrest", "age", "prio"]], "week", "arrest")
    at = 40.0
    survival = model.predict_survival_function(rossi, times=[at]).to_numpy()[0]
    slope, _ = calibration_slope(times, events, survival, at, np.zeros(len(times)))
    frame = pd.DataFrame(
        {
            "time": np.minimum(times, at),
            "event": events.astype(bool) & (times <= at),
            "lp": np.log(-np.log(survival)),
        }
    )
    expected = CoxPHFitter().fit(frame, "time", "event").params_["lp"]
    assert slope == pytest.approx(expected, rel=1e-6)
    # Predictions whose log-hazards are twice as far apart have half the slope.
    doubled = np.exp(-np.exp(2 * np.log(-np.log(survival))))
    assert calibration_slope(times, events, doubled, at, np.zeros(len(times)))[0] == pytest.approx(
        slope / 2, rel=1e-6
    )
    hazards = expected_events(survival)
    observed = events * (times <= at)
    assert calibration_intercept(observed, hazards) == pytest.approx(
        np.log(observed.sum() / hazards.sum())
    )


def test_true_curves_have_a_slope_of_1_and_a_shifted_cohort_says_so():
    random = np.random.default_rng(3)
    eta = random.normal(size=1500)
    hazard = np.exp(eta) / 20
    times, stop = random.exponential(1 / hazard), random.uniform(5, 60, 1500)
    events, times = (times <= stop).astype(int), np.minimum(times, stop)
    bins = quantile_bins(times, events, 8, "months")

    def judged(factor: float, power: float) -> tuple[float, float]:
        predicted = np.exp(-np.outer(factor * np.exp(power * eta) / 20, bins.edges[1:]))
        fold = FoldPredictions(
            0, tuple(f"{i}" for i in range(1500)), times, events, -predicted.sum(axis=1), predicted,
            eta > 0, bins, times, events,
        )  # fmt: skip
        table = evaluate([fold], draws=100).pooled.calibration[3]
        assert table.slope is not None
        return table.slope.value, table.intercept.value

    slope, intercept = judged(1.0, 1.0)
    assert slope == pytest.approx(1, abs=0.1)
    assert intercept == pytest.approx(0, abs=0.1)
    assert judged(0.5, 1.0)[1] == pytest.approx(np.log(2), abs=0.15)
    assert judged(1.0, 2.0)[0] == pytest.approx(0.5, abs=0.1)


def test_covariates_that_follow_from_each_other_are_left_out_and_named():
    doubled = TABLE[["age"]].assign(years=TABLE["age"] * 12, other=TABLE["noise"])
    doubled.loc[doubled.index[:30], ["age", "years", "other"]] = np.nan  # missing together
    found = added_value(FOLDS, doubled, draws=100)
    assert {term.term for term in found.terms} == {"age", "age missing", "other"}
    assert any("follow from the other terms: years" in note for note in found.notes)


def test_patients_who_are_tested_twice_are_not_multiplied():
    once = added_value(FOLDS, TABLE[["age"]], draws=100)
    twice = added_value(
        [*FOLDS, *(replace(fold, fold=fold.fold + 4) for fold in FOLDS)], TABLE[["age"]], draws=100
    )
    assert twice.risk_adjusted.value == pytest.approx(once.risk_adjusted.value, rel=1e-6)
    assert twice.likelihood_ratio == pytest.approx(2 * once.likelihood_ratio, rel=1e-6)
    # The same folds again tell nothing more, and the interval is no narrower than it was.
    widths = [np.log(one.risk_adjusted.high / one.risk_adjusted.low) for one in (once, twice)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
