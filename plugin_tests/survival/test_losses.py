"""Losses against written-out sums, lifelines and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lifelines import CoxPHFitter

from tiacrossfusion.survival.losses import cox_loss, cross_entropy_loss, nll_loss

DISCRETE = [nll_loss, cross_entropy_loss]


def follow_up(seed: int, patients: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times with many ties, events and two covariates."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(patients, 2))
    times = np.ceil(random.exponential(np.exp(-0.7 * x[:, 0])) * 6)
    events = (random.uniform(size=patients) < 0.7).astype(int)
    return times, events, x


def efron(eta, times, events) -> float:
    """Negative log partial likelihood per event, one term at a time."""
    total = 0.0
    for time in sorted({t for t, e in zip(times, events, strict=True) if e}):
        tied = [h for h, t, e in zip(eta, times, events, strict=True) if t == time and e]
        risk_set = sum(math.exp(h) for h, t in zip(eta, times, strict=True) if t >= time)
        for place, value in enumerate(tied):
            removed = place / len(tied) * sum(math.exp(h) for h in tied)
            total += math.log(risk_set - removed) - value
    return total / sum(events)


@pytest.mark.parametrize("seed", range(5))
def test_cox_is_the_written_out_sum_of_efron(seed):
    times, events, x = follow_up(seed)
    loss = cox_loss(torch.tensor(x[:, 0]), torch.tensor(times), torch.tensor(events))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(efron(x[:, 0], times, events), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_cox_and_its_gradient_agree_with_lifelines(seed):
    times, events, x = follow_up(seed, 80)
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": times, "event": events})
    fitter = CoxPHFitter().fit(table, "time", "event", fit_options={"precision": 1e-12})
    beta = torch.tensor(fitter.params_.to_numpy(), requires_grad=True)
    loss = cox_loss(torch.tensor(x) @ beta, torch.tensor(times), torch.tensor(events))
    likelihood = -loss * events.sum()
    assert likelihood.item() == pytest.approx(fitter.log_likelihood_, abs=1e-6)
    loss.backward()
    assert beta.grad.abs().max() < 1e-6  # the optimum
    # A second point: equal log-hazards, whose likelihood lifelines' ratio test implies.
    null = cox_loss(torch.zeros(80).double(), torch.tensor(times), torch.tensor(events))
    gain = fitter.log_likelihood_ratio_test().test_statistic / 2
    assert (-null * events.sum()).item() == pytest.approx(fitter.log_likelihood_ - gain, abs=1e-6)


def test_the_gradient_of_cox_is_that_of_finite_differences():
    times, events, x = follow_up(7, 15)
    eta = torch.tensor(x[:, 0] * 3, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda values: cox_loss(values, torch.tensor(times), torch.tensor(events)), eta
    )


def test_cox_depends_on_the_order_of_times_and_on_differences_only():
    times, events, x = follow_up(3)
    eta, times, events = torch.tensor(x[:, 0]), torch.tensor(times), torch.tensor(events)
    loss = cox_loss(eta, times, events)
    order = torch.randperm(len(eta), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cox_loss(eta + 1000, times, events), loss)
    torch.testing.assert_close(cox_loss(eta, times**3, events), loss)
    torch.testing.assert_close(cox_loss(eta[order], times[order], events[order]), loss)
    assert cox_loss(eta * -1, times, events) != loss


@pytest.mark.parametrize("events", [[0, 0, 0], [0, 0, 1]])
def test_cox_without_anybody_to_compare_is_zero_and_has_a_gradient(events):
    eta = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    loss = cox_loss(eta, torch.tensor([1.0, 2.0, 3.0]), torch.tensor(events))  # the last one alone
    loss.backward()
    assert loss.item() == 0
    assert eta.grad.tolist() == [0, 0, 0]


@settings(deadline=None)
@given(
    eta=hnp.arrays(np.float32, 6, elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    times=hnp.arrays(np.int64, 6, elements=st.integers(1, 4)),
    events=hnp.arrays(np.int64, 6, elements=st.integers(0, 1)),
)
def test_cox_is_finite_for_finite_log_hazards(eta, times, events):
    values = torch.tensor(eta, requires_grad=True)
    loss = cox_loss(values, torch.tensor(times), torch.tensor(events))
    loss.backward()
    assert torch.isfinite(loss)
    assert loss >= -1e-5 * max(1.0, np.abs(eta).max())
    assert torch.isfinite(values.grad).all()


def written_out(kind, hazards, bins, events, alpha) -> float:
    """The loss of a batch, patient by patient."""
    total = 0.0
    for row, last, event in zip(hazards, bins, events, strict=True):
        before = math.prod(1 - h for h in row[:last])
        after = before * (1 - row[last])
        likelihood = -math.log(before) - math.log(row[last])
        if kind is nll_loss:
            main = likelihood if event else -math.log(after)
        else:
            main = -math.log(1 - after) if event else -math.log(after)
        total += (1 - alpha) * main + alpha * event * likelihood
    return total / len(bins)


@pytest.mark.parametrize("loss", DISCRETE)
@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_discrete_losses_are_their_written_out_sums(loss, alpha):
    random = np.random.default_rng(4)
    hazards = random.uniform(0.01, 0.95, (30, 5))
    bins, events = random.integers(0, 5, 30), random.integers(0, 2, 30)
    tensors = torch.tensor(hazards), torch.tensor(bins), torch.tensor(events)
    expected = written_out(loss, hazards, bins, events, alpha)
    assert loss(*tensors, alpha).item() == pytest.approx(expected, abs=1e-9)
    single = loss(tensors[0].float(), *tensors[1:], alpha)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", DISCRETE)
def test_gradients_of_discrete_losses_are_those_of_finite_differences(loss):
    random = np.random.default_rng(5)
    hazards = torch.tensor(random.uniform(0.05, 0.9, (8, 4)), requires_grad=True)
    bins, events = torch.tensor(random.integers(0, 4, 8)), torch.tensor([0, 1] * 4)
    assert torch.autograd.gradcheck(lambda values: loss(values, bins, events, 0.3), hazards)


@pytest.mark.parametrize("loss", DISCRETE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_hazards_of_exactly_0_and_1_leave_loss_and_gradient_finite(loss, dtype):
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 4).to(dtype)
    for last in range(4):
        for event in (0, 1):
            hazards = patterns.clone().requires_grad_()
            shape = (len(patterns),)
            value = loss(hazards, torch.full(shape, last), torch.full(shape, event))
            value.backward()
            assert torch.isfinite(value)
            assert torch.isfinite(hazards.grad).all()


@settings(deadline=None)
@given(
    logits=hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    bins=hnp.arrays(np.int64, 3, elements=st.integers(0, 3)),
    events=hnp.arrays(np.int64, 3, elements=st.integers(0, 1)),
    loss=st.sampled_from(DISCRETE),
)
def test_discrete_losses_are_finite_for_finite_logits(logits, bins, events, loss):
    values = torch.tensor(logits, requires_grad=True)
    found = loss(torch.sigmoid(values), torch.tensor(bins), torch.tensor(events))
    found.backward()
    assert torch.isfinite(found)
    assert found >= 0
    assert torch.isfinite(values.grad).all()


def test_losses_are_computed_in_float32_under_autocast():
    hazards = torch.tensor([[0.123456789, 0.3, 0.2]]).repeat(4, 1)
    bins, events = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0, 1, 0])
    eta = torch.tensor([0.1234567, 1.0, -0.3, 0.2])
    plain = [loss(hazards, bins, events) for loss in DISCRETE] + [cox_loss(eta, bins, events)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        auto = [loss(hazards, bins, events) for loss in DISCRETE] + [cox_loss(eta, bins, events)]
        half = cox_loss(eta.bfloat16(), bins, events)
    assert [value.dtype for value in (*auto, half)] == [torch.float32] * 4
    assert auto == plain
