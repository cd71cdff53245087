"""The patches that carry most of what a sparse adversary does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tiacrossfusion.audit.adversaries import sparse
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.networks.perturbed import Audited
from tiacrossfusion.networks.tokens import SlideTokens

#: Patches of a slide that are looked at one by one.
MOST = 5


@dataclass(frozen=True)
class Carrier:
    """A patch of a slide that was perturbed alone.

    Attributes:
        slide: name.
        scale: of the patch.
        bounds: level-0 pixels (x0, y0, x1, y1).
        attribution: of the patch, in risk.
        change: of the slide's risk, in SDs of the risks.
    """

    slide: str
    scale: str
    bounds: tuple[int, int, int, int]
    attribution: float
    change: float


@torch.no_grad()
def carriers(
    audited: Audited,
    slides: Mapping[str, SlideTokens],
    bags: Mapping[str, Path],
    before: Sequence[float],
    sd: float,
    strength: float,
    share: float,
) -> list[Carrier]:
    """Perturb single patches of those that the sparse adversary chose, the largest attribution first.

    Args:
        audited: the network.
        slides: by name, each a part of its bag.
        bags: by name.
        before: (N,) their risks.
        sd: of the risks.
        strength: of the adversary, in SDs of the training features.
        share: of the tokens that it perturbs.

    Returns:
        Up to five patches of each slide whose places are known, those that move its risk most first.
    """
    found = []
    for (name, slide), risk in zip(slides.items(), before, strict=True):
        places = _places(bags[name])
        delta = sparse(audited, slide, strength, share)
        attribution = audited.attribution(slide)
        chosen = [
            (float(attribution[scale][row]), scale, row)
            for scale, each in delta.items()
            if scale in slide.grid and scale in places
            for row in each[0].abs().amax(dim=1).nonzero()[:, 0].tolist()
        ]
        of_slide = []
        for value, scale, row in sorted(chosen, key=lambda one: -abs(one[0]))[:MOST]:
            alone = torch.zeros_like(delta[scale])
            alone[0, row] = delta[scale][0, row]
            change = (float(audited.risk(slide, {scale: alone})) - risk) / sd
            cell = tuple(slide.grid[scale].reshape(-1, 2)[row].tolist())
            of_slide.append(Carrier(name, scale, places[scale][cell], value, change))
        found += sorted(of_slide, key=lambda one: -abs(one.change))
    return found


def _places(bag: Path) -> dict[str, dict[tuple[int, ...], tuple[int, int, int, int]]]:
    """Return the bounds of the patches of a bag by scale and by column and row."""
    return {
        scale: {
            tuple(cell): (bounds[0], bounds[1], bounds[2], bounds[3])
            for cell, bounds in zip(tokens.grid.tolist(), tokens.bounds.tolist(), strict=True)
        }
        for scale, tokens in FeatureBag.load(bag).scales.items()
        if tokens.grid is not None and tokens.bounds is not None
    }
