"""Cumulative incidence where several causes end follow-up."""

from __future__ import annotations

import numpy as np


def cumulative_incidence(
    times: np.ndarray,
    causes: np.ndarray,
    cause: int,
    at: np.ndarray,
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """Aalen-Johansen estimate of the probability of a cause by a time (..., T).

    The sum over event times of `S(t-) d / n`: survival of all causes before t, and the share of the patients
    at risk who have this cause at t (Aalen and Johansen, Scandinavian Journal of Statistics 5, 1978).
    Unlike one less Kaplan-Meier, which takes patients with another cause for censored, it does not exceed the
    share of patients who have the event.

    Args:
        times: (N,) follow-up times.
        causes: (N,) 0 where the patient was censored, else the cause, 1 or higher.
        cause: of which the incidence is wanted.
        at: (T,) times at which it is read.
        counts: (..., N) how often each patient counts; None is once.
    """
    weights = np.ones(len(times)) if counts is None else np.asarray(counts, float)
    order = np.argsort(times, kind="stable")
    end, first = np.unique(np.asarray(times)[order], return_index=True)
    weights, sorted_causes = weights[..., order], np.asarray(causes)[order]
    ended = np.add.reduceat(weights * (sorted_causes > 0), first, axis=-1)
    of_cause = np.add.reduceat(weights * (sorted_causes == cause), first, axis=-1)
    leaving = np.add.reduceat(weights, first, axis=-1)
    followed = np.cumsum(leaving[..., ::-1], axis=-1)[..., ::-1]

    def share(part: np.ndarray) -> np.ndarray:
        return np.divide(part, followed, out=np.zeros_like(part), where=followed > 0)

    alive = np.cumprod(1 - share(ended), axis=-1)
    before = np.concatenate([np.ones_like(alive[..., :1]), alive[..., :-1]], axis=-1)
    incidence = np.cumsum(before * share(of_cause), axis=-1)
    incidence = np.concatenate([np.zeros_like(incidence[..., :1]), incidence], axis=-1)
    return incidence[..., np.searchsorted(end, at, side="right")]
