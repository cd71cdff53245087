"""Metrics against lifelines and torchsurv, their symmetries and what they say when undefined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.survival import (
    Censoring,
    TimeBins,
    auc_pairs,
    brier_parts,
    calibration_groups,
    harrell_c,
    harrell_pairs,
    integrated_brier_parts,
    kaplan_meier,
    observed_over_expected,
    roc_curve,
    survival_at,
    uno_c,
    uno_pairs,
)

#: Data sets: seed, step of the times (0.125 has few ties, 4 has many), decimals of the risks.
COHORTS = [(0, 0.125, 6), (1, 0.125, 0), (2, 1.0, 1), (3, 4.0, 6), (4, 4.0, 0)]


def cohort(seed, step, decimals, patients=90):
    """Times on a lattice that float32 holds exactly, events, risks."""
    random = np.random.default_rng(seed)
    risks = random.normal(size=patients)
    end = random.exponential(np.exp(-0.8 * risks)) * 20
    stop = random.uniform(2, 70, patients)
    times = np.ceil(np.minimum(end, stop) / step) * step
    noisy = np.round(risks + random.normal(size=patients), decimals)
    return times, (end <= stop).astype(int), np.float32(noisy).astype(float)


def in_torch(times, events, *others):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchsurv")
    single = [torch.tensor(values, dtype=torch.float32) for values in (times, *others)]
    return single[0], torch.tensor(events).bool(), *single[1:]


@pytest.mark.parametrize(("seed", "step", "decimals"), COHORTS)
def test_harrell_agrees_with_lifelines(seed, step, decimals):
    times, events, risks = cohort(seed, step, decimals)
    expected = concordance_index(times, -risks, events)
    assert harrell_c(times, events, risks) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("seed", "step", "decimals"), COHORTS)
def test_uno_agrees_with_torchsurv(seed, step, decimals):
    times, events, risks = cohort(seed, step, decimals)
    training_times, training_events, _ = cohort(seed + 100, step, decimals, 200)
    time, event, risk = in_torch(times, events, risks)
    import torch
    from torchsurv.metrics.cindex import ConcordanceIndex
    from torchsurv.stats.ipcw import get_ipcw

    weight = get_ipcw(*reversed(in_torch(training_times, training_events)), time)
    for tau in (10.0, 30.0):
        expected = ConcordanceIndex()(risk, event, time, weight=weight, tmax=torch.tensor(tau))
        found = uno_c(times, events, risks, Censoring(training_times, training_events), tau)
        assert found == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(("seed", "step", "decimals"), COHORTS)
def test_auc_agrees_with_torchsurv(seed, step, decimals):
    times, events, risks = cohort(seed, step, decimals)
    training = cohort(seed + 100, step, decimals, 200)[:2]
    time, event, risk, at = in_torch(times, events, risks, [8.0, 16.0, 30.5])
    from torchsurv.metrics.auc import Auc
    from torchsurv.stats.ipcw import get_ipcw

    weights = [get_ipcw(*reversed(in_torch(*training)), new) for new in (time, at)]
    expected = Auc()(risk, event, time, new_time=at, weight=weights[0], weight_new_time=weights[1])
    found = [
        float(auc_pairs(times, events, risks, t, Censoring(*training)).ratio) for t in at.tolist()
    ]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    for t, area in zip(at.tolist(), found, strict=True):
        curve = roc_curve(times, events, risks, t, Censoring(*training))
        assert np.trapezoid(curve.true_positive, curve.false_positive) == pytest.approx(area)


@pytest.mark.parametrize(("seed", "step", "decimals"), COHORTS)
def test_brier_and_its_integral_agree_with_torchsurv(seed, step, decimals):
    times, events, risks = cohort(seed, step, decimals)
    training = cohort(seed + 100, step, decimals, 200)[:2]
    grid = np.arange(1, 33) * 1.0
    curves = np.float32(np.exp(-np.outer(np.exp(risks / 2), grid) / 30)).astype(float)
    time, event, estimate, at = in_torch(times, events, curves, grid)
    from torchsurv.metrics.brier_score import BrierScore
    from torchsurv.stats.ipcw import get_ipcw

    weights = [get_ipcw(*reversed(in_torch(*training)), new) for new in (time, at)]
    brier = BrierScore()
    expected = brier(estimate, event, time, at, *weights)
    censoring = Censoring(*training)
    parts = brier_parts(times, events, curves, grid, censoring)
    assert parts.mean(axis=0) == pytest.approx(expected.numpy(), abs=1e-5)
    whole = integrated_brier_parts(times, events, curves, grid, censoring).mean()
    assert whole == pytest.approx(float(brier.integral()), abs=1e-5)


@pytest.mark.parametrize(("seed", "step", "decimals"), COHORTS)
def test_kaplan_meier_and_censoring_agree_with_lifelines_and_torchsurv(seed, step, decimals):
    times, events, _ = cohort(seed, step, decimals)
    at = np.array([0.0, 0.1, 4.0, 8.0, 17.3, 60.0, 500.0])
    fitter = KaplanMeierFitter().fit(times, events)
    assert kaplan_meier(times, events, at) == pytest.approx(fitter.predict(at).to_numpy())
    time, event, _ = in_torch(times, events, at)
    from torchsurv.stats.kaplan_meier import KaplanMeierEstimator

    estimator = KaplanMeierEstimator()
    estimator(event, time, censoring_dist=True)
    found = Censoring(times, events).survival(estimator.time.numpy().astype(float))
    assert found == pytest.approx(estimator.km_est.numpy(), abs=1e-6)


def test_counts_are_repeated_patients():
    times, events, risks = cohort(5, 1.0, 1)
    random = np.random.default_rng(0)
    counts = random.multinomial(90, np.full(90, 1 / 90), size=6)
    censoring, at = Censoring(times, events), np.array([3.0, 11.0, 25.0])
    survival = np.exp(-np.exp(risks / 2) / 2)
    together = {
        "harrell": harrell_pairs(times, events, risks, counts).ratio,
        "uno": uno_pairs(times, events, risks, censoring, 20.0, counts).ratio,
        "auc": auc_pairs(times, events, risks, 11.0, censoring, counts).ratio,
        "kaplan_meier": kaplan_meier(times, events, at, counts),
        "ratio": observed_over_expected(times, events, survival, 11.0, counts),
    }
    for row, drawn in enumerate(counts):
        t, e, r, s = (np.repeat(values, drawn) for values in (times, events, risks, survival))
        alone = {
            "harrell": harrell_c(t, e, r),
            "uno": uno_c(t, e, r, censoring, 20.0),
            "auc": auc_pairs(t, e, r, 11.0, censoring).ratio,
            "kaplan_meier": kaplan_meier(t, e, at),
            "ratio": observed_over_expected(t, e, s, 11.0),
        }
        for name, value in alone.items():
            assert together[name][row] == pytest.approx(value), name


follow_ups = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=12
)


@settings(deadline=None)
@given(follow_ups)
def test_ranking_measures_have_the_symmetries_of_a_rank(rows):
    times, events, risks = (np.array(column, float) for column in zip(*rows, strict=True))
    censoring = Censoring(np.array([1.0, 3, 5, 9, 9]), np.array([1, 0, 1, 0, 1]))

    def measures(values):
        return np.array(
            [
                harrell_c(times, events, values),
                uno_c(times, events, values, censoring, 5.0),
                float(auc_pairs(times, events, values, 3.0, censoring).ratio),
            ]
        )

    found = measures(risks)
    np.testing.assert_allclose(measures(-risks), 1 - found, atol=1e-12)
    np.testing.assert_allclose(measures(np.arctan(risks) * 7 + 2), found)
    defined = np.isfinite(found)
    np.testing.assert_allclose(measures(np.zeros(len(risks)))[defined], 0.5)
    assert ((found[defined] >= 0) & (found[defined] <= 1)).all()
    # Without a comparable pair there is no value, for lifelines neither.
    if defined[0]:
        assert found[0] == pytest.approx(concordance_index(times, -risks, events))
    else:
        with pytest.raises(ZeroDivisionError):
            concordance_index(times, -risks, events)


def test_a_perfect_prediction_is_perfect():
    times, events, _ = cohort(6, 0.125, 6)
    censoring = Censoring(times, events)
    risks = events / 100 - times  # of an event and a censoring at one time, the event is worse
    assert harrell_c(times, events, risks) == 1
    assert uno_c(times, events, risks, censoring, 20.0) == pytest.approx(1)
    assert auc_pairs(times, events, risks, 10.0, censoring).ratio == pytest.approx(1)
    known = (times[:, None] > np.array([5.0, 9.0])).astype(float)
    assert (brier_parts(times, events, known, np.array([5.0, 9.0]), censoring) == 0).all()


def test_nothing_to_measure_gives_nan():
    times, risks, nobody = np.array([1.0, 2, 3]), np.array([3.0, 2, 1]), np.zeros(3, int)
    censoring = Censoring(times, nobody)
    assert np.isnan(harrell_c(times, nobody, risks))
    assert np.isnan(uno_c(times, np.array([0, 1, 1]), risks, censoring, 2.0))  # no event before tau
    assert np.isnan(auc_pairs(times, nobody, risks, 2.0, censoring).ratio)  # no case
    assert np.isnan(auc_pairs(times, np.ones(3), risks, 9.0, censoring).ratio)  # no control
    assert roc_curve(times, nobody, risks, 2.0, censoring) is None
    assert np.isnan(observed_over_expected(times, nobody, np.full(3, 0.5), 9.0))
    assert np.isnan(calibration_groups(times, nobody, np.full(3, 0.5), 9.0, 1)[0].observed)
    assert np.isnan(Censoring(np.array([2.0]), np.array([0])).supported(0.1))


def test_a_time_that_censoring_does_not_support_gives_nan():
    times, events = np.array([1.0, 4, 5]), np.array([1, 1, 0])
    gone = Censoring(np.array([2.0, 3]), np.array([0, 0]))  # G is 0 from 3 on
    assert np.isnan(uno_c(times, events, -times, gone, 5.0))
    assert uno_c(times, events, -times, gone, 3.0) == 1
    assert np.isnan(auc_pairs(times, events, -times, 4.0, gone).ratio)
    curves = np.full((3, 2), 0.5)
    parts = brier_parts(times, events, curves, np.array([1.5, 4.0]), gone)
    assert np.isfinite(parts[:, 0]).all()
    assert np.isnan(parts[:, 1].sum())


def test_risks_that_are_not_finite_are_refused():
    times, events = np.array([1.0, 2]), np.array([1, 1])
    for risks in ([np.nan, 1.0], [1.0, np.inf]):
        with pytest.raises(TiacfError, match="1 of 2 risks are not finite"):
            harrell_c(times, events, np.array(risks))
        with pytest.raises(TiacfError, match="1 of 2 risks are not finite"):
            auc_pairs(times, events, np.array(risks), 1.0, Censoring(times, events))


def test_support_ends_where_too_few_remain_uncensored():
    times, events = np.arange(1.0, 11.0), np.zeros(10, int)
    assert Censoring(times, events).supported(0.1) == 9
    assert Censoring(times, events).supported(0.5) == 5
    assert Censoring(times, np.ones(10, int)).supported(0.1) == 10


def test_curves_are_straight_between_edges_and_flat_beyond():
    bins = TimeBins(edges=(0, 10, 20), unit="months")
    found = survival_at(np.array([[0.8, 0.2]]), bins, np.array([0, 5, 10, 15, 20, 99]))
    assert found[0] == pytest.approx([1, 0.9, 0.8, 0.5, 0.2, 0.2])


def test_uno_is_unbiased_by_censoring_where_harrell_is_not():
    # One model good early and useless late: which pairs are seen decides Harrell's C.
    random = np.random.default_rng(0)
    end = random.exponential(10, 4000)
    risks = np.where(end < 5, -end, -random.uniform(5, 40, 4000))
    stop = random.uniform(0, 14, 4000)
    times, events = np.minimum(end, stop), (end <= stop).astype(int)
    everything = np.ones(4000, int)
    tau = 12.0
    truth = uno_c(end, everything, risks, Censoring(end, everything), tau)
    uno = uno_c(times, events, risks, Censoring(times, events), tau)
    assert abs(uno - truth) < 0.012
    assert harrell_c(times, events, risks) - truth > 0.04


def test_a_true_model_is_calibrated_and_a_hopeful_one_is_not():
    random = np.random.default_rng(1)
    rates = np.exp(random.normal(0, 1, 3000)) / 20
    end, stop = random.exponential(1 / rates), random.uniform(0, 60, 3000)
    times, events = np.minimum(end, stop), (end <= stop).astype(int)
    true = np.exp(-rates * 10)
    groups = calibration_groups(times, events, true, 10.0, 5)
    assert [group.patients for group in groups] == [600] * 5
    assert sum(group.events for group in groups) == int(((times <= 10) & (events == 1)).sum())
    assert np.diff([group.predicted for group in groups]).min() > 0
    for group in groups:
        assert group.low < group.observed < group.high
        assert group.observed == pytest.approx(group.predicted, abs=0.06)
    assert observed_over_expected(times, events, true, 10.0) == pytest.approx(1, abs=0.06)
    hopeful = np.exp(-rates * 5)
    assert observed_over_expected(times, events, hopeful, 10.0) > 1.4


def test_a_calibration_group_has_the_estimate_and_interval_of_lifelines():
    times, events, risks = cohort(7, 0.125, 6)
    survival = np.exp(-np.exp(risks) / 3)
    groups = calibration_groups(times, events, survival, 10.0, 3)
    worst = survival < np.quantile(survival, 1 / 3)
    fitter = KaplanMeierFitter().fit(times[worst], events[worst])
    band = fitter.confidence_interval_survival_function_.loc[:10.0].iloc[-1]
    assert groups[0].observed == pytest.approx(fitter.predict(10.0))
    assert (groups[0].low, groups[0].high) == pytest.approx(tuple(band))
    assert groups[0].predicted == pytest.approx(survival[worst].mean())


def test_equal_predictions_stay_in_one_group():
    times, events, _ = cohort(8, 1.0, 1)
    assert [g.patients for g in calibration_groups(times, events, np.full(90, 0.4), 5.0, 5)] == [90]
    halves = np.repeat([0.3, 0.6], 45)
    assert [g.patients for g in calibration_groups(times, events, halves, 5.0, 5)] == [45, 45]
