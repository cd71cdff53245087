"""ABMIL: gated attention pooling."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.token_embedding import BagNetwork, FineOnly

# L, width of the attention's hidden layer, as in the paper's experiments.
_HIDDEN = 128


class ABMIL(BagNetwork):
    """Attention-based multiple-instance learning with gated attention.

    With h_n the embedded tokens (see `TokenEmbedding`)::

        a_n    = softmax_n(w^T (tanh(V h_n) * sigmoid(U h_n)))
        logits = Linear(Dropout(sum_n a_n h_n))

    `*` is elementwise; V and U have biases. The head returns one logit for each time bin instead of the
    paper's single probability. Scores are a_n.

    Source: Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    equations 7 and 9.
    """

    recipe: ClassVar[Recipe] = replace(SEARCHED, input_weight_decay=5.0)

    def _add_layers(self, embed_dim: int, num_bins: int, dropout: float) -> None:
        self.content = nn.Linear(embed_dim, _HIDDEN)  # V
        self.gate = nn.Linear(embed_dim, _HIDDEN)  # U
        self.score = nn.Linear(_HIDDEN, 1, bias=False)  # w; a bias would not change the softmax
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_bins)

    def predict(self, scales: list[Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from embedded tokens (B, N, D) of each scale, from coarse to fine."""
        tokens = torch.cat(scales, dim=1)  # (B, N, D)
        gated = torch.tanh(self.content(tokens)) * torch.sigmoid(self.gate(tokens))  # (B, N, L)
        weights = torch.softmax(self.score(gated).squeeze(2), dim=1)  # (B, N)
        pooled = (weights[:, None].to(tokens.dtype) @ tokens).squeeze(1)  # (B, D)
        logits = self.head(self.dropout(pooled))  # (B, K)
        scores = self.scores(weights, scales) if attention else None
        return SurvivalOutput.from_logits(logits, scores)


class ABMIL20x(FineOnly, ABMIL):
    """ABMIL on the 20x tokens alone."""
