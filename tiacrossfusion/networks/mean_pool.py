"""Mean pooling with an MLP: survival from the average token of each scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.pooling import Pool, sum_by
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.token_embedding import BagNetwork, CoarseOnly, FineOnly


class MeanPool(BagNetwork):
    """An MLP on the concatenated mean embedded tokens of the scales.

    With m_s the mean of the embedded tokens of scale s (see `TokenEmbedding`)::

        logits = Linear(Dropout(ReLU(Linear(concat_s(m_s)))))

    Embedding before the mean lets the network count tokens of a kind; the MLP after it can multiply what
    the scales contribute. Scores are uniform: 1/N_s for each token of scale s.
    """

    recipe: ClassVar[Recipe] = replace(SEARCHED, input_weight_decay=15.0)
    attention_meanings: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("5x", "10x", "20x"), "Weight of the patch in the mean of its scale: the same for all."
    )

    def _add_layers(self, embed_dim: int, num_bins: int, dropout: float) -> None:
        self.hidden = nn.Linear(len(self.scales) * embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_bins)

    def predict(self, scales: list[Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from embedded tokens (B, N, D) of each scale, from coarse to fine."""
        means = torch.cat([tokens.mean(dim=1) for tokens in scales], dim=1)  # (B, scales * D)
        logits = self._head(means)  # (B, K)
        scores = None
        if attention:
            uniform = [tokens.new_full(tokens.shape[:2], 1 / tokens.shape[1]) for tokens in scales]
            scores = self.scores(torch.cat(uniform, dim=1), scales)
        return SurvivalOutput.from_logits(logits, scores)

    pools_families = True

    def family_sums(self, inputs: Mapping[str, Tensor]) -> list[Pool]:
        """Return the sums of the embedded tokens at each scale."""
        return [
            Pool(scale, sum_by(tokens, rows, count), reads=scale)
            for scale, tokens, rows, count in self.embedded_rows(inputs)
        ]

    def from_means(
        self, means: Iterator[Tensor], counts: Mapping[str, int], covariates: Tensor | None = None
    ) -> SurvivalOutput:
        """Predict from the means m_s."""
        del counts, covariates
        return SurvivalOutput.from_logits(
            self._head(torch.cat([next(means) for _ in self.scales], dim=1))
        )

    def _head(self, means: Tensor) -> Tensor:
        return self.head(self.dropout(torch.relu(self.hidden(means))))


class MeanPool20x(FineOnly, MeanPool):
    """Mean pooling of the 20x tokens alone."""


class MeanPool5x(CoarseOnly, MeanPool):
    """Mean pooling of the 5x tokens alone, for slides of which nothing finer is read."""

    pools_families = False  # there is nothing to sample
