"""The conv processor: three maps, one a scale, become one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.layout import square_side


class ConvProcessor(nn.Module):
    """Fuses the maps of the three scales by convolutions of four sizes.

    A 3D convolution of kernel (1, 1, 1) mixes the three maps with one weight each and a bias. Then,
    from D to D/2 channels in D/2 groups, `conv7 + conv5 + conv3 + conv1`, ReLU, Dropout2d, and on
    each token `LN(Linear(D/2 -> D))`.
    Source: Soraki et al., "CrossFusion", MIDL 2026 (PMLR 315:2906-2921), the conv processor.

    Args:
        embed_dim (int):
            D, even.
        dropout (float):
            Share of whole channels dropped in training.
    """

    def __init__(self, embed_dim: int, dropout: float) -> None:
        """Create the layers."""
        super().__init__()
        half = embed_dim // 2
        self.mix = nn.Conv3d(3, 1, kernel_size=1)
        self.conv7 = nn.Conv2d(embed_dim, half, 7, padding=3, groups=half)
        self.conv5 = nn.Conv2d(embed_dim, half, 5, padding=2, groups=half)
        self.conv3 = nn.Conv2d(embed_dim, half, 3, padding=1, groups=half)
        self.conv1 = nn.Conv2d(embed_dim, half, 1, groups=half)
        self.dropout = nn.Dropout2d(dropout)
        self.linear = nn.Linear(half, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, source: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """Fuse three maps into one.

        Args:
            source (Tensor):
                (B, side * side, D), the map of the 10x tokens alone.
            fine (Tensor):
                (B, side * side, D), the map that saw 20x.
            coarse (Tensor):
                (B, side * side, D), the map that saw 5x.

        Returns:
            Tensor:
                (B, side * side, D).
        """
        side = square_side(source.shape[1])
        # The order is that of the released weights.
        stack = torch.stack([source, fine, coarse], dim=1)  # (B, 3, side * side, D)
        grids = stack.transpose(2, 3).unflatten(3, (side, side))  # (B, 3, D, side, side)
        grid = self.mix(grids).squeeze(1)  # (B, D, side, side)
        grid = self.conv7(grid) + self.conv5(grid) + self.conv3(grid) + self.conv1(grid)
        grid = self.dropout(torch.relu(grid))  # (B, D/2, side, side)
        return self.norm(self.linear(grid.flatten(2).transpose(1, 2)))  # (B, side * side, D)
