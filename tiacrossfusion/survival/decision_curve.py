"""Decision curves: what acting on a prediction is worth, against acting on all or on none."""

from __future__ import annotations

import numpy as np

from tiacrossfusion.survival.kaplan_meier import kaplan_meier


def decision_curve(
    times: np.ndarray,
    events: np.ndarray,
    probability: np.ndarray,
    at: float,
    thresholds: np.ndarray,
    entries: np.ndarray | None = None,
) -> np.ndarray:
    """Net benefit (H,) of treating those whose probability of an event by a time t reaches a threshold.

    `share * (1 - S) - share * S * p / (1 - p)`, with the share of patients at or above the threshold p and
    their Kaplan-Meier estimate S at t: true positives, less false positives at the odds of the threshold
    (Vickers and Elkin, Medical Decision Making 26, 2006; for censored times Vickers, Cronin, Elkin and Gonen,
    BMC Medical Informatics and Decision Making 8:53, 2008).

    Args:
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        probability: (N,) predicted probability of the event by t; ones give the net benefit of treating all.
        at: t.
        thresholds: (H,) between 0 and 1.
        entries: (N,) times at which follow-up begins; None is 0.

    Returns:
        0 where nobody reaches the threshold.
    """
    treated = probability[None, :] >= thresholds[:, None]  # (H, N)
    share = treated.mean(axis=1)
    alive = kaplan_meier(times, events, np.array([at]), treated.astype(float), entries)[:, 0]
    odds = thresholds / (1 - thresholds)
    return np.where(share > 0, share * (1 - alive) - share * alive * odds, 0.0)
