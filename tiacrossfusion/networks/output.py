"""What survival networks return: a survival curve, a risk and, if asked for, scores of the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class AttentionScores:
    """Attention per token at each scale and after fusion, always float32 or wider, never dense.

    None where a network has no such scores: it does not read the scale, or it fuses nothing. All are
    without gradient, taken before dropout, and averaged over the heads. Nothing is renormalised.

    CrossFusion and its ablation without convolutions give the four below. Their `x10` and `fused` come from
    sequences padded to a square with copies of their first tokens (see `layout.pad_to_square`): what the
    copies receive is added to their originals.

    The other networks have no `fused`. In CrossFusion of 20x alone `x20` is what `fused` is below, for the
    20x tokens. ABMIL and DSMIL give weights that sum to 1 over the tokens of all scales that they read,
    mean pooling an equal weight to each token of a scale, and TransMIL an approximated row of attention,
    whose values may be negative.

    Attributes:
        x5: (B, N5) attention the 5x tokens receive in the coarse cross-attention, mean over the N10
            queries. Sums to 1 over the tokens.
        x10: (B, N10) attention the 10x tokens receive in the last layer of the source Pad-Transformer's
            post block, mean over all side * side queries, copies included. Sums to 1 over the tokens.
        x20: (B, N20) attention the 20x tokens receive in the fine cross-attention, mean over the N10
            queries. Sums to 1 over the tokens.
        fused: (B, N10) the class token's row in the last layer of the final Pad-Transformer's post block.
            The class token's own column is dropped, so the sum over the tokens is 1 less the attention the
            class token pays to itself.
    """

    x5: Tensor | None = None
    x10: Tensor | None = None
    x20: Tensor | None = None
    fused: Tensor | None = None


@dataclass(frozen=True, eq=False)
class RolledAttention:
    """How much of what the class token reads comes from each token.

    The values are 0 or more and sum to 1 over the tokens of all scales together, so that the sum at one
    scale is that scale's share. They are float32 or wider, without gradient. They are NaN if the class
    token attends to nothing but itself.

    Attributes:
        x20: (B, N20) of the 20x tokens.
        x10: (B, N10) of the 10x tokens; None where the network does not read them.
        x5: (B, N5) of the 5x tokens; None likewise.
    """

    x20: Tensor
    x10: Tensor | None = None
    x5: Tensor | None = None


Scores = TypeVar("Scores", AttentionScores, RolledAttention)


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Average the scores that several networks of one kind give, field by field."""
    means = {
        name: torch.stack([getattr(each, name) for each in scores]).mean(dim=0)
        for name, value in vars(scores[0]).items()
        if value is not None
    }
    return type(scores[0])(**means)


@dataclass(frozen=True, eq=False)
class AttentionLayers:
    """Where a network's layers of multi-head attention are, and which tokens they attend to.

    Attributes:
        network: holds the layers, each named after its place in it.
        sequence: the input, such as "x10", whose tokens make the padded sequence of self-attention.
        before_sequence: for each stage of self-attention, the part of a layer's name before its first dot,
            the number of class tokens before that sequence. Other layers are cross-attentions.
        last: name of the layer whose class token is read.
    """

    network: nn.Module
    sequence: str
    before_sequence: Mapping[str, int]
    last: str


@dataclass(frozen=True, eq=False)
class SurvivalOutput:
    """A discrete-time survival prediction for a batch of B slides and K time bins.

    Attributes:
        logits: (B, K) the head's output, in the precision of the network.
        hazards: (B, K) probability of the event in a bin, given survival up to it.
        survival: (B, K) probability of surviving past each bin; never rises.
        risk: (B,) minus the sum of `survival`, from -K (safest) to 0; higher is worse.
        attention: attention per token, when it was asked for.
        member_risk: (B, M) risk that each member of an ensemble gives; None for a single network.
    """

    logits: Tensor
    hazards: Tensor
    survival: Tensor
    risk: Tensor
    attention: AttentionScores | None = None
    member_risk: Tensor | None = None

    @classmethod
    def from_logits(
        cls,
        logits: Tensor,
        attention: AttentionScores | None = None,
        member_risk: Tensor | None = None,
    ) -> SurvivalOutput:
        """Apply the discrete hazard model to the head's logits.

        `h_k = sigmoid(logit_k)`, `S_k = prod_{j <= k} (1 - h_j)`, `risk = -sum_k S_k`.

        Args:
            logits: (B, K) any float type. Under autocast they come in half precision: the curve is computed
                in float32 at least, since products of rounded factors lose digits fast.
            attention: passed through.
            member_risk: passed through.

        Returns:
            The prediction.
        """
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (B, K)
        hazards = torch.sigmoid(wide)  # (B, K)
        survival = torch.cumprod(1 - hazards, dim=1)  # (B, K)
        return cls(logits, hazards, survival, -survival.sum(dim=1), attention, member_risk)
