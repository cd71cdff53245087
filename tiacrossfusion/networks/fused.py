"""A slide's network and the patient's clinical record as one model.

The slide's network is trained before and stays as it is. Of its curve one number is kept, the slide score r:
the logarithm of the cumulative hazard at the last bin edge, which for a Cox network is its log-hazard. The
record enters as the terms z of `RecordTerms`. A record with more gaps than those of the training patients is
completed first: missing terms take their conditional mean, given the others and the slide score. Each state
of the record, whole, partial and none, has a baseline hazard of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiacrossfusion.networks.base import SurvivalNetwork, Term
from tiacrossfusion.networks.masked_completion import MaskedCompletion
from tiacrossfusion.networks.output import AttentionLayers, AttentionScores, SurvivalOutput
from tiacrossfusion.networks.pooling import Pool
from tiacrossfusion.networks.record_head import NONE, PARTIAL, WHOLE, HeadKind, RecordHead
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork, proportional_logits
from tiacrossfusion.networks.wrapper import NetworkWrapper
from tiacrossfusion.survival.record import Record


class Projection(nn.Module):
    """Standardised tokens (B, N, E) of a scale along a direction, (B, N, 1)."""

    direction: Tensor

    def __init__(self, encoder_width: int) -> None:
        """Make a direction of zeros."""
        super().__init__()
        self.register_buffer("direction", torch.zeros(encoder_width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens along the direction."""
        return (tokens.to(self.direction.dtype) @ self.direction)[:, :, None]


class Projections(nn.Module):
    """The pretrained summary of slides in closed form: tokens along a direction of each scale."""

    def __init__(self, scales: Sequence[str], encoder_width: int) -> None:
        """Make directions of zeros."""
        super().__init__()
        self.scales = tuple(scales)
        self.of_scale = nn.ModuleDict({scale: Projection(encoder_width) for scale in scales})

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the summary (B,) of features (B, N, E) by scale, standardised by the slide's network."""
        parts = [self.of_scale[scale](features[scale]).mean(dim=1)[:, 0] for scale in self.scales]
        return torch.stack(parts).sum(dim=0)


class SlideScore(nn.Module):
    """The slide score (B, 1) from logits (B, K), standardised by the scores of the training patients.

    With a pretrained summary of the slide that is a second one, (B, 2).
    """

    moments: Tensor
    summary_mean: Tensor

    def __init__(self) -> None:
        """Make a score of mean 0 and SD 1."""
        super().__init__()
        self.register_buffer("moments", torch.tensor([0.0, 1.0]))
        self.register_buffer("summary_mean", torch.zeros(()))

    def forward(self, logits: Tensor, summary: Tensor | None = None) -> Tensor:
        """Return the log of the cumulative hazard at the last bin edge, less the mean, over the SD.

        Args:
            logits: of the slide's network.
            summary: (B,) pretrained one.
        """
        score = (log_cumulative_hazard(logits) - self.moments[0]) / self.moments[1]
        if summary is None:
            return score[:, None]
        return torch.stack([score, summary.to(score.dtype) - self.summary_mean], dim=1)


class FusedNetwork(NetworkWrapper):
    """A slide's network, and the head that joins its score with a record.

    `covariates` (B, V) are the codes of the record (`Record.codes`), NaN where missing; without them the
    prediction is that of the slide alone.

    Args:
        network: of slides.
        record: variables of the record.
        num_bins: K.
        kind: of the head.
        summary: pretrained network of the summary of slides, `Projections` or `MaskedCompletion`; None
            without pretraining.
    """

    gaps: Tensor

    def __init__(
        self,
        network: SurvivalNetwork,
        record: Record,
        num_bins: int,
        kind: HeadKind,
        summary: nn.Module | None = None,
    ) -> None:
        """Wrap the network."""
        super().__init__(network.encoder_width, num_bins)
        self.network, self.record = network, record
        self.score = SlideScore()
        self.summary = summary
        self.head = RecordHead(record, num_bins, kind, pretrained=summary is not None)
        # Most missing values that a training patient usually has: more make a record partial.
        self.register_buffer("gaps", torch.zeros(()))

    def further_inputs(self) -> tuple[str, ...]:
        """Return those of the slide's network, and covariates."""
        scales = (f"x{scale[:-1]}" for scale in self.summary_scales())
        return (*super().further_inputs(), *scales, "covariates")

    def predict(self, inputs: dict[str, Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict K hazards from slide and record, with the attention scores of the slide's network."""
        of_slide = dict(inputs)
        codes = of_slide.pop("covariates", None)
        output = super().predict(of_slide, attention=attention)
        score = self.score(output.logits, self.summary_of(of_slide))
        nothing = score.new_full((len(score), len(self.record.variables)), torch.nan)
        alone = SurvivalOutput.from_logits(self.logits(score, nothing))
        logits = alone.logits if codes is None else self.logits(score, codes)
        return SurvivalOutput.from_logits(
            logits, output.attention, survival_without_record=alone.survival
        )

    @property
    def pools_families(self) -> bool:
        """That of the slide's network; not with a pretrained summary."""
        return self.network.pools_families and self.summary is None

    def family_sums(self, inputs: Mapping[str, Tensor]) -> list[Pool]:
        """Return those of the slide's network."""
        return self.network.family_sums(inputs)

    def from_means(
        self, means: Iterator[Tensor], counts: Mapping[str, int], covariates: Tensor | None = None
    ) -> SurvivalOutput:
        """Predict K hazards from the means of the slide's network and the codes of a record."""
        score = self.score(self.network.from_means(means, counts).logits)
        codes = covariates
        if codes is None:
            codes = score.new_full((1, len(self.record.variables)), torch.nan)
        return SurvivalOutput.from_logits(self.logits(score, codes.expand(len(score), -1)))

    def summary_of(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return the pretrained summary (B,) of slides; None without pretraining."""
        if self.summary is None:
            return None
        if isinstance(self.summary, Projections):
            assert isinstance(self.network, TrainedNetwork)  # noqa: S101 - training has looked
            inputs = self.network.standardised(inputs)
        scales = self.summary_scales()
        return self.summary({scale: inputs[f"x{scale[:-1]}"] for scale in scales})

    def summary_scales(self) -> tuple[str, ...]:
        """Return the scales that the pretrained summary reads."""
        if isinstance(self.summary, Projections | MaskedCompletion):
            return self.summary.scales
        return ()

    def logits(self, score: Tensor, codes: Tensor, typical: Tensor | None = None) -> Tensor:
        """Return the logits (B, K) of slide scores (B, 1 or 2) and codes (B, V).

        Args:
            score: of the slides.
            codes: of the records.
            typical: (B, V) bool, variables that are taken for those of an average patient, their terms being
                0; the state of the record is that of the codes. None for none.
        """
        codes = codes.to(score.dtype)
        found = torch.empty(len(score), self.num_bins, dtype=score.dtype, device=score.device)
        for state, rows in self._rows_by_state(codes).items():
            if not rows.any():
                continue
            mine, shared = score[rows, 0], None
            away = None if typical is None else typical[rows]
            if state == NONE:
                eta = self.head.alpha_alone * mine
            else:
                whole = state == WHOLE
                z = (
                    self.head.terms(codes[rows])
                    if whole
                    else self.head.completed(codes[rows], mine)
                )
                if away is not None:
                    place = torch.as_tensor(self.record.places()[0], device=z.device)
                    z = z.masked_fill(away[:, place], 0.0)
                if self.summary is not None:
                    of_record = self.head.summary(codes[rows], away)
                    shared = torch.stack([score[rows, 1], of_record], dim=1)
                eta = self.head(z, mine, shared)
            logits = proportional_logits(eta[:, None], self.head.increments(state))
            found[rows] = logits.to(score.dtype)
        return found

    def state(self, codes: Tensor) -> str:
        """Return the state of the record of codes (V,): "whole", "partial" or "none"."""
        rows = self._rows_by_state(codes[None])
        return next(state for state, mine in rows.items() if bool(mine[0]))

    def _rows_by_state(self, codes: Tensor) -> dict[str, Tensor]:
        """Return which rows (B,) of codes (B, V) are in each state of the record."""
        missing = codes.isnan().sum(dim=1)
        none, usual = missing == codes.shape[1], missing <= self.gaps
        return {NONE: none, WHOLE: usual & ~none, PARTIAL: ~usual & ~none}

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return those of the slide's network, and the pretrained directions."""
        own = self.network.embeddings()
        # Without any, the risk is attributed to the features. What a neural summary sees in a token is not.
        if not own or not isinstance(self.summary, Projections):
            return own
        return {**own, **{m: (scale,) for scale, m in self.summary.of_scale.items()}}

    def terms(self) -> Mapping[nn.Module, Term]:
        """Return those of the slide's network."""
        return self.network.terms()

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return those of the slide's network."""
        return self.network.moments()

    def rollout(self, tokens: SlideTokens) -> AttentionScores | None:
        """Return that of the slide's network."""
        return self.network.rollout(tokens)

    def attention_layers(self) -> AttentionLayers | None:
        """Return the layers of the slide's network."""
        return self.network.attention_layers()

    def _inner(self) -> nn.Module:
        return self.network


def log_cumulative_hazard(logits: Tensor) -> Tensor:
    """Return the log of the cumulative hazard (B,) at the last bin edge, from logits (B, K) of the hazards.

    The sum over the bins of `-log(1 - h) = softplus(logit)`.
    """
    return functional.softplus(logits).sum(dim=1).clamp(min=1e-12).log()
