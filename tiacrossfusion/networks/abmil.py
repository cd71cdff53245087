"""ABMIL: gated attention pooling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.pooling import Pool, sum_by
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
        weights = torch.softmax(self._logits(tokens), dim=1)  # (B, N)
        pooled = (weights[:, None].to(tokens.dtype) @ tokens).squeeze(1)  # (B, D)
        logits = self.head(self.dropout(pooled))  # (B, K)
        scores = self.scores(weights, scales) if attention else None
        return SurvivalOutput.from_logits(logits, scores)

    pools_families = True

    def family_sums(self, inputs: Mapping[str, Tensor]) -> list[Pool]:
        """Return the sums of `e_n h_n` and of e_n at each scale, with `a_n = e_n / sum e_n`."""
        pools = []
        for scale, tokens, rows, count in self.embedded_rows(inputs):
            powers = (self._logits(tokens) - self._offset()).exp()[:, None]  # (N, 1)
            for x, positive in ((powers * tokens, False), (powers, True)):
                pools.append(Pool(scale, sum_by(x, rows, count), scale, positive))
        return pools

    def from_means(
        self, means: Iterator[Tensor], counts: Mapping[str, int], covariates: Tensor | None = None
    ) -> SurvivalOutput:
        """Predict from the means of `e_n h_n` and e_n at each scale."""
        del covariates
        pairs = [
            (counts[scale] * next(means), counts[scale] * next(means)) for scale in self.scales
        ]
        weighted, total = (torch.stack(side).sum(dim=0) for side in zip(*pairs, strict=True))
        pooled = weighted / total.clamp(min=torch.finfo(total.dtype).tiny)
        return SurvivalOutput.from_logits(self.head(self.dropout(pooled)))

    def _logits(self, tokens: Tensor) -> Tensor:
        """Return the logits (..., N) of the attention of embedded tokens (..., N, D)."""
        gated = torch.tanh(self.content(tokens)) * torch.sigmoid(self.gate(tokens))  # (..., N, L)
        return self.score(gated).squeeze(-1)

    def _offset(self) -> Tensor:
        """Return what is subtracted from logits, which are below |w|_1, so that exp does not overflow."""
        return (self.score.weight.abs().sum() - 60).clamp(min=0)


class ABMIL20x(FineOnly, ABMIL):
    """ABMIL on the 20x tokens alone."""
