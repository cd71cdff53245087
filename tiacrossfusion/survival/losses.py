"""Training losses for discrete-time hazards."""

from __future__ import annotations

import torch

#: Probabilities are kept away from 0 before a logarithm (facts, section 3).
_SMALLEST = 1e-7


def nll_loss(
    hazards: torch.Tensor, bins: torch.Tensor, events: torch.Tensor, alpha: float = 0.2
) -> torch.Tensor:
    """Negative log-likelihood of discrete hazards, averaged over the batch.

    A patient with an event in bin Y has the likelihood S(Y - 1) h(Y), a patient censored in bin Y has
    S(Y). `alpha` shifts weight to the patients with an event:
    `(1 - alpha) * (event + censored part) + alpha * event part` (facts, section 3; the paper takes
    0.2). Computed in float32 whatever the autocast.

    Args:
        hazards: (B, K) in (0, 1).
        bins: (B,) int64, bin of the event or of censoring.
        events: (B,) 1 where the event was observed, 0 where the patient was censored.
        alpha: weight of the event part alone, in [0, 1].

    Returns:
        A scalar.
    """
    hazards = hazards.float()
    survival = torch.cumprod(1 - hazards, dim=1)  # (B, K)
    survival_before = torch.cat([torch.ones_like(survival[:, :1]), survival], dim=1)  # (B, K + 1)
    at = bins[:, None]
    log_survival = survival_before.gather(1, at).clamp(min=_SMALLEST).log()[:, 0]
    log_hazard = hazards.gather(1, at).clamp(min=_SMALLEST).log()[:, 0]
    log_survived = survival_before.gather(1, at + 1).clamp(min=_SMALLEST).log()[:, 0]
    observed = events.float()
    event_part = -observed * (log_survival + log_hazard)
    censored_part = -(1 - observed) * log_survived
    return ((1 - alpha) * (event_part + censored_part) + alpha * event_part).mean()
