"""What survival networks return: a survival curve, a risk and, on request, attention scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class AttentionScores:
    """Attention per token, at each scale and after fusion, in float32 or wider and without gradient.

    A field is None where a network has no such score. Scores are taken before dropout and averaged over the
    heads; they are not renormalised.

    The fields are described for CrossFusion and its ablation without convolutions. Their `x10` and `fused`
    come from sequences padded to a square with copies of their first tokens (see `layout.pad_to_square`);
    a repeated token has the mean over its appearances, and the sum is kept (see `layout.fold_copies`).

    The other networks have no `fused`. For CrossFusion on 20x alone, `x20` is the class token's row
    described under `fused`. ABMIL and DSMIL give weights that sum to 1 over all tokens that they read, mean
    pooling equal weights to the tokens of a scale, and TransMIL an approximate row of attention, whose
    values may be negative.

    Attributes:
        x5: (B, N5) attention that the 5x tokens receive in the coarse cross-attention, mean over the N10
            queries. Sums to 1.
        x10: (B, N10) attention that the 10x tokens receive in the last layer of the source
            Pad-Transformer's post block, mean over all side * side queries, copies included. Sums to 1.
        x20: (B, N20) as `x5`, for the 20x tokens in the fine cross-attention.
        fused: (B, N10) the class token's row in the last layer of the final Pad-Transformer's post block,
            without its own column. Sums to 1 minus the attention that the class token pays to itself.
    """

    x5: Tensor | None = None
    x10: Tensor | None = None
    x20: Tensor | None = None
    fused: Tensor | None = None


def mean_scores(scores: Sequence[AttentionScores]) -> AttentionScores:
    """Average the scores of several networks of one kind, field by field."""
    means = {
        name: torch.stack([getattr(each, name) for each in scores]).mean(dim=0)
        for name, value in vars(scores[0]).items()
        if value is not None
    }
    return AttentionScores(**means)


@dataclass(frozen=True, eq=False)
class AttentionLayers:
    """Where a network's layers of multi-head attention are, and which tokens they attend to.

    Attributes:
        network: holds the layers; a layer's name is its path in this module.
        sequence: the input, such as "x10", whose tokens make the padded sequence of self-attention.
        before_sequence: number of class tokens before that sequence, by stage of self-attention (the part
            of a layer's name before its first dot). All other layers are cross-attentions.
        last: name of the layer from which the class token is read.
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
        attention: attention per token, if requested.
        member_risk: (B, M) risk predicted by each member of an ensemble; None for a single network.
        survival_without_record: (B, K) survival by the slide alone, of a model that also reads a record.
    """

    logits: Tensor
    hazards: Tensor
    survival: Tensor
    risk: Tensor
    attention: AttentionScores | None = None
    member_risk: Tensor | None = None
    survival_without_record: Tensor | None = None

    @classmethod
    def from_logits(
        cls,
        logits: Tensor,
        attention: AttentionScores | None = None,
        member_risk: Tensor | None = None,
        survival_without_record: Tensor | None = None,
    ) -> SurvivalOutput:
        """Apply the discrete hazard model to the head's logits (B, K); pass the rest through.

        `h_k = sigmoid(logit_k)`, `S_k = prod_{j <= k} (1 - h_j)`, `risk = -sum_k S_k`, in float32 or wider:
        under autocast the logits are in half precision, and products of rounded factors lose digits fast.
        """
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (B, K)
        hazards = torch.sigmoid(wide)  # (B, K)
        survival = torch.cumprod(1 - hazards, dim=1)  # (B, K)
        risk = -survival.sum(dim=1)
        return cls(logits, hazards, survival, risk, attention, member_risk, survival_without_record)
