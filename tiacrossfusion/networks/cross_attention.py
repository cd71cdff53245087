"""The cross-attention block: 10x tokens gather what another scale saw."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.attention import MultiHeadAttention, attention_received
from tiacrossfusion.networks.feed_forward import FeedForward


class CrossAttentionBlock(nn.Module):
    """10x tokens query the tokens of one other scale (5x or 20x).

    With `s` one learnt vector that marks the scale::

        a   = MHA(query = x + s, key = value = ctx + s)
        y   = LN(x + a)
        out = y + FFN(y)

    The query is not normalised before the attention and no norm closes the block. Source: Soraki et al.,
    "CrossFusion", MIDL 2026 (PMLR 315:2906-2921), the cross-attention block.

    Args:
        embed_dim: D.
        num_heads: H, a divisor of D.
        dropout: dropout of the feed-forward network. The attention weights have none.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        """Create the layers and draw `s` from N(0, 0.02^2)."""
        super().__init__()
        self.scale_embedding = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.attention = MultiHeadAttention(embed_dim, num_heads)
        self.norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, dropout)
        nn.init.normal_(self.scale_embedding, std=0.02)

    def forward(
        self, tokens: Tensor, context: Tensor, *, attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Fuse the context into the tokens.

        Args:
            tokens: (B, N, D), the projected 10x tokens.
            context: (B, M, D), the projected tokens of the other scale.
            attention: also return the attention that each context token receives.

        Returns:
            The fused tokens (B, N, D), and the scores (B, M) if asked for.
        """
        attended, scores = self.attention(
            tokens + self.scale_embedding,  # (B, N, D)
            context + self.scale_embedding,  # (B, M, D)
            attention_received if attention else None,
        )  # (B, N, D), (B, M)
        fused = self.norm(tokens + attended)  # (B, N, D)
        return fused + self.feed_forward(fused), scores
