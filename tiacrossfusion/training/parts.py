"""Random parts of slides, for training whose maps show where the risk comes from.

A slide has one outcome, and whatever its patches have in common explains it as well as what decides. A
network that sees only some cells of a slide at a time, and not always all scales, has to find it in each.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.families import parents
from tiacrossfusion.networks.recipe import Recipe
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES


def random_part(tokens: SlideTokens, network: SurvivalNetwork, recipe: Recipe) -> SlideTokens:
    """Return a random part of a slide, by `cell_share` and `scale_dropout` of the recipe.

    Kept are that share of the 5x tokens with all tokens inside them, or, without grids, of the tokens of each
    scale. Each scale is then replaced by its average token with the probability `scale_dropout`, but never
    all of them.
    """
    if recipe.cell_share < 1:
        tokens = some_cells(tokens, recipe.cell_share)
    if recipe.scale_dropout > 0:
        tokens = _some_scales(tokens, network, recipe.scale_dropout)
    return tokens


def some_cells(tokens: SlideTokens, share: float) -> SlideTokens:
    """Return a random share of the 5x tokens with all inside, or of the tokens without grids."""
    chosen: dict[str, torch.Tensor] = {}
    if all(scale in tokens.grid for scale in SCALES):
        kept = _drawn(tokens.features["5x"].shape[1], share)
        chosen["5x"] = kept
        for coarse, fine in pairwise(SCALES):
            parent = parents(tokens.grid[fine], tokens.grid[coarse])
            kept = kept[parent.clamp(min=0)] & (parent >= 0)
            chosen[fine] = kept
    else:
        chosen = {scale: _drawn(x.shape[1], share) for scale, x in tokens.features.items()}
    for scale, kept in chosen.items():
        tokens = tokens.keep(scale, kept.nonzero()[:, 0])
    return tokens


def _drawn(count: int, share: float) -> torch.Tensor:
    kept = torch.zeros(count, dtype=torch.bool)
    kept[torch.randperm(count)[: max(1, round(share * count))]] = True
    return kept


def _some_scales(tokens: SlideTokens, network: SurvivalNetwork, rate: float) -> SlideTokens:
    scales = list(tokens.features)
    left_out = [scale for scale in scales if torch.rand(()) < rate]
    if len(left_out) == len(scales):
        left_out.pop(int(torch.randint(len(scales), ())))
    moments = network.moments()
    average = {
        scale: x.float().mean(dim=1, keepdim=True)
        if moments is None
        else moments[0][SCALES.index(scale)].cpu()[None, None]
        for scale, x in tokens.features.items()
    }
    return tokens.with_features(
        {scale: average[scale].expand(1, tokens.features[scale].shape[1], -1) for scale in left_out}
    )
