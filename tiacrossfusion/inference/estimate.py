"""The risk of a slide estimated from some of its families, with its standard error.

Sums over the families that were not read are those that 5x tells to expect, corrected by the mean residual of
a random sample: the difference estimator of survey sampling (Särndal, Swensson and Wretman, "Model Assisted
Survey Sampling", 1992, section 6.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tiacrossfusion.models.from_coarse import FromCoarse, t_quantile

if TYPE_CHECKING:
    from torch import Tensor

    from tiacrossfusion.inference.families import FamilyTable


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates of one slide's risk from R samples of its families.

    Attributes:
        means: (R, C) of what the network pools.
        risk: (R,).
        se: (R,) standard error of the risk; NaN where it is not known.
        gradient: (R, C) of the risk by the means.
    """

    means: Tensor
    risk: Tensor
    se: Tensor
    gradient: Tensor


def from_sample(table: FamilyTable, expected: Tensor, read: Tensor) -> Estimates:
    """Estimate from random samples, without replacement, of n families; see `sampling.balanced_order`.

    With S_i the sums of family i, m_i those expected, k_i its tokens and K those of the slide::

        r    = sum_read (S_i - m_i) / sum_read k_i
        mean = sum_all m_i / K + r
        e_i  = gradient' (S_i - m_i - k_i r) F / K
        SE^2 = (1 - n/F) / n * sum (e_i - e_j)^2 / (2 (n - 1))      j: the next along the curve

    The mean square of successive differences is the variance for families in no particular order, and leaves
    out what changes slowly over the slide, which a sample that is spread evenly follows (Wolter,
    "Introduction to Variance Estimation", 2007, section 8.2, estimator 2).

    Args:
        table: of the slide.
        expected: (F, C) sums by 5x alone, see `FamilyTable.expected`.
        read: (R, n) rows of the families in each sample; at least 2 in each.
    """
    column, totals, families = table.column, table.totals, len(table)
    chosen = _indicator(table, read)  # (R, F)
    left = table.sums - expected  # (F, C)
    ratio = (chosen @ left) / (chosen @ table.tokens)[:, column].clamp(min=1)  # (R, C)
    means = expected.sum(dim=0) / totals + ratio
    risk, gradient = risk_with_gradient(table, _possible(table, means, chosen))
    slope = gradient / totals  # (R, C)
    by_scale = slope.new_zeros(len(slope), 3).index_add(1, column, ratio * slope)
    n = read.shape[1]
    along = chosen[:, table.curve].nonzero()[:, 1].view(-1, n)  # (R, n) places on the curve
    e = (slope @ left.T - by_scale @ table.tokens.T) * families  # (R, F)
    variance = e.gather(1, table.curve[along]).diff(dim=1).square().mean(dim=1) / 2
    se = ((1 - n / families) * variance / n).sqrt()
    return Estimates(means, risk, se, gradient)


def from_imputed(table: FamilyTable, expected: Tensor, read: Tensor) -> Estimates:
    """Estimate from chosen families (R, n): what was read counts as it is, the others as 5x tells."""
    chosen = _indicator(table, read)
    means = (expected.sum(dim=0) + chosen @ (table.sums - expected)) / table.totals
    means = _possible(table, means, chosen)
    risk, gradient = risk_with_gradient(table, means)
    return Estimates(means, risk, torch.full_like(risk, torch.nan), gradient)


def from_coarse_alone(table: FamilyTable, expected: Tensor) -> Estimates:
    """Estimate from the 5x tokens alone (R = 1)."""
    return from_imputed(table, expected, torch.zeros(1, 0, dtype=torch.long))


def half_width(se: float, count: int, share: float, fitted: FromCoarse | None) -> float:
    """Return the half-width of a 95 % interval from the standard error of `count` families."""
    return se * t_quantile(count) * (1.0 if fitted is None else fitted.widened(share))


def shrunken(risk: Tensor, se: Tensor, alone: Tensor, fitted: FromCoarse) -> Tensor:
    """Return risks (R,) moved towards that from 5x alone, as far as their standard errors tell.

    The mean of the two normal distributions `N(risk, SE^2)` and `N(alone + bias, variance)`.
    """
    weight = fitted.variance / (fitted.variance + se**2).clamp(min=1e-30)
    return weight * risk + (1 - weight) * (alone + fitted.bias)


def disagreement(table: FamilyTable, expected: Tensor, read: Tensor, gradient: Tensor) -> Tensor:
    """Return how far the risk of a slide like each family read (n,) lies from what its 5x token tells.

    Args:
        table: of the slide.
        expected: (F, C) sums by 5x alone.
        read: (n,) rows of the families.
        gradient: (C,) of the risk by the means.
    """
    tokens = table.tokens[read][:, table.column].clamp(min=1)
    return ((table.sums - expected)[read] / tokens) @ gradient


def _indicator(table: FamilyTable, read: Tensor) -> Tensor:
    """Return a matrix (R, F), 1 where a sample has a family."""
    return table.tokens.new_zeros(len(read), len(table)).scatter_(1, read, 1.0)


def _possible(table: FamilyTable, means: Tensor, chosen: Tensor) -> Tensor:
    """Return means in which no sum that cannot be negative is below that of the families read."""
    here = table.positive
    if not here.any():
        return means
    least = (chosen @ table.sums[:, here]) / table.totals[here]
    means = means.clone()
    means[:, here] = torch.maximum(means[:, here], least)
    return means


def risk_with_gradient(table: FamilyTable, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the risks (R,) of means (R, C), and their gradient (R, C)."""
    with torch.enable_grad():
        leaf = means.detach().requires_grad_()
        risk = table.risk(leaf)
        (gradient,) = torch.autograd.grad(risk.sum(), leaf)
    return risk.detach(), gradient


def family_effects(
    table: FamilyTable, expected: Tensor, found: Estimates, read: Tensor, *, known: bool
) -> Tensor:
    """Return how the risk would change (F,) if the whole slide were like each family, to first order.

    Args:
        table: of the slide.
        expected: (F, C) sums by 5x alone.
        found: the estimate (R = 1).
        read: (F,) bool, which families were read; of the others it is what 5x tells to expect.
        known: whether 5x tells anything; else the others are NaN.
    """
    sums = torch.where(read[:, None], table.sums, expected)
    mean = sums / table.tokens[:, table.column].clamp(min=1)
    effects = (mean - found.means) @ found.gradient[0]
    return effects if known else effects.masked_fill(~read, torch.nan)
