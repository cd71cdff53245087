"""Kaplan-Meier estimates of survival and of censoring that take a count per patient.

lifelines draws one curve at a time. A bootstrap needs a thousand: here a resample is a row of counts,
how often each patient was drawn, and all rows are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def kaplan_meier(
    times: np.ndarray,
    events: np.ndarray,
    at: np.ndarray,
    counts: np.ndarray | None = None,
    entries: np.ndarray | None = None,
) -> np.ndarray:
    """Kaplan-Meier estimate of survival (..., T) (Kaplan and Meier, JASA 53, 1958).

    Beyond the last follow-up the estimate stays at its last value.

    Args:
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        at: (T,) times at which the curve is read.
        counts: (..., N) how often each patient counts; None is once.
        entries: (N,) times at which follow-up begins, before which a patient is not at risk (left truncation;
            Tsai, Jewell and Wang, Biometrika 74, 1987, 883-886); None is 0.
    """
    end, failures, _, followed = _table(times, events, counts, entries)
    return _read(end, failures, followed, at)


@dataclass(frozen=True, eq=False)
class Censoring:
    """The censoring distribution G, from the follow-up of training patients.

    G(t) is the Kaplan-Meier estimate of the probability not to be censored up to t. Of patients with
    the same time, those with an event leave first, as in scikit-survival and torchsurv.

    Attributes:
        times: (M,) follow-up times of the training patients.
        events: (M,) 1 where the event was observed, 0 where the patient was censored.
    """

    times: np.ndarray
    events: np.ndarray

    def survival(self, at: np.ndarray) -> np.ndarray:
        """G at times (T,), which beyond the last follow-up stays at its last value."""
        end, failures, censored, followed = _table(self.times, self.events, None)
        return _read(end, censored, followed - failures, at)

    def weights(self, at: np.ndarray) -> np.ndarray:
        """Inverse probability of censoring weights 1 / G(t), (T,); NaN where G is 0."""
        known = self.survival(at)
        return np.divide(1.0, known, out=np.full(len(known), np.nan), where=known > 0)

    def supported(self, smallest: float) -> float:
        """Last follow-up time at which G is `smallest` or more; NaN when there is none."""
        at = np.unique(self.times)
        enough = self.survival(at) >= smallest
        return float(at[enough][-1]) if enough.any() else float("nan")


def _table(
    times: np.ndarray,
    events: np.ndarray,
    counts: np.ndarray | None,
    entries: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At each of U rising different times: the time, and (..., U) events, censored and followed."""
    weights = np.ones(len(times)) if counts is None else np.asarray(counts, float)
    order = np.argsort(times, kind="stable")
    end, first = np.unique(np.asarray(times)[order], return_index=True)
    not_yet = np.zeros((*weights.shape[:-1], len(end)))
    if entries is not None:  # who enters at a time is at risk after it
        late = np.asarray(entries)[None, :] >= end[:, None]  # (U, N)
        not_yet = weights @ late.T
    weights, observed = weights[..., order], np.asarray(events, float)[order]
    failures = np.add.reduceat(weights * observed, first, axis=-1)
    leaving = np.add.reduceat(weights, first, axis=-1)
    followed = np.cumsum(leaving[..., ::-1], axis=-1)[..., ::-1] - not_yet
    return end, failures, leaving - failures, followed


def _read(end: np.ndarray, leaving: np.ndarray, followed: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Product-limit estimate (..., T) at the times `at`; factors without anybody at risk are 1."""
    share = np.divide(leaving, followed, out=np.zeros_like(leaving), where=followed > 0)
    curve = np.cumprod(1 - share, axis=-1)
    curve = np.concatenate([np.ones_like(curve[..., :1]), curve], axis=-1)  # (..., U + 1)
    return curve[..., np.searchsorted(end, at, side="right")]
