"""The cross-attention block: 10x tokens attend to another scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.attention import FeedForward, MultiHeadAttention, attention_received


class CrossAttentionBlock(nn.Module):
    """Lets 10x tokens attend to the tokens of another scale (5x or 20x).

    With `s` a learnt vector of that scale::

        a   = MHA(query = x + s, key = value = ctx + s)
        y   = LN(x + a)
        out = y + FFN(y)

    There is no norm before the attention and none at the end.
    Source: Soraki et al., "CrossFusion", MIDL 2026 (PMLR 315:2906-2921), the cross-attention block.

    Args:
        embed_dim: D.
        num_heads: H, a divisor of D.
        dropout: dropout of the feed-forward network; attention weights are not dropped.
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
        """Fuse the context (B, M, D), projected tokens of the other scale, into 10x tokens (B, N, D).

        Returns:
            The fused tokens (B, N, D), and, if requested, the attention (B, M) that the context receives.
        """
        attended, scores = self.attention(
            tokens + self.scale_embedding,  # (B, N, D)
            context + self.scale_embedding,  # (B, M, D)
            attention_received if attention else None,
        )  # (B, N, D), (B, M)
        fused = self.norm(tokens + attended)  # (B, N, D)
        return fused + self.feed_forward(fused), scores
