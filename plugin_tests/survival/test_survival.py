"""Time bins, the median of a curve and the loss, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.models.reference import risk_reference
from tiacrossfusion.survival import TimeBins, median_survival, quantile_bins
from tiacrossfusion.survival.losses import nll_loss

BINS = TimeBins(edges=(0, 10, 20, 30, 50), unit="months")


def test_bins_hold_equal_numbers_of_events():
    times = np.arange(1.0, 101.0)
    events = np.arange(100) % 2
    bins = quantile_bins(times, events, 4, "months")
    assert np.bincount(bins.index(times[events == 1])).tolist() == [13, 12, 12, 13]
    assert bins.edges[0] == 0
    assert bins.edges[-1] == 100
    assert bins.index(times).max() == 3
    assert bins.index(np.array([0, 1e9])).tolist() == [0, 3]


def test_bins_ignore_censored_times():
    times, events = np.array([1.0, 2, 3, 4, 90, 95]), np.array([1, 1, 1, 1, 0, 0])
    assert quantile_bins(times, events, 2, "days").edges[1] == 2.5


def test_too_few_events_are_refused():
    with pytest.raises(TiacfError, match="1 observed events are too few for 4"):
        quantile_bins(np.array([3.0, 5]), np.array([1, 0]), 4, "months")


@pytest.mark.parametrize("edges", [(0,), (1, 2), (0, 2, 2), (0, 3, 1), (0, float("inf"))])
def test_edges_that_are_no_time_axis_are_refused(edges):
    with pytest.raises(ValueError, match="bin edges rise from 0"):
        TimeBins(edges=edges, unit="months")


@pytest.mark.parametrize(
    ("survival", "median"),
    [
        ([0.9, 0.8, 0.6, 0.51], None),
        ([0.9, 0.7, 0.3, 0.1], 25.0),
        ([0.25, 0.2, 0.1, 0.1], 20 / 3),
        ([0.9, 0.8, 0.7, 0.5], 50.0),
    ],
)
def test_median_is_linear_between_edges(survival, median):
    found = median_survival(np.array(survival), BINS)
    assert found == (None if median is None else pytest.approx(median))


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_the_median_lies_where_the_curve_crosses_one_half(hazards):
    survival = np.cumprod(1 - np.array(hazards))
    median = median_survival(survival, BINS)
    if median is None:
        assert survival[-1] > 0.5
    else:
        assert np.interp(median, BINS.edges, [1, *survival]) == pytest.approx(0.5, abs=1e-9)


def test_nll_is_the_written_out_sum():
    hazards = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=torch.float64)
    event = -np.log(0.9 * 0.2)  # event in bin 1
    censored = -np.log(0.6 * 0.5 * 0.4)  # censored in bin 2
    loss = nll_loss(hazards, torch.tensor([1, 2]), torch.tensor([1, 0]), alpha=0.2)
    assert loss.item() == pytest.approx((event + 0.8 * censored) / 2, rel=1e-6)


def test_nll_stays_finite_at_the_limits():
    hazards = torch.tensor([[1.0, 1.0], [0.0, 0.0]], requires_grad=True)
    loss = nll_loss(hazards, torch.tensor([1, 1]), torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hazards.grad).all()


def test_risks_are_read_against_the_training_patients():
    rng = np.random.default_rng(1)
    risks = rng.normal(size=200)
    times = rng.exponential(np.exp(-2 * risks)) * 20
    events = (rng.uniform(size=200) < 0.8).astype(int)
    reference = risk_reference(risks, times, events, BINS)
    assert reference.percentile(risks.min() - 1) == 0
    assert reference.percentile(risks.max() + 1) == 100
    assert reference.percentile(float(np.median(risks))) == pytest.approx(50, abs=1)
    low, high = reference.groups
    assert (reference.group(-3.0), reference.group(3.0)) == (low, high)
    assert (low.patients, high.patients) == (100, 100)
    assert all(a > b for a, b in zip(low.survival, high.survival, strict=True))
    with pytest.raises(TiacfError, match="learnt nothing"):
        risk_reference(np.zeros(9), np.ones(9), np.ones(9), BINS)
