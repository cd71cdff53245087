"""Several networks as one: the mean of their survival curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.base import SurvivalNetwork, Term
from tiacrossfusion.networks.calling import call_with
from tiacrossfusion.networks.output import (
    AttentionLayers,
    AttentionScores,
    SurvivalOutput,
    mean_scores,
)
from tiacrossfusion.networks.pooling import Pool, pools_of
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.wrapper import NetworkWrapper

# A hazard of exactly 0 or 1 has no finite logit.
_EDGE = 1e-7


class Ensemble(NetworkWrapper):
    """Averages the survival curves of networks whose time bins may differ.

    The networks of a cross-validation have time bins from different training patients. Each curve is
    interpolated at the edges of the ensemble's bins (linearly, constant beyond the last edge), and the mean
    curve gives the hazards `h_k = 1 - S_k / S_(k-1)`. Attention scores are averaged too.

    Args:
        members: M networks of one kind.
        weights: (M, K, 1 + K_m): `weights[m] @ [1, S_1 .. S_(K_m)]` is the curve of member m at the K
            edges.
    """

    weights: Tensor

    def __init__(self, members: Sequence[SurvivalNetwork], weights: Tensor) -> None:
        """Register the members; the state dict omits the weights, which follow from the time bins."""
        super().__init__(members[0].encoder_width, weights.shape[1])
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", weights, persistent=False)

    def predict(self, inputs: dict[str, Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict the mean curve, and as `member_risk` (B, M) the members' risks at the same edges."""
        return self._mean(
            [call_with(member, inputs, attention=attention) for member in self.members]
        )

    @property
    def pools_families(self) -> bool:
        """Whether all members do."""
        return all(pools_of(member) for member in self.members)

    def family_sums(self, inputs: Mapping[str, Tensor]) -> list[Pool]:
        """Return those of all members, one after the other."""
        return [pool for member in self._networks() for pool in member.family_sums(inputs)]

    def from_means(
        self, means: Iterator[Tensor], counts: Mapping[str, int], covariates: Tensor | None = None
    ) -> SurvivalOutput:
        """Predict the mean curve."""
        return self._mean(
            [member.from_means(means, counts, covariates) for member in self._networks()]
        )

    def _mean(self, outputs: Sequence[SurvivalOutput]) -> SurvivalOutput:
        curves = self._curves([output.survival for output in outputs])  # (M, B, K)
        alone = [output.survival_without_record for output in outputs]
        known = [survival for survival in alone if survival is not None]
        mean = curves.mean(dim=0).clamp(min=_EDGE)  # (B, K)
        before = torch.cat([torch.ones_like(mean[:, :1]), mean[:, :-1]], dim=1)
        hazards = (1 - mean / before).clamp(_EDGE, 1 - _EDGE)
        scores = [output.attention for output in outputs if output.attention is not None]
        return SurvivalOutput.from_logits(
            torch.logit(hazards),
            mean_scores(scores) if scores else None,
            member_risk=-curves.sum(dim=2).T,
            survival_without_record=self._curves(known).mean(dim=0) if known else None,
        )

    def _curves(self, survival: Sequence[Tensor]) -> Tensor:
        """Return the members' curves (B, K_m) at the ensemble's edges, (M, B, K)."""
        return torch.stack(
            [
                torch.cat([torch.ones_like(curve[:, :1]), curve], dim=1) @ weights.T
                for curve, weights in zip(survival, self.weights, strict=True)
            ]
        )

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return those of all members."""
        return {
            module: scales
            for member in self._networks()
            for module, scales in member.embeddings().items()
        }

    def terms(self) -> Mapping[nn.Module, Term]:
        """Return those of all members."""
        return {
            module: term for member in self._networks() for module, term in member.terms().items()
        }

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return the mean of the members' moments, since their training patients overlap."""
        found = [moments for m in self._networks() if (moments := m.moments()) is not None]
        if not found:
            return None
        means, sds = zip(*found, strict=True)
        return torch.stack(means).mean(dim=0), torch.stack(sds).mean(dim=0)

    def rollout(self, tokens: SlideTokens) -> AttentionScores | None:
        """Return the mean over the members."""
        found = [rolled for m in self._networks() if (rolled := m.rollout(tokens)) is not None]
        return mean_scores(found) if found else None

    def attention_layers(self) -> AttentionLayers | None:
        """Raise TiacfError: attention layers are those of a single member."""
        raise TiacfError(
            f"the attention of an ensemble of {len(self.members)} networks cannot be traced as one: "
            "trace its members one by one"
        )

    def _networks(self) -> list[SurvivalNetwork]:
        return [member for member in self.members if isinstance(member, SurvivalNetwork)]

    def _inner(self) -> nn.Module:
        return self.members[0]
