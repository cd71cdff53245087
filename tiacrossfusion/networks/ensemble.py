"""Several networks as one: the mean of their survival curves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput

# A survival or a hazard of exactly 0 or 1 has no finite logit.
_EDGE = 1e-7


class Ensemble(nn.Module):
    """Averages the survival curves of networks whose time bins may differ.

    The networks of a cross-validation have time bins of different training patients. Each curve is read
    at the edges of the ensemble's own bins (straight between edges, level beyond the last), and the
    mean curve gives the hazards `h_k = 1 - S_k / S_(k-1)`. Attention is averaged too.

    Args:
        members (Sequence[nn.Module]):
            M networks with the signature of `CrossFusion`.
        weights (Tensor):
            (M, K, 1 + K_m): `weights[m] @ [1, S_1 .. S_(K_m)]` is the curve of member m at the K edges.
    """

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Tensor) -> None:
        """Keep the members; the weights are no part of the state dict, as the bins tell them."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self, x5: Tensor, x10: Tensor, x20: Tensor, *, attention: bool = False
    ) -> SurvivalOutput:
        """Predict survival; arguments and errors are those of the members.

        Returns:
            SurvivalOutput:
                Of the mean curve, with `member_risk` (B, M): the members' risks at the same edges.
        """
        outputs = [member(x5, x10, x20, attention=attention) for member in self.members]
        curves = torch.stack(
            [
                torch.cat([torch.ones_like(output.survival[:, :1]), output.survival], dim=1)
                @ weights.T
                for output, weights in zip(outputs, self.weights, strict=True)
            ]
        )  # (M, B, K)
        mean = curves.mean(dim=0).clamp(min=_EDGE)  # (B, K)
        before = torch.cat([torch.ones_like(mean[:, :1]), mean[:, :-1]], dim=1)
        hazards = (1 - mean / before).clamp(_EDGE, 1 - _EDGE)
        scores = (
            _mean_scores([output.attention for output in outputs if output.attention is not None])
            if attention
            else None
        )
        return SurvivalOutput.from_logits(
            torch.logit(hazards), scores, member_risk=-curves.sum(dim=2).T
        )


def _mean_scores(scores: Sequence[AttentionScores]) -> AttentionScores:
    """Mean over the members of what they have."""

    def mean(name: str) -> Tensor | None:
        given = [getattr(score, name) for score in scores]
        return None if given[0] is None else torch.stack(given).mean(dim=0)

    return AttentionScores(x5=mean("x5"), x10=mean("x10"), x20=mean("x20"), fused=mean("fused"))
