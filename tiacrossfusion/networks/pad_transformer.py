"""The Pad-Transformer: self-attention, convolutions on the square map, self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.attention import FeedForward, MultiHeadAttention, Scorer
from tiacrossfusion.networks.layout import square_side


class TransformerLayer(nn.Module):
    """One self-attention layer whose residuals start from the NORMALISED tokens.

    `x = LN1(x); x = x + MHSA(x); x = LN2(x); x = x + FFN(x)`: neither pre-norm, which adds to the raw x,
    nor post-norm, but what the released checkpoints were trained with. Arguments as in `PadTransformer`.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float, attention_dropout: float
    ) -> None:
        """Create the layers."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention = MultiHeadAttention(embed_dim, num_heads, attention_dropout)
        self.feed_forward_norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, dropout)

    def forward(self, tokens: Tensor, score: Scorer | None = None) -> tuple[Tensor, Tensor | None]:
        """Map tokens (B, N, D) to (B, N, D), with scores (B, N) if requested."""
        tokens = self.attention_norm(tokens)  # (B, N, D)
        attended, scores = self.attention(tokens, tokens, score)  # (B, N, D), (B, N)
        tokens = self.feed_forward_norm(tokens + attended)  # (B, N, D)
        return tokens + self.feed_forward(tokens), scores


class PyramidPositionEncoding(nn.Module):
    """PPEG: encodes the tokens' positions by depthwise convolutions of three sizes on their map.

    `x + conv7(x) + conv5(x) + conv3(x)`, each with bias and padding `k // 2`; D is `embed_dim`.
    Source: Shao et al., "TransMIL", NeurIPS 2021.
    """

    def __init__(self, embed_dim: int) -> None:
        """Create the three convolutions."""
        super().__init__()
        self.conv7 = nn.Conv2d(embed_dim, embed_dim, 7, padding=3, groups=embed_dim)
        self.conv5 = nn.Conv2d(embed_dim, embed_dim, 5, padding=2, groups=embed_dim)
        self.conv3 = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, side * side, D) to (B, side * side, D)."""
        side = square_side(tokens.shape[1])
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))  # (B, D, side, side)
        grid = grid + self.conv7(grid) + self.conv5(grid) + self.conv3(grid)
        return grid.flatten(2).transpose(1, 2)  # (B, side * side, D)


class PadTransformer(nn.Module):
    """Block "pre" of L layers, PPEG, block "post" of L layers, LayerNorm.

    Source: Soraki et al., "CrossFusion", MIDL 2026 (PMLR 315:2906-2921), the Pad-Transformer.

    Args:
        embed_dim: D.
        num_heads: H, a divisor of D.
        depth: L, layers in each of the two blocks.
        class_token: whether token 0 is a class token, which is not on the map and skips PPEG.
        dropout: dropout of the feed-forward networks.
        attention_dropout: dropout of the attention weights.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        depth: int,
        *,
        class_token: bool,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        """Create the layers."""
        super().__init__()
        self.off_map = 1 if class_token else 0
        sizes = (embed_dim, num_heads, dropout, attention_dropout)
        self.pre = nn.ModuleList(TransformerLayer(*sizes) for _ in range(depth))
        self.position = PyramidPositionEncoding(embed_dim)
        self.post = nn.ModuleList(TransformerLayer(*sizes) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens: Tensor, score: Scorer | None = None) -> tuple[Tensor, Tensor | None]:
        """Let the tokens of a square map (see `layout.pad_to_square`) attend to each other.

        Args:
            tokens: (B, T, D), T = side * side, or 1 + side * side with the class token first.
            score: how to score the attention of the last post layer, or None for no scores.

        Returns:
            The tokens (B, T, D), and the scores (B, T) if requested.
        """
        for layer in self.pre:
            tokens, _ = layer(tokens)  # (B, T, D)
        off_map, on_map = tokens[:, : self.off_map], tokens[:, self.off_map :]
        tokens = torch.cat([off_map, self.position(on_map)], dim=1)  # (B, T, D)
        for layer in self.post[:-1]:
            tokens, _ = layer(tokens)  # (B, T, D)
        tokens, scores = self.post[-1](tokens, score)  # (B, T, D), (B, T)
        return self.norm(tokens), scores
