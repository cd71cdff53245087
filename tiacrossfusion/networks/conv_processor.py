"""Fusion of the maps of the scales into one: the conv processor, and concatenation for its ablation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import UsageError
from tiacrossfusion.networks.layout import square_side


class ConvProcessor(nn.Module):
    """Fuses the maps of the scales by convolutions of four sizes.

    A 3D convolution with kernel (1, 1, 1) mixes the maps with one weight each and a bias. Then follow, from
    D to D/2 channels in D/2 groups, `conv7 + conv5 + conv3 + conv1`, ReLU, Dropout2d, and on each token
    `LN(Linear(D/2 -> D))`.
    Source: Soraki et al., "CrossFusion", MIDL 2026 (PMLR 315:2906-2921), the conv processor.

    Args:
        embed_dim: D, even.
        dropout: share of channels dropped in training.
        maps: number of maps to fuse.

    Raises:
        UsageError: `embed_dim` is odd.
    """

    def __init__(self, embed_dim: int, dropout: float, maps: int = 3) -> None:
        """Create the layers."""
        super().__init__()
        if embed_dim % 2:
            raise UsageError(f"embed_dim {embed_dim} is odd: the conv processor halves it")
        half = embed_dim // 2
        self.mix = nn.Conv3d(maps, 1, kernel_size=1)
        self.conv7 = nn.Conv2d(embed_dim, half, 7, padding=3, groups=half)
        self.conv5 = nn.Conv2d(embed_dim, half, 5, padding=2, groups=half)
        self.conv3 = nn.Conv2d(embed_dim, half, 3, padding=1, groups=half)
        self.conv1 = nn.Conv2d(embed_dim, half, 1, groups=half)
        self.dropout = nn.Dropout2d(dropout)
        self.linear = nn.Linear(half, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, *maps: Tensor) -> Tensor:
        """Fuse maps (B, side * side, D) into one of that shape.

        CrossFusion's maps are, in the order of the released weights, that of the 10x tokens alone, that of
        the cross-attention to 20x and that of the cross-attention to 5x.
        """
        side = square_side(maps[0].shape[1])
        stack = torch.stack(maps, dim=1)  # (B, maps, side * side, D)
        grids = stack.transpose(2, 3).unflatten(3, (side, side))  # (B, maps, D, side, side)
        grid = self.mix(grids).squeeze(1)  # (B, D, side, side)
        grid = self.conv7(grid) + self.conv5(grid) + self.conv3(grid) + self.conv1(grid)
        grid = self.dropout(torch.relu(grid))  # (B, D/2, side, side)
        return self.norm(self.linear(grid.flatten(2).transpose(1, 2)))  # (B, side * side, D)

    def shares(self, *maps: Tensor) -> Tensor:
        """Return the share of each map, as in `forward`, in each fused token: (B, maps, side * side).

        See `shares_of_norms`; the terms are those that the 3D convolution adds up.
        """
        weights = self.mix.weight.flatten()  # (maps,)
        return shares_of_norms(w * x for w, x in zip(weights, maps, strict=True))


class ConcatProcessor(nn.Module):
    """Fuses the maps of the three scales token by token: `LN(Linear(3D -> D))`.

    Source: the ablation "w/o CP" of the same paper. Channels are dropped in training as in the conv
    processor, so that the two differ by the convolutions alone. Arguments as in `ConvProcessor`.
    """

    def __init__(self, embed_dim: int, dropout: float) -> None:
        """Create the layers."""
        super().__init__()
        self.dropout = nn.Dropout1d(dropout)
        self.linear = nn.Linear(3 * embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, *maps: Tensor) -> Tensor:
        """Fuse three maps (B, T, D) into one of that shape."""
        stack = torch.cat(maps, dim=2)  # (B, T, 3D)
        stack = self.dropout(stack.transpose(1, 2)).transpose(1, 2)  # (B, T, 3D)
        return self.norm(self.linear(stack))  # (B, T, D)

    def shares(self, *maps: Tensor) -> Tensor:
        """Return the share of each map (B, T, D) in each fused token: (B, 3, T).

        See `shares_of_norms`; the linear layer is a sum of three terms, one for each map.
        """
        blocks = self.linear.weight.chunk(3, dim=1)  # (D, D) each
        return shares_of_norms(x @ block.T for block, x in zip(blocks, maps, strict=True))


def shares_of_norms(terms: Iterable[Tensor]) -> Tensor:
    """Return the share of each term (B, T, D) in a sum of vectors: its norm over the sum of the norms.

    A weight alone does not say how much a term adds, since the vectors that it multiplies differ in length.
    Source: Kobayashi et al., "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms",
    EMNLP 2020.

    Returns:
        (B, terms, T) in float32 or wider, summing to 1 over the terms; equal where all are 0.
    """
    wide = (term.to(torch.promote_types(term.dtype, torch.float32)) for term in terms)
    norms = torch.stack([torch.linalg.vector_norm(term, dim=2) for term in wide], dim=1)
    total = norms.sum(dim=1, keepdim=True)  # (B, 1, T)
    return torch.where(total > 0, norms / total, 1 / norms.shape[1])
