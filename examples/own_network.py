"""Your own network in one file: it reads 20x tokens, their positions and clinical covariates.

To train it::

    tiacf train ... --plugin own_network.py --model placed-pool

It can be any `nn.Module` whose `forward` names its inputs; `tiacrossfusion.SurvivalNetwork` lists their names
and shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tiacrossfusion import NETWORKS


@NETWORKS.register("placed-pool")
class PlacedPool(nn.Module):
    """Attention pooling of tokens with their positions; covariates are appended to the pooled token.

    Args:
        encoder_width: E, width of the features.
        num_bins: K, time bins.
        embed_dim: D, width inside the network.
        num_covariates: C; 0 for none.
    """

    def __init__(
        self, encoder_width: int, num_bins: int, embed_dim: int = 64, num_covariates: int = 0
    ) -> None:
        """Create the layers."""
        super().__init__()
        self.project = nn.Linear(encoder_width, embed_dim)
        self.place = nn.Linear(2, embed_dim)
        self.score = nn.Linear(embed_dim, 1)
        self.head = nn.Linear(embed_dim + num_covariates, num_bins)

    def forward(self, x20: Tensor, grid20: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Return the logits (B, K) of x20 (B, N, E), grid20 (B, N, 2) and covariates (B, C)."""
        place = grid20.to(self.place.weight.dtype)  # column and row
        place = place - place.mean(dim=1, keepdim=True)
        place = place / place.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1)  # -1 to 1
        tokens = torch.tanh(self.project(x20.to(place.dtype)) + self.place(place))  # (B, N, D)
        weights = torch.softmax(self.score(tokens), dim=1)  # (B, N, 1)
        pooled = (weights * tokens).sum(dim=1)  # (B, D)
        if covariates is not None:
            pooled = torch.cat([pooled, covariates.to(pooled.dtype)], dim=1)  # (B, D + C)
        return self.head(pooled)
