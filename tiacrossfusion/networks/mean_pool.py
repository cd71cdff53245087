"""Mean pooling with an MLP: survival from the average token of each scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.token_embedding import BagNetwork, FineOnly


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
        logits = self.head(self.dropout(torch.relu(self.hidden(means))))  # (B, K)
        scores = None
        if attention:
            uniform = [tokens.new_full(tokens.shape[:2], 1 / tokens.shape[1]) for tokens in scales]
            scores = self.scores(torch.cat(uniform, dim=1), scales)
        return SurvivalOutput.from_logits(logits, scores)


class MeanPool20x(FineOnly, MeanPool):
    """Mean pooling of the 20x tokens alone."""
