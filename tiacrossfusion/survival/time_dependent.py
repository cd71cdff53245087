"""Measures at a time t: cumulative/dynamic AUC(t) with its ROC curve, and the Brier score.

Censored patients are accounted for by weights 1 / G (inverse probability of censoring), with G from the
training patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiacrossfusion.survival.concordance import TIED, PairSums, check_risks, higher_risk, pair_sum
from tiacrossfusion.survival.discrete import interpolation
from tiacrossfusion.survival.kaplan_meier import Censoring
from tiacrossfusion.survival.time_bins import TimeBins


def survival_at(survival: np.ndarray, bins: TimeBins, at: np.ndarray) -> np.ndarray:
    """Read predicted curves (N, K), S at the end of each bin, at other times (T,); returns (N, T).

    Between edges a curve is straight, beyond the last it stays at its last value.
    """
    curves = np.concatenate([np.ones_like(survival[:, :1]), survival], axis=1)
    return curves @ interpolation(bins, at).T


def auc_pairs(
    times: np.ndarray,
    events: np.ndarray,
    risks: np.ndarray,
    at: float,
    censoring: Censoring,
    counts: np.ndarray | None = None,
) -> PairSums:
    """Pairs of the cumulative/dynamic AUC at a time t.

    Cases have an event up to t, controls are followed beyond t. A pair is concordant when the case has
    the higher risk, half so when the risks are equal, and weighs `1 / (G(T_case) G(t))` (Uno, Cai, Tian
    and Wei, JASA 102, 2007; Hung and Chiang, Canadian J Statistics 38, 2010). G(t) cancels within one
    fold and is what makes folds add up. Arguments as of `harrell_pairs`, with `censoring` of the training
    patients; where G is 0 at or before t, the sums are NaN.

    Returns:
        Sums of shape (...), 0 when there are no cases or no controls.

    Raises:
        TiacfError: risks are not finite.
    """
    cases, controls = _states(times, events, at)
    risks = np.asarray(risks, float)
    check_risks(risks)
    counts = np.ones(len(risks)) if counts is None else np.asarray(counts, float)
    weights = censoring.weights(np.asarray(times, float)[cases]) * censoring.weights(np.array([at]))
    rows, columns = counts[..., cases] * weights, counts[..., controls]
    return PairSums(
        pair_sum(higher_risk(risks[cases], risks[controls]), rows, columns),
        rows.sum(axis=-1) * columns.sum(axis=-1),
    )


@dataclass(frozen=True, eq=False)
class RocCurve:
    """ROC curve at a time, whose area is AUC(t).

    Attributes:
        false_positive: (P,) rising from 0 to 1.
        true_positive: (P,) rising from 0 to 1.
        weight: of the pairs of a case and a control, `PairSums.comparable`.
    """

    false_positive: np.ndarray
    true_positive: np.ndarray
    weight: float


def roc_curve(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, at: float, censoring: Censoring
) -> RocCurve | None:
    """ROC curve at a time t of one model's risks, cases and controls as in `auc_pairs`.

    Patients with the same risk are passed together, so that ties make a slope and count half.

    Returns:
        The curve, or None when there are no cases or no controls.
    """
    cases, controls = _states(times, events, at)
    if not cases.any() or not controls.any():
        return None
    case_weights = np.zeros(len(risks))
    case_weights[cases] = censoring.weights(np.asarray(times, float)[cases])
    order = np.argsort(-np.asarray(risks, float), kind="stable")
    steps = -np.diff(np.asarray(risks, float)[order]) > TIED
    group = np.empty(len(risks), int)
    group[order] = np.concatenate([[0], steps.cumsum()])
    true = np.bincount(group, case_weights).cumsum()
    false = np.bincount(group, controls.astype(float)).cumsum()
    weight = true[-1] * false[-1] * float(censoring.weights(np.array([at]))[0])
    return RocCurve(
        np.concatenate([[0.0], false / false[-1]]), np.concatenate([[0.0], true / true[-1]]), weight
    )


def brier_parts(
    times: np.ndarray,
    events: np.ndarray,
    survival: np.ndarray,
    at: np.ndarray,
    censoring: Censoring,
) -> np.ndarray:
    """Each patient's part of the Brier score (N, T); the mean over patients is the score.

    `S(t)^2 / G(T)` after an event up to t, `(1 - S(t))^2 / G(t)` for a patient followed beyond t, and 0
    for a patient censored up to t (Graf, Schmoor, Sauerbrei and Schumacher, Statistics in Medicine 18,
    1999).

    Args:
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        survival: (N, T) predicted survival at the times t.
        at: (T,) times t.
        censoring: of the training patients; a needed G of 0 gives NaN.
    """
    times, observed = np.asarray(times, float)[:, None], np.asarray(events, bool)[:, None]
    case_weights = censoring.weights(times[:, 0])[:, None]  # (N, 1)
    died = survival**2 * case_weights
    alive = (1 - survival) ** 2 * censoring.weights(at)[None, :]
    return np.where(times > at, alive, np.where(observed, died, 0.0))


def integrated_brier_parts(
    times: np.ndarray,
    events: np.ndarray,
    survival: np.ndarray,
    at: np.ndarray,
    censoring: Censoring,
) -> np.ndarray:
    """Each patient's part of the integrated Brier score (N,); the mean over patients is the score.

    The mean of `brier_parts` over the time between the first and the last of the rising times `at`, by
    the trapezoidal rule. Arguments as there.
    """
    parts = brier_parts(times, events, survival, at, censoring)
    return np.trapezoid(parts, at, axis=1) / (at[-1] - at[0])


def _states(times: np.ndarray, events: np.ndarray, at: float) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N,) of the cases and of the controls at a time."""
    ended = np.asarray(times) <= at
    return ended & np.asarray(events, bool), ~ended
