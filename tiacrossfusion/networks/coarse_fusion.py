"""Nested fusion without 20x: each 10x token is compared with the 5x token around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.base import SurvivalNetwork, Term
from tiacrossfusion.networks.families import parents
from tiacrossfusion.networks.nested_fusion import Embedding, Product, selected, weighted_mean
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.token_embedding import initialise


class CoarseFusion(SurvivalNetwork):
    """Products of each 10x token with the 5x token around it; the terms of `NestedFusion` without 20x.

    One slide: `x5` (N5, E) and `x10` (N10, E)::

        h_s    = Dropout(ReLU(W_s x_s + b_s))                 s in {5, 10}
        s_i    = h10_i
        c_i    = h5 of the parent of i, or 0 if it has no parent
        p_i    = (L s_i + l) * (M c_i + m)
        t_i    = ReLU(W_t [s_i; c_i] + b_t)
        g      = [mean h5; mean h10; mean p; mean t]
        logits = W_o Dropout(ReLU(W_h g + b_h)) + b_o

    Slides are read at 5x and 10x, a quarter of the patches, and it is the student of `tiacf distil`.

    Args:
        encoder_width: E, width of the input features.
        embed_dim: D, width inside the network.
        num_bins: K, time bins of the survival curve.
        pair_dim: R, width of the products; 0 takes D / 8, at least 8.
        dropout: dropout of the embedded tokens and of the head.

    Raises:
        UsageError: a size is below 1 or too large.
    """

    recipe: ClassVar[Recipe] = replace(SEARCHED, input_weight_decay=15.0)

    def __init__(
        self,
        encoder_width: int = 1024,
        embed_dim: int = 512,
        num_bins: int = 4,
        *,
        pair_dim: int = 0,
        dropout: float = 0.1,
    ) -> None:
        """Create the network with fresh weights."""
        rank = pair_dim or max(8, embed_dim // 8)
        super().__init__(encoder_width, num_bins, embed_dim=embed_dim, pair_dim=rank)
        self.embed5 = Embedding(encoder_width, embed_dim, dropout)
        self.embed10 = Embedding(encoder_width, embed_dim, dropout)
        self.product = Product(embed_dim, rank)
        self.both = nn.Linear(2 * embed_dim, embed_dim)
        self.hidden = nn.Linear(3 * embed_dim + rank, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_bins)
        self.apply(initialise)

    def forward(self, x5: Tensor, x10: Tensor, *, grid5: Tensor, grid10: Tensor) -> SurvivalOutput:
        """Predict survival from tokens (B, N, E) and their places (B, N, 2)."""
        self.check_features(x5=x5, x10=x10)
        coarse, source = self.embed5(x5), self.embed10(x10)
        parent = parents(grid10, grid5)  # (B * N10,)
        around = selected(coarse.flatten(0, 1), parent)
        tokens = source.flatten(0, 1)
        there = (parent >= 0).to(tokens.dtype)
        joined = torch.relu(self.both(torch.cat([tokens, around], dim=1)))
        means = [
            coarse.mean(dim=1),
            source.mean(dim=1),
            weighted_mean(self.product(tokens, around), there, len(x5)),
            weighted_mean(joined, torch.ones_like(there), len(x5)),
        ]
        pooled = self.dropout(torch.relu(self.hidden(torch.cat(means, dim=1))))
        return SurvivalOutput.from_logits(self.head(pooled))

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return the embedding of each scale."""
        return {self.embed5: ("5x",), self.embed10: ("10x",)}

    def terms(self) -> Mapping[nn.Module, Term]:
        """Return the products."""
        return {self.product: Term("10x inside 5x", "10x")}
