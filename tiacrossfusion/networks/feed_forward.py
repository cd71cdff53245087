"""The two-layer network that follows every attention."""

from __future__ import annotations

from torch import Tensor, nn


class FeedForward(nn.Module):
    """`Linear(D -> 2D), GELU, Dropout, Linear(2D -> D), Dropout`, on each token alone.

    Args:
        embed_dim: D.
        dropout: rate of both dropouts.
    """

    def __init__(self, embed_dim: int, dropout: float) -> None:
        """Create the two layers."""
        super().__init__()
        self.expand = nn.Linear(embed_dim, 2 * embed_dim)
        self.activation = nn.GELU()
        self.contract = nn.Linear(2 * embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        hidden = self.dropout(self.activation(self.expand(tokens)))  # (B, N, 2D)
        return self.dropout(self.contract(hidden))  # (B, N, D)
