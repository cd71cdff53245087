"""Cox regression on mean features, as a network: the baseline without any learning of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.slides.spec import SCALES


def _read_all(
    self: CoxNet, x5: Tensor, x10: Tensor, x20: Tensor, *, attention: bool = False
) -> SurvivalOutput:
    """Predict survival from the tokens of all scales."""
    self.check_features(x5=x5, x10=x10, x20=x20)
    return self.predict_from([x5, x10, x20], attention=attention)


def _read_fine(self: CoxNet, x20: Tensor, *, attention: bool = False) -> SurvivalOutput:
    """Predict survival from the 20x tokens."""
    self.check_features(x20=x20)
    return self.predict_from([x20], attention=attention)


class CoxNet(SurvivalNetwork):
    """Linear Cox regression on the mean features of each scale, with an elastic net.

    It has no optimiser: `training.closed_form` finds its weights with `survival.elastic_net`, the penalty by
    cross-validation inside the training patients.

    Args:
        encoder_width: E, width of the input features.
        num_bins: K; 1 for a log-hazard.
    """

    attention_meanings: ClassVar[Mapping[str, str]] = dict.fromkeys(
        SCALES, "Weight of the patch in the mean of its scale: the same for all."
    )
    recipe: ClassVar[Recipe] = replace(SEARCHED, embed_dim=1, dropout=0.0, epochs=1, least_steps=1)
    scales: ClassVar[tuple[str, ...]] = SCALES
    forward: Callable[..., SurvivalOutput] = _read_all

    def __init__(self, encoder_width: int = 1024, num_bins: int = 4) -> None:
        """Create the network with weights of 0."""
        super().__init__(encoder_width, num_bins)
        self.linear = nn.Linear(len(self.scales) * encoder_width, num_bins)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def means(self, scales: list[Tensor]) -> Tensor:
        """Return the mean features (B, scales * E) of tokens (B, N, E) of each scale."""
        dtype = self.linear.weight.dtype
        return torch.cat([tokens.to(dtype).mean(dim=1) for tokens in scales], dim=1)

    def predict_from(self, scales: list[Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from tokens (B, N, E) of each scale, from coarse to fine."""
        scores = None
        if attention:
            uniform = {
                f"x{scale[:-1]}": tokens.new_full(
                    tokens.shape[:2], 1 / tokens.shape[1], dtype=torch.float32
                )
                for scale, tokens in zip(self.scales, scales, strict=True)
            }
            scores = AttentionScores(**uniform)
        return SurvivalOutput.from_logits(self.linear(self.means(scales)), scores)


class CoxNet20x(CoxNet):
    """The same on the 20x tokens alone, or on slide embeddings."""

    scales = ("20x",)
    forward = _read_fine
