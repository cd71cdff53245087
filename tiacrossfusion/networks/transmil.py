"""TransMIL: self-attention among the tokens by Nystrom's method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.layout import fold_copies, pad_to_square
from tiacrossfusion.networks.nystrom_attention import NystromAttention
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.pad_transformer import PyramidPositionEncoding
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.token_embedding import BagNetwork, FineOnly


class TransMIL(BagNetwork):
    """Two layers of Nystrom attention with a class token, and PPEG between them.

    The embedded tokens of all scales (see `TokenEmbedding`) form one sequence, 5x first, padded to a square
    with copies of its first tokens. With z that sequence after a class token::

        z = z + Attention(LN(z));  z = PPEG(z);  z = z + Attention(LN(z));  logits = Linear(LN(z)_0)

    PPEG (see `PyramidPositionEncoding`) runs over the square map and skips the class token. The map holds
    one scale after the other and is not tissue geometry. Attention has D/2 landmarks. Scores are the class
    token's approximate row in the second layer, without its own column and with copies added to their
    originals; they may be negative.

    Source: Shao et al., "TransMIL: Transformer based Correlated Multiple Instance Learning for Whole Slide
    Image Classification", NeurIPS 2021, algorithms 1 and 2.

    Args:
        encoder_width: E, as in `BagNetwork`.
        embed_dim: D, a multiple of `num_heads`.
        num_heads: H, attention heads.
        num_bins: K, as in `BagNetwork`.
        dropout: dropout of the embedded tokens and of the attended ones.
    """

    def __init__(
        self,
        encoder_width: int = 1024,
        embed_dim: int = 512,
        num_heads: int = 8,
        num_bins: int = 4,
        *,
        dropout: float = 0.3,
    ) -> None:
        """Create the network with fresh weights."""
        self._create(encoder_width, embed_dim, num_bins, dropout, num_heads=num_heads)
        nn.init.normal_(self.class_token, std=0.02)

    recipe: ClassVar[Recipe] = SEARCHED
    reads_order = True

    def _add_layers(
        self, embed_dim: int, num_bins: int, dropout: float, num_heads: int = 8
    ) -> None:
        self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        landmarks = max(1, embed_dim // 2)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention1 = NystromAttention(embed_dim, num_heads, landmarks, dropout)
        self.position = PyramidPositionEncoding(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.attention2 = NystromAttention(embed_dim, num_heads, landmarks, dropout)
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_bins)

    def predict(self, scales: list[Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from embedded tokens (B, N, D) of each scale, from coarse to fine."""
        sequence = torch.cat(scales, dim=1)  # (B, N, D)
        square = pad_to_square(sequence)  # (B, T, D)
        class_token = self.class_token.expand(len(square), -1, -1).to(square.dtype)  # (B, 1, D)
        tokens = torch.cat([class_token, square], dim=1)  # (B, 1 + T, D)

        attended, _ = self.attention1(self.norm1(tokens))
        tokens = tokens + attended  # (B, 1 + T, D)
        on_map = self.position(tokens[:, 1:])  # (B, T, D)
        tokens = torch.cat([tokens[:, :1], on_map], dim=1)  # (B, 1 + T, D)
        attended, row = self.attention2(self.norm2(tokens), attention=attention)  # row: (B, 1 + T)
        tokens = tokens + attended  # (B, 1 + T, D)
        logits = self.head(self.norm(tokens[:, 0]))  # (B, K)

        scores = None
        if row is not None:
            scores = self.scores(fold_copies(row[:, 1:], sequence.shape[1]), scales)
        return SurvivalOutput.from_logits(logits, scores)


class TransMIL20x(FineOnly, TransMIL):
    """TransMIL on the 20x tokens alone."""
