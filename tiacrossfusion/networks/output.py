"""What a survival network returns: a discrete survival curve, a risk and, if asked, attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AttentionScores:
    """Attention per token at each scale and after fusion, always float32 or wider, never dense.

    None stands for scores that a network does not have: its scale is not read, or nothing is
    fused. All are without gradient and before dropout, means over the heads where there are heads.
    Nothing is renormalised.

    CrossFusion and its ablation without convolutions give the four below. Their `x10` and `fused`
    come from sequences squared by repeating their first tokens (see `layout.pad_to_square`): what
    the copies receive is added to their originals.

    The others have no `fused`. CrossFusion of 20x alone gives in `x20` what `fused` is below, of its
    own tokens. ABMIL and DSMIL give weights that sum to 1 over the tokens of all the scales that
    they read, mean pooling the same weight to each token of a scale, and TransMIL an approximated
    row of attention, whose values may be negative; each says more in its own docstring.

    Attributes:
        x5 (Tensor | None):
            (B, N5) attention the 5x tokens receive in the coarse cross-attention, mean over the
            N10 queries. Sums to 1 over the tokens.
        x10 (Tensor | None):
            (B, N10) attention the 10x tokens receive in the last layer of the source
            Pad-Transformer's post block, mean over all side * side queries, copies included. Sums
            to 1 over the tokens.
        x20 (Tensor | None):
            (B, N20) attention the 20x tokens receive in the fine cross-attention, mean over the
            N10 queries. Sums to 1 over the tokens. Every network has it.
        fused (Tensor | None):
            (B, N10) the class token's row in the last layer of the final Pad-Transformer's post
            block. The class token's own column is dropped, so the sum over the tokens is 1 less
            the attention the class token pays to itself.
    """

    x5: Tensor | None = None
    x10: Tensor | None = None
    x20: Tensor | None = None
    fused: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SurvivalOutput:
    """A discrete-time survival prediction for a batch of B slides and K time bins.

    Attributes:
        logits (Tensor):
            (B, K) the head's output, in the precision of the network.
        hazards (Tensor):
            (B, K) probability of the event in a bin, given survival up to it.
        survival (Tensor):
            (B, K) probability of surviving past each bin; never rises.
        risk (Tensor):
            (B,) minus the sum of `survival`, from -K (safest) to 0; higher is worse.
        attention (AttentionScores | None):
            Attention per token, when it was asked for.
        member_risk (Tensor | None):
            (B, M) risk that each member of an ensemble gives; None for a single network.
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
            logits (Tensor):
                (B, K) any float type. Under autocast they come in half precision: the curve is
                computed in float32 at least, since products of rounded factors lose digits fast.
            attention (AttentionScores | None):
                Passed through.
            member_risk (Tensor | None):
                Passed through.

        Returns:
            SurvivalOutput:
                The prediction.
        """
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (B, K)
        hazards = torch.sigmoid(wide)  # (B, K)
        survival = torch.cumprod(1 - hazards, dim=1)  # (B, K)
        return cls(logits, hazards, survival, -survival.sum(dim=1), attention, member_risk)
