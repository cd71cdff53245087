"""Concordance of risks with follow-up: Harrell's C and Uno's C.

Both are a ratio of sums over pairs of patients. The sums, not the ratios, are what adds up over folds,
and in a bootstrap a patient drawn twice simply counts twice in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.survival.kaplan_meier import Censoring

#: Risks that differ by no more are equal, as in scikit-survival: rounding does not order patients.
TIED = 1e-8


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over comparable pairs of patients, which may be added up over folds.

    Attributes:
        concordant: (...) weight of the concordant pairs; pairs with equal risks count half.
        comparable: (...) weight of all comparable pairs.
    """

    concordant: np.ndarray
    comparable: np.ndarray

    def __add__(self, other: PairSums) -> PairSums:
        """Pool the pairs within one fold with those within another."""
        return PairSums(self.concordant + other.concordant, self.comparable + other.comparable)

    @property
    def ratio(self) -> np.ndarray:
        """Share of concordant pairs (...); NaN where no pair can be compared."""
        nothing = np.full(np.shape(self.comparable), np.nan)
        share = np.divide(self.concordant, self.comparable, out=nothing, where=self.comparable != 0)
        return np.minimum(share, 1.0)  # two sums of the same weights may differ by rounding


def harrell_pairs(
    times: np.ndarray,
    events: np.ndarray,
    risks: np.ndarray,
    counts: np.ndarray | None = None,
    entries: np.ndarray | None = None,
) -> PairSums:
    """Pairs of Harrell's C (Harrell, Lee and Mark, Statistics in Medicine 15, 1996), sums of shape (...).

    A pair (i, j) is comparable when i has an event before the follow-up of j ends, or at the very time
    at which j is censored; it is concordant when i has the higher risk, and half so when the risks are
    equal (within `TIED`). Two events at one time are not comparable. This is as in lifelines.

    Args:
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        risks: (N,) higher is worse.
        counts: (..., N) how often each patient counts; None is once.
        entries: (N,) times at which follow-up begins; j is compared only if followed when i has the event.
            None is 0.

    Raises:
        TiacfError: risks are not finite.
    """
    weights = np.asarray(events, bool).astype(float)
    return _pairs(times, events, risks, weights, counts, entries)


def uno_pairs(
    times: np.ndarray,
    events: np.ndarray,
    risks: np.ndarray,
    censoring: Censoring,
    tau: float,
    counts: np.ndarray | None = None,
) -> PairSums:
    """Pairs of Uno's C (Uno, Cai, Pencina, D'Agostino and Wei, Statistics in Medicine 30, 2011).

    The pairs of Harrell's C whose event lies before tau, each weighted by `1 / G(T_i)^2`, so that the
    limit of the ratio does not depend on how patients are censored. Arguments and sums (...) as of
    `harrell_pairs`, with `censoring` of the training patients; where G is 0 before tau, the sums are NaN.

    Raises:
        TiacfError: risks are not finite.
    """
    times = np.asarray(times, float)
    counted = np.asarray(events, bool) & (times < tau)
    weights = np.zeros(len(times))
    weights[counted] = censoring.weights(times[counted]) ** 2
    return _pairs(times, events, risks, weights, counts)


def harrell_c(times: np.ndarray, events: np.ndarray, risks: np.ndarray) -> float:
    """Harrell's C of one model's risks, see `harrell_pairs`; NaN when no pair can be compared."""
    return float(harrell_pairs(times, events, risks).ratio)


def uno_c(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, censoring: Censoring, tau: float
) -> float:
    """Uno's C of one model's risks, see `uno_pairs`; NaN when no pair can be compared."""
    return float(uno_pairs(times, events, risks, censoring, tau).ratio)


def check_risks(risks: np.ndarray) -> None:
    """Refuse risks that are not finite: every comparison with them would be false."""
    broken = int((~np.isfinite(risks)).sum())
    if broken:
        raise TiacfError(
            f"{broken} of {len(risks)} risks are not finite, so the model has diverged; train it "
            "again with a smaller learning rate"
        )


def higher_risk(risks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M): 1 where a risk (N,) is above another (M,), 0.5 where they are equal, else 0.

    Risks within `TIED` count as equal.
    """
    difference = risks[:, None] - others[None, :]
    return (difference > TIED) + 0.5 * (np.abs(difference) <= TIED)


def pair_sum(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sum of `rows[..., i] matrix[i, j] columns[..., j]` over all pairs, (...)."""
    return ((columns @ matrix.T) * rows).sum(axis=-1)


def _pairs(
    times: np.ndarray,
    events: np.ndarray,
    risks: np.ndarray,
    weights: np.ndarray,
    counts: np.ndarray | None,
    entries: np.ndarray | None = None,
) -> PairSums:
    """Sums over pairs (i, j) with an event of i first, weighted by i (0 leaves i out)."""
    times, risks, observed = np.asarray(times, float), np.asarray(risks, float), np.asarray(events)
    counts = np.ones(len(times)) if counts is None else np.asarray(counts, float)
    check_risks(risks)
    first = np.flatnonzero(weights)  # NaN is not 0 and stays
    later = times[first, None] < times[None, :]
    censored_then = (times[first, None] == times[None, :]) & ~observed.astype(bool)[None, :]
    comparable = (later | censored_then) * weights[first, None]  # (M, N)
    if entries is not None:
        comparable = comparable * (np.asarray(entries)[None, :] < times[first, None])
    rows = counts[..., first]
    return PairSums(
        pair_sum(comparable * higher_risk(risks[first], risks), rows, counts),
        pair_sum(comparable, rows, counts),
    )
