"""The families of one slide: what a network pools of each, and what 5x alone tells of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from tiacrossfusion.inference.sampling import curve_order
from tiacrossfusion.networks.families import neighbours
from tiacrossfusion.networks.pooling import Pool, family_rows, phi_of, telling
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from torch import Tensor

    from tiacrossfusion.models.from_coarse import FromCoarse
    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.tokens import SlideTokens


@dataclass(frozen=True, eq=False)
class FamilyTable:
    """What a network pools of the F families of a slide.

    Attributes:
        network: pools families, in eval mode.
        pools: as the network returns them; those that 5x does not tell are 0 for families not read.
        tokens: (F, 3) number of tokens of each family at 5x, 10x and 20x, read or not.
        features: (F, U) of the regression from 5x, before its projection.
        around: (F, 8) rows of the eight neighbours of each family; -1 for one without tissue.
        curve: (F,) the families along a curve through the slide, see `sampling.curve_order`.
        covariates: (1, C) of the patient, if any.
        read: the scales at which all tokens were read, "5x", or "5x" and "10x".
    """

    network: SurvivalNetwork
    pools: Sequence[Pool]
    tokens: Tensor
    features: Tensor
    around: Tensor
    curve: Tensor
    covariates: Tensor | None = None
    read: Sequence[str] = ("5x",)

    @classmethod
    def of(
        cls,
        network: SurvivalNetwork,
        tokens: SlideTokens,
        counts: Mapping[str, Tensor] | None = None,
        read: Sequence[str] = ("5x",),
    ) -> FamilyTable:
        """Make the table of one slide.

        Args:
            network: pools families.
            tokens: all 5x tokens, and the 10x and 20x tokens of the families that were read.
            counts: (F,) number of tokens of each family at 10x and 20x; None if all were read.
            read: the scales at which all tokens were read, from which the others are told.
        """
        inputs = tokens.inputs()
        with torch.no_grad():
            pools = network.family_sums(inputs)
        if counts is None:
            rows = family_rows(inputs)
            found = {s: torch.bincount(rows[s], minlength=len(rows["5x"])) for s in ("10x", "20x")}
        else:
            found = dict(counts)
        number = torch.stack([torch.ones_like(found["10x"]), found["10x"], found["20x"]], dim=1)
        return cls(
            network,
            pools,
            number.to(inputs["x5"].dtype),
            telling(inputs, pools, read),
            neighbours(inputs["grid5"]),
            torch.from_numpy(curve_order(inputs["grid5"][0].cpu().numpy())),
            tokens.covariates,
            tuple(read),
        )

    def __len__(self) -> int:
        """Return the number of families, F."""
        return len(self.tokens)

    @property
    def sampled(self) -> list[Pool]:
        """Return the pools that the scales that were read do not tell."""
        return [pool for pool in self.pools if pool.reads not in self.read]

    @cached_property
    def sums(self) -> Tensor:
        """Sums (F, C) of the pools that 5x does not tell."""
        return torch.cat([pool.sums for pool in self.sampled], dim=1)

    @cached_property
    def column(self) -> Tensor:
        """Column (C,) of `tokens` whose tokens each sum is over."""
        return torch.cat(
            [torch.full((pool.sums.shape[1],), SCALES.index(pool.scale)) for pool in self.sampled]
        )

    @cached_property
    def positive(self) -> Tensor:
        """Which sums (C,) are 0 or more."""
        return torch.cat([torch.full((p.sums.shape[1],), p.positive) for p in self.sampled])

    @cached_property
    def totals(self) -> Tensor:
        """Number (C,) of the slide's tokens that each sum is divided by."""
        return self.tokens.sum(dim=0)[self.column]

    @cached_property
    def means(self) -> Tensor:
        """Means (1, C) of the pools that 5x does not tell, of a slide that was read whole."""
        return (self.sums.sum(dim=0) / self.totals)[None]

    def phi(self, fitted: FromCoarse) -> Tensor:
        """Return the features (F, 1 + 2 q) of the regression."""
        return phi_of(self.features, self.around, fitted.centre, fitted.directions)

    def expected(self, fitted: FromCoarse | None) -> Tensor:
        """Return the sums (F, C) that 5x tells to expect; 0 without a regression."""
        if fitted is None:
            return torch.zeros_like(self.sums)
        return (self.phi(fitted) @ fitted.coefficients) * self.tokens[:, self.column]

    def by_focus(self, fitted: FromCoarse) -> Tensor:
        """Return the families (F,) from the highest to the lowest attribution that 5x tells to expect."""
        score = with_squares(self.phi(fitted)) @ fitted.focus
        return torch.argsort(score, descending=True, stable=True)

    def risk(self, means: Tensor) -> Tensor:
        """Return the risks (R,) of means (R, C) of the pools that 5x does not tell."""
        output = self.network.from_means(self._all(means), self._counts(), self.covariates)
        return output.risk.reshape(-1)

    def hazards(self, means: Tensor) -> Tensor:
        """Return the hazards (R, K) of means (R, C)."""
        return self.network.from_means(self._all(means), self._counts(), self.covariates).hazards

    def _all(self, means: Tensor) -> Iterator[Tensor]:
        """Yield the means (R, .) of all pools, in order."""
        parts = iter(means.split([pool.sums.shape[1] for pool in self.sampled], dim=1))
        for pool in self.pools:
            if pool.reads in self.read:
                total = self.tokens[:, SCALES.index(pool.scale)].sum()
                yield (pool.sums.sum(dim=0) / total).expand(len(means), -1)
            else:
                yield next(parts)

    def _counts(self) -> dict[str, int]:
        return dict(zip(SCALES, (int(n) for n in self.tokens.sum(dim=0)), strict=True))


def with_squares(phi: Tensor) -> Tensor:
    """Return `[phi; phi^2]` (F, 1 + 4 q) of phi (F, 1 + 2 q), without the constant's square."""
    return torch.cat([phi, phi[:, 1:] ** 2], dim=1)
