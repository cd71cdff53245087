"""Tokens of slides for tests of networks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES


def tokens_of(*features: Tensor) -> SlideTokens:
    """Tokens with features (B, N, E) at 5x, 10x and 20x, and with nested grids.

    Tokens fill the cells of the coarser tokens in turn; those beyond four children a cell have no parent.
    """
    grid = {}
    cells = torch.stack([torch.arange(features[0].shape[1])] * 2, dim=1)  # a diagonal of 5x cells
    for scale, x in zip(SCALES, features, strict=True):
        if scale != "5x":
            number = torch.arange(x.shape[1])
            quarter = number // max(len(cells), 1)
            corner = torch.stack([quarter % 2, quarter // 2], dim=1)
            outside = torch.stack([1000 + number, number], dim=1)
            inside = 2 * cells[number % max(len(cells), 1)] + corner if len(cells) else outside
            cells = torch.where(quarter[:, None] < 4, inside, outside)
        grid[scale] = cells.expand(x.shape[0], -1, -1).to(x.device)
    return SlideTokens(dict(zip(SCALES, features, strict=True)), grid)


def run(
    network: nn.Module, features: Iterable[Tensor], *, attention: bool = False
) -> SurvivalOutput:
    """Predict with any network; it takes what it reads of the features at 5x, 10x and 20x."""
    return call_network(network, tokens_of(*features), attention=attention)
