"""The risk of slides whose features are perturbed, in standard deviations of the training patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_network, scales_read
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES


@dataclass(frozen=True, eq=False)
class Audited:
    """A network whose risk is audited.

    Attributes:
        network: in eval mode, without gradients of its weights.
        scales: that it reads.
        mean: (3, E) of the training patches' features at 5x, 10x and 20x.
        sd: (3, E) of them.
    """

    network: SurvivalNetwork
    scales: tuple[str, ...]
    mean: Tensor
    sd: Tensor

    @classmethod
    def of(cls, network: SurvivalNetwork, name: str) -> Audited:
        """Prepare a network.

        Raises:
            TiacfError: it has no moments of features, so that there is no unit for a perturbation.
        """
        moments = network.moments()
        if moments is None:
            raise TiacfError(
                f"{name} has no moments of its training features, so that a perturbation has no unit; audit "
                "a model that was trained with fitting.standardise"
            )
        network = network.eval().requires_grad_(requires_grad=False)
        return cls(network, scales_read(network), *moments)

    def risk(self, tokens: SlideTokens, delta: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the risk (B,) of slides.

        Args:
            tokens: of B slides.
            delta: what is added at each scale, (E,) or (B, N, E), in SDs of the training features; None for
                nothing. Gradients flow to it.
        """
        moved = {scale: tokens.features[scale].to(self.sd) for scale in self.scales}
        for scale, each in (delta or {}).items():
            moved[scale] = moved[scale] + self.sd[SCALES.index(scale)] * each
        return call_network(self.network, tokens.to(self.sd.device).with_features(moved)).risk

    def standardised(self, tokens: SlideTokens, scale: str) -> Tensor:
        """Return the features (B, N, E) of a scale, in SDs from the mean of the training features."""
        place = SCALES.index(scale)
        return (tokens.features[scale].to(self.sd) - self.mean[place]) / self.sd[place]

    def attribution(self, tokens: SlideTokens) -> dict[str, Tensor]:
        """Return gradient times distance from the mean feature, (N,) by scale, of one slide."""
        delta = {
            scale: torch.zeros_like(tokens.features[scale]).requires_grad_()
            for scale in self.scales
        }
        with torch.enable_grad():
            slopes = torch.autograd.grad(self.risk(tokens, delta).sum(), list(delta.values()))
        return {
            scale: (slope * self.standardised(tokens, scale)).sum(dim=2)[0]
            for scale, slope in zip(self.scales, slopes, strict=True)
        }


#: A perturbation of all slides, (E,) by scale, or a function that makes one for each slide.
Perturbation = Mapping[str, Tensor] | Callable[[SlideTokens], Mapping[str, Tensor]]


@torch.no_grad()
def risks(
    audited: Audited, slides: Sequence[SlideTokens], delta: Perturbation | None = None
) -> Tensor:
    """Return the risks (N,) float64 of slides, under a perturbation if one is given."""
    found = [audited.risk(slide, delta(slide) if callable(delta) else delta) for slide in slides]
    return torch.cat(found).double().cpu()
