"""Training losses: discrete hazards (likelihood, cross-entropy) and Cox's partial likelihood.

All are computed in float32 at least, whatever the autocast, and are finite for finite input.
"""

from __future__ import annotations

import torch

#: Probabilities are kept away from 0 before a logarithm (docs/crossfusion.md).
_SMALLEST = 1e-7


def nll_loss(
    hazards: torch.Tensor, bins: torch.Tensor, events: torch.Tensor, alpha: float = 0.2
) -> torch.Tensor:
    """Negative log-likelihood of discrete hazards, averaged over the batch; a scalar.

    A patient with an event in bin Y has the likelihood S(Y - 1) h(Y), a patient censored in bin Y has
    S(Y). `alpha` shifts weight to the patients with an event:
    `(1 - alpha) * (event + censored part) + alpha * event part` (docs/crossfusion.md; the paper takes
    0.2).

    Args:
        hazards: (B, K) in [0, 1].
        bins: (B,) int64, bin of the event or of censoring.
        events: (B,) 1 where the event was observed, 0 where the patient was censored.
        alpha: weight of the event part alone, in [0, 1].
    """
    hazards = _wide(hazards)
    observed = events.to(hazards.dtype)
    event_part = observed * _event_term(hazards, bins)
    censored_part = -(1 - observed) * _log(_survival_after(hazards, bins))
    return ((1 - alpha) * (event_part + censored_part) + alpha * event_part).mean()


def cross_entropy_loss(
    hazards: torch.Tensor, bins: torch.Tensor, events: torch.Tensor, alpha: float = 0.2
) -> torch.Tensor:
    """Cross-entropy of the state at the end of a patient's bin, averaged over the batch; a scalar.

    At a time t the outcome is binary: the event at or before t, or after it (Zadeh and Schmid, Bias in
    Cross-Entropy-Based Training of Deep Survival Networks, IEEE TPAMI 43, 2021). It is taken at the end
    of bin Y: `-log(1 - S(Y))` for an event in Y, `-log S(Y)` for a patient censored in Y. Those two
    terms alone do not say in which bin up to Y an event was, and the bias of which that paper warns
    follows. The event part of the likelihood does say it, and `alpha` mixes it in as in `nll_loss`:
    `(1 - alpha) * cross-entropy - alpha * [event] (log S(Y - 1) + log h(Y))`. Arguments as there.
    """
    hazards = _wide(hazards)
    observed = events.to(hazards.dtype)
    survival = _survival_after(hazards, bins)
    entropy = -observed * _log(1 - survival) - (1 - observed) * _log(survival)
    return ((1 - alpha) * entropy + alpha * observed * _event_term(hazards, bins)).mean()


def cox_loss(log_hazards: torch.Tensor, times: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
    """Negative log partial likelihood over the number of events, ties by Efron's method; a scalar.

    With the risk set R (everybody followed up to that time or longer) and the set D of m events at one
    time, the event l = 0 .. m - 1 of them adds
    `log(sum_R exp(eta) - l / m * sum_D exp(eta)) - eta` (Cox, Regression Models and Life-Tables,
    J R Stat Soc B 34, 1972; Efron, The Efficiency of Cox's Likelihood Function for Censored Data,
    JASA 72, 1977). Which patient of a tie is which l does not change the sum.

    Only the order of times and the differences of log-hazards matter. A batch needs several patients:
    one alone gives 0, and without an event the loss is 0 with a gradient of 0. Memory grows with
    (events x B).

    Args:
        log_hazards: (B,) eta, finite; higher is worse.
        times: (B,) follow-up times.
        events: (B,) 1 where the event was observed, 0 where the patient was censored.
    """
    eta = _wide(log_hazards)
    observed = events.bool()
    if not observed.any():
        return (eta * 0).sum()
    event_eta, event_times = eta[observed], times[observed]  # (M,)
    at_risk = times[None, :] >= event_times[:, None]  # (M, B)
    tied = event_times[None, :] == event_times[:, None]  # (M, M)
    nobody = torch.tensor(-torch.inf, dtype=eta.dtype, device=eta.device)
    log_risk_set = torch.where(at_risk, eta[None, :], nobody).logsumexp(dim=1)
    log_ties = torch.where(tied, event_eta[None, :], nobody).logsumexp(dim=1)
    before = tied.tril(diagonal=-1).sum(dim=1)  # l of each event within its tie
    share = before.to(eta.dtype) / tied.sum(dim=1)  # l / m, below 1
    # D is part of R, so the difference is at most 0 but for rounding.
    removed = share * (log_ties - log_risk_set).clamp(max=0).exp()
    return (log_risk_set + torch.log1p(-removed) - event_eta).mean()


def _wide(values: torch.Tensor) -> torch.Tensor:
    """Values in float32, or float64 where they have it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _log(probability: torch.Tensor) -> torch.Tensor:
    return probability.clamp(min=_SMALLEST).log()


def _survival_after(hazards: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """S(Y), (B,): survival at the end of each patient's bin."""
    return torch.cumprod(1 - hazards, dim=1).gather(1, bins[:, None])[:, 0]


def _event_term(hazards: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """`-log S(Y - 1) - log h(Y)`, (B,), with S(-1) = 1."""
    survival = torch.cumprod(1 - hazards, dim=1)  # (B, K)
    before = torch.cat([torch.ones_like(survival[:, :1]), survival[:, :-1]], dim=1)  # (B, K)
    at = bins[:, None]
    return -_log(before.gather(1, at)[:, 0]) - _log(hazards.gather(1, at)[:, 0])
