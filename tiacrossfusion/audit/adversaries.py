"""Adversaries on features: one perturbation for all slides, few patches of a slide, and chance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tiacrossfusion.networks.perturbed import Audited, risks
from tiacrossfusion.networks.tokens import SlideTokens

#: Steps of sign gradient, each of which may move a feature by this share of the strength, and slides a step.
STEPS, STEP, PER_STEP = 10, 0.5, 8


def universal(
    audited: Audited,
    slides: Sequence[SlideTokens],
    strength: float,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Fit one perturbation (E,) for each scale that moves the risks of all slides as far as it can.

    `max_delta |mean_n (r(z_n + delta_s) - r(z_n))|` with every `|delta| <= strength`, by projected steps of
    the gradient's sign (Madry et al., ICLR 2018), upwards and downwards; the one that moves further is
    returned. For a risk that is linear in the mean features the optimum is `strength * sign(gradient)`, which
    is reached.

    Args:
        audited: the network.
        slides: that it is fitted on.
        strength: in SDs of the training features.
        seed: of their order.
    """
    before = risks(audited, slides)
    found = []
    for direction in (1.0, -1.0):
        generator = torch.Generator().manual_seed(seed)
        delta = {s: torch.zeros_like(audited.sd[0]) for s in audited.scales}
        for _ in range(STEPS):
            slope = {s: torch.zeros_like(d) for s, d in delta.items()}
            for i in torch.randperm(len(slides), generator=generator)[:PER_STEP].tolist():
                for scale, each in _slope(audited, slides[i], delta).items():
                    slope[scale] += each
            for scale in delta:
                moved = delta[scale] + direction * STEP * strength * slope[scale].sign()
                delta[scale] = moved.clamp(-strength, strength)
        found.append((float((risks(audited, slides, delta) - before).mean().abs()), delta))
    return max(found, key=lambda pair: pair[0])[1]


def _slope(audited: Audited, slide: SlideTokens, delta: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of a slide's risk by a perturbation."""
    leaves = {scale: each.clone().requires_grad_() for scale, each in delta.items()}
    with torch.enable_grad():
        slopes = torch.autograd.grad(audited.risk(slide, leaves).sum(), list(leaves.values()))
    return dict(zip(leaves, slopes, strict=True))


def random_universal(
    audited: Audited, strength: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return `strength` with a sign by chance for each feature (E,) and scale: the norms of `universal`."""
    return {
        scale: strength * _signs((audited.sd.shape[1],), generator).to(audited.sd)
        for scale in audited.scales
    }


def sparse(
    audited: Audited, slide: SlideTokens, strength: float, share: float
) -> dict[str, Tensor]:
    """Perturb a share of the tokens of one slide, those of the largest attribution, to move its risk.

    Steps of the gradient's sign, upwards and downwards; the one that moves further is returned.

    Args:
        audited: the network.
        slide: one slide.
        strength: in SDs of the training features, for each feature of a token.
        share: of the tokens of each scale, one at least.

    Returns:
        (1, N, E) by scale, 0 for tokens that are left alone.
    """
    chosen = {
        scale: _largest(values.abs(), share) for scale, values in audited.attribution(slide).items()
    }
    with torch.no_grad():
        before = float(audited.risk(slide))
    found = []
    for direction in (1.0, -1.0):
        delta = {
            s: torch.zeros_like(slide.features[s], dtype=torch.float32) for s in audited.scales
        }
        for _ in range(2):  # the second step turns what the first one has overdone
            slopes = _slope(audited, slide, delta)
            for scale, rows in chosen.items():
                moved = direction * strength * slopes[scale][0, rows].sign()
                delta[scale][0, rows] = moved
        with torch.no_grad():
            found.append((abs(float(audited.risk(slide, delta)) - before), delta))
    return max(found, key=lambda pair: pair[0])[1]


def random_sparse(
    audited: Audited, slide: SlideTokens, strength: float, share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Perturb as many tokens, and each as strongly, by chance."""
    made = {}
    for scale in audited.scales:
        x = slide.features[scale]
        delta = torch.zeros_like(x, dtype=torch.float32)
        rows = torch.randperm(x.shape[1], generator=generator)[: _count(x.shape[1], share)]
        delta[0, rows] = strength * _signs((len(rows), x.shape[2]), generator).to(audited.sd)
        made[scale] = delta
    return made


def _largest(values: Tensor, share: float) -> Tensor:
    return values.topk(_count(len(values), share)).indices


def _count(tokens: int, share: float) -> int:
    return max(1, round(share * tokens))


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
