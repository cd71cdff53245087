"""A teacher's head on means that coarser scales tell: a student in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.families import neighbours, parents
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.pooling import phi_of, pools_of, telling

#: Tokens of each scale inside a 5x token where all of it is tissue.
_INSIDE = {"5x": 1.0, "10x": 4.0, "20x": 16.0}


class ClosedStudent(SurvivalNetwork):
    """A network that predicts from means over the slide, with the means that need 20x told by 5x and 10x.

    For each 5x cell, with phi of what is known there (see `pooling.telling` and `pooling.phi_of`), a linear
    regression gives the mean of what the teacher pools of the patches inside. The slide's means are
    weighted by the number of patches, 4 at 20x for each at 10x, and go into the teacher's own head.

    Args:
        teacher: predicts from means over families.
        told: U, what is known of each cell.
        directions: q, principal components of it.
        sums: C, means of the teacher that need 20x.

    Raises:
        TiacfError: the teacher does not predict from means.
    """

    read: tuple[str, ...] = ("5x", "10x")
    centre: Tensor
    directions: Tensor
    coefficients: Tensor

    def __init__(self, teacher: SurvivalNetwork, *, told: int, directions: int, sums: int) -> None:
        """Create buffers that tell nothing yet."""
        super().__init__(teacher.encoder_width, teacher.num_bins)
        if not pools_of(teacher):
            raise TiacfError(
                f"{type(teacher).__name__} does not predict from means over the slide, so that no regression "
                "can take the place of 20x"
            )
        self.teacher = teacher
        self.register_buffer("centre", torch.zeros(told))
        self.register_buffer("directions", torch.zeros(told, directions))
        self.register_buffer("coefficients", torch.zeros(1 + 2 * directions, sums))

    def forward(self, x5: Tensor, x10: Tensor, *, grid5: Tensor, grid10: Tensor) -> SurvivalOutput:
        """Predict survival from tokens (B, N, E) and their places (B, N, 2)."""
        self.check_features(x5=x5, x10=x10)
        return self._each({"x5": x5, "x10": x10, "grid5": grid5, "grid10": grid10})

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return those of the teacher."""
        return self.teacher.moments()

    def _each(self, inputs: Mapping[str, Tensor]) -> SurvivalOutput:
        """Predict slide by slide."""
        logits = [
            self._one({name: x[i : i + 1] for name, x in inputs.items()})
            for i in range(len(inputs["x5"]))
        ]
        return SurvivalOutput.from_logits(torch.cat(logits))

    def _one(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the logits (1, K) of one slide."""
        like, cells = self.centre.dtype, given["grid5"]
        # No token was read at the scales that are missing.
        inputs = {
            f"x{scale}": given.get(f"x{scale}", given["x5"][:, :0]).to(like)
            for scale in (5, 10, 20)
        } | {f"grid{scale}": given.get(f"grid{scale}", cells[:, :0]) for scale in (5, 10, 20)}
        pools = self.teacher.family_sums(inputs)
        known = telling(inputs, pools, self.read)
        phi = phi_of(known, neighbours(cells), self.centre, self.directions)
        told = phi @ self.coefficients  # (F, C)
        number = torch.ones_like(phi[:, 0])
        if "10x" in self.read:
            rows = parents(inputs["grid10"], cells)
            number = torch.bincount(rows[rows >= 0], minlength=len(phi)).to(like)
            numbers = {"5x": torch.ones_like(number), "10x": number, "20x": 4 * number}
        else:
            numbers = {scale: inside * number for scale, inside in _INSIDE.items()}

        def means() -> Iterator[Tensor]:
            at = 0
            for pool in pools:
                weight = numbers[pool.scale]
                if pool.reads in self.read:
                    yield (pool.sums.sum(dim=0) / weight.sum().clamp(min=1))[None]
                else:
                    part = told[:, at : at + pool.sums.shape[1]]
                    at += pool.sums.shape[1]
                    mean = (weight @ part / weight.sum().clamp(min=1))[None]
                    yield mean.clamp(min=0) if pool.positive else mean

        counts = {scale: int(each.sum()) for scale, each in numbers.items()}
        return self.teacher.from_means(means(), counts).logits


class ClosedStudent5x(ClosedStudent):
    """The same from 5x alone."""

    read = ("5x",)

    def forward(self, x5: Tensor, *, grid5: Tensor) -> SurvivalOutput:  # type: ignore[override]
        """Predict survival from tokens (B, N, E) and their places (B, N, 2)."""
        self.check_features(x5=x5)
        return self._each({"x5": x5, "grid5": grid5})
