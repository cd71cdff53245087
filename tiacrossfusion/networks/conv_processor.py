"""What fuses the maps of the scales into one: the conv processor, and what its ablation has."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import UsageError
from tiacrossfusion.networks.layout import square_side


class ConvProcessor(nn.Module):
    """Fuses the maps of the scales by convolutions of four sizes.

    A 3D convolution of kernel (1, 1, 1) mixes the maps with one weight each and a bias. Then, from D to D/2
    channels in D/2 groups, `conv7 + conv5 + conv3 + conv1`, ReLU, Dropout2d, and on each token
    `LN(Linear(D/2 -> D))`. Source: Soraki et al., "CrossFusion", MIDL 2026 (PMLR 315:2906-2921), the conv
    processor.

    Args:
        embed_dim: D, even.
        dropout: share of whole channels dropped in training.
        maps: how many maps there are to fuse.

    Raises:
        TiacfError: `embed_dim` is odd.
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
        """Fuse the maps into one.

        Args:
            maps: (B, side * side, D) each. CrossFusion gives those of the 10x tokens alone, of what saw 20x
                and of what saw 5x: the order is that of the released weights.

        Returns:
            (B, side * side, D).
        """
        side = square_side(maps[0].shape[1])
        stack = torch.stack(maps, dim=1)  # (B, maps, side * side, D)
        grids = stack.transpose(2, 3).unflatten(3, (side, side))  # (B, maps, D, side, side)
        grid = self.mix(grids).squeeze(1)  # (B, D, side, side)
        grid = self.conv7(grid) + self.conv5(grid) + self.conv3(grid) + self.conv1(grid)
        grid = self.dropout(torch.relu(grid))  # (B, D/2, side, side)
        return self.norm(self.linear(grid.flatten(2).transpose(1, 2)))  # (B, side * side, D)

    def shares(self, *maps: Tensor) -> Tensor:
        """Share of each map in each fused token, by the norms of what the 3D convolution adds up.

        Args:
            maps: (B, T, D) each, as in `forward`.

        Returns:
            (B, maps, T), summing to 1 over the maps, see `shares_of_norms`.
        """
        weights = self.mix.weight.flatten()  # (maps,)
        return shares_of_norms(w * x for w, x in zip(weights, maps, strict=True))


class ConcatProcessor(nn.Module):
    """Fuses the maps of the three scales token by token: `LN(Linear(3D -> D))`.

    Source: the ablation "w/o CP" of the same paper. Whole channels are dropped in training as in the conv
    processor, so that the two differ by the convolutions alone.

    Args:
        embed_dim: D.
        dropout: share of whole channels dropped in training.
    """

    def __init__(self, embed_dim: int, dropout: float) -> None:
        """Create the layers."""
        super().__init__()
        self.dropout = nn.Dropout1d(dropout)
        self.linear = nn.Linear(3 * embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, source: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """Fuse three maps, (B, T, D) each, into one of that shape."""
        stack = torch.cat([source, fine, coarse], dim=2)  # (B, T, 3D)
        stack = self.dropout(stack.transpose(1, 2)).transpose(1, 2)  # (B, T, 3D)
        return self.norm(self.linear(stack))  # (B, T, D)

    def shares(self, source: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """Share of each map, (B, T, D), in each fused token: (B, 3, T), see `shares_of_norms`.

        The linear layer is a sum of one linear map a scale; the norms are those of its terms.
        """
        blocks = self.linear.weight.chunk(3, dim=1)  # (D, D) each
        return shares_of_norms(
            x @ block.T for block, x in zip(blocks, (source, fine, coarse), strict=True)
        )


def shares_of_norms(terms: Iterable[Tensor]) -> Tensor:
    """Share of each term in a sum of vectors: its norm over the sum of the norms.

    A weight alone does not say how much a term adds, since the vectors that it multiplies differ in length.
    Source: Kobayashi et al., "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms",
    EMNLP 2020.

    Args:
        terms: (B, T, D) each.

    Returns:
        (B, terms, T) in float32 or wider, summing to 1 over the terms; equal where all are 0.
    """
    norms = torch.stack(
        [
            torch.linalg.vector_norm(
                term, dim=2, dtype=torch.promote_types(term.dtype, torch.float32)
            )
            for term in terms
        ],
        dim=1,
    )  # (B, terms, T)
    total = norms.sum(dim=1, keepdim=True)  # (B, 1, T)
    return torch.where(total > 0, norms / total, 1 / norms.shape[1])
