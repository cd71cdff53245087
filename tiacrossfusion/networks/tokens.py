"""The tokens of slides as networks take them: features, grid positions and covariates by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag

#: The inputs that `forward` of a network may name, besides `attention`.
INPUT_NAMES = ("x5", "x10", "x20", "grid5", "grid10", "grid20", "covariates")


@dataclass(frozen=True, eq=False)
class SlideTokens:
    """Tokens of B slides with equal token counts, without padding.

    Attributes:
        features: (B, N, E) of the N tokens, by scale: "5x", "10x" and "20x".
        grid: (B, N, 2) int64 by scale, column and row of each token on the grid of its scale. The parent of
            a token lies at (column // 2, row // 2) of the next coarser grid. Empty if the grids do not nest
            or the positions are unknown.
        covariates: (B, C) clinical covariates, if any.
    """

    features: Mapping[str, Tensor]
    grid: Mapping[str, Tensor] = field(default_factory=dict)
    covariates: Tensor | None = None

    @classmethod
    def from_bag(cls, bag: FeatureBag) -> SlideTokens:
        """Return the tokens of one slide, B = 1, on the CPU, with features as the bag stores them.

        A scale without patches is left out, and so is a grid that the bag does not have.
        """
        scales = {scale: found for scale, found in bag.scales.items() if len(found)}
        return cls(
            {scale: torch.from_numpy(found.features)[None] for scale, found in scales.items()},
            {
                scale: torch.from_numpy(found.grid).long()[None]
                for scale, found in scales.items()
                if found.grid is not None
            },
        )

    def __len__(self) -> int:
        """Return the number of slides, B."""
        return len(next(iter(self.features.values())))

    def counts(self) -> tuple[int, ...]:
        """Return the number of tokens of each scale, from coarse to fine."""
        return tuple(
            self.features[scale].shape[1] if scale in self.features else 0 for scale in SCALES
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> SlideTokens:
        """Return the tokens on a device; a dtype applies to features and covariates."""
        return SlideTokens(
            {scale: x.to(device, dtype) for scale, x in self.features.items()},
            {scale: grid.to(device) for scale, grid in self.grid.items()},
            None if self.covariates is None else self.covariates.to(device, dtype),
        )

    def with_features(self, features: Mapping[str, Tensor]) -> SlideTokens:
        """Return the same tokens with other features at some scales."""
        return SlideTokens({**self.features, **features}, self.grid, self.covariates)

    def keep(self, scale: str, chosen: Tensor) -> SlideTokens:
        """Return the tokens with, at one scale, only those at the indices `chosen` (n,)."""

        def of(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {s: x[:, chosen.to(x.device)] if s == scale else x for s, x in parts.items()}

        return SlideTokens(of(self.features), of(self.grid), self.covariates)

    def inputs(self) -> dict[str, Tensor]:
        """Return all inputs under their names in `forward`."""
        named = {f"x{scale[:-1]}": x for scale, x in self.features.items()}
        named |= {f"grid{scale[:-1]}": grid for scale, grid in self.grid.items()}
        return named if self.covariates is None else named | {"covariates": self.covariates}

    @classmethod
    def stack(cls, slides: Sequence[SlideTokens]) -> SlideTokens:
        """Stack slides of equal token counts along the batch; one slide is returned as it is."""
        first = slides[0]
        if len(slides) == 1:
            return first
        return cls(
            {s: torch.cat([slide.features[s] for slide in slides]) for s in first.features},
            {s: torch.cat([slide.grid[s] for slide in slides]) for s in first.grid},
            None
            if first.covariates is None
            else torch.cat([slide.covariates for slide in slides if slide.covariates is not None]),
        )
