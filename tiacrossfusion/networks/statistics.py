"""Statistics of a slide along directions that were found in closed form, beside any network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.base import Term
from tiacrossfusion.networks.families import Families, neighbours
from tiacrossfusion.networks.pooling import Pool, family_rows, sum_by

#: Pairs of tokens whose covariance within the slide is looked at, by name, and the scale of their cells.
PAIRS = {
    "20x inside 5x": "5x",
    "20x beside 5x": "5x",
    "10x inside 5x": "5x",
    "20x inside 10x": "10x",
}
RARE = "rare 20x patches"

#: Most directions of each pair.
DIRECTIONS = 2

#: Share of the 20x tokens whose mean the rare pattern is read from.
TOP_SHARE = 0.02


class SlideStatistics(nn.Module):
    """Standardised statistics z (B, K) of slides along K directions; 0 for a direction that was not kept.

    For a pair (a, b) of `PAIRS`, over the cells i of its scale, with directions u and v::

        z = mean_i ((a_i - mean a) . u) ((b_i - mean b) . v)

    where a is the mean of the finer tokens inside a cell, and b the cell's own token or, for "beside", the
    mean of the tokens of the up to eight cells around it. For the rare pattern, z is the mean of w . x over
    the 2 % of the 20x tokens x in which it is largest.

    Args:
        encoder_width: E, width of the features, which come standardised.
    """

    left: Tensor
    right: Tensor
    rare: Tensor
    mean: Tensor
    sd: Tensor

    def __init__(self, encoder_width: int) -> None:
        """Create buffers without directions."""
        super().__init__()
        shape = (len(PAIRS), DIRECTIONS, encoder_width)
        self.register_buffer("left", torch.zeros(shape))
        self.register_buffer("right", torch.zeros(shape))
        self.register_buffer("rare", torch.zeros(encoder_width))
        count = len(PAIRS) * DIRECTIONS + 1
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("sd", torch.ones(count))
        self.products = nn.ModuleList(Multiply() for _ in PAIRS)
        self.projected = nn.Identity()

    @property
    def count(self) -> int:
        """Return K, the number of statistics, kept or not."""
        return len(self.mean)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return z (B, K) of standardised features and grids, under their names in `forward` of networks."""
        slides = len(inputs["x20"])
        z = [self._pairs(inputs, slides)] if self.left.any() else []
        if not z:
            z = [inputs["x20"].new_zeros(slides, self.count - 1)]
        projected = self.projected((inputs["x20"] @ self.rare).flatten(0, 1)[:, None])
        tokens = projected.view(slides, -1)  # (B, N20)
        top = tokens.topk(top_count(tokens.shape[1]), dim=1).values.mean(dim=1, keepdim=True)
        return (torch.cat([*z, top], dim=1) - self.mean) / self.sd

    def family_sums(self, inputs: Mapping[str, Tensor]) -> list[Pool]:
        """Return the sums of both sides and their products over the cells of each pair, and of the tails.

        The mean over the 2 % largest y is the least value over c of `c + mean max(y - c, 0) / 0.02`
        (Rockafellar and Uryasev, J. Risk 2000, theorem 1), taken over the levels c of `_levels`.
        """
        rows, count = family_rows(inputs), inputs["grid5"].shape[1]
        pools = []
        if self.left.any():
            for index, (name, scale) in enumerate(PAIRS.items()):
                a, b, there = self._sides(index, name, inputs)
                weights = there.to(a.dtype)[:, None]
                both = torch.cat([a, b, a * b], dim=1) * weights
                reads = name.split()[0]  # the finer of the two
                pools += [
                    Pool(scale, sum_by(weights, rows[scale], count), reads, positive=True),
                    Pool(scale, sum_by(both, rows[scale], count), reads),
                ]
        if self.rare.any():
            projected = (inputs["x20"] @ self.rare)[0]
            over = (projected[:, None] - self._levels()).clamp(min=0)
            pools.append(Pool("20x", sum_by(over, rows["20x"], count), positive=True))
        return pools

    def from_means(self, means: Iterator[Tensor], counts: Mapping[str, int]) -> Tensor:
        """Return z (R, K) from the means of `family_sums` (R, C)."""
        z = []
        if self.left.any():
            for _ in PAIRS:
                share, sides = next(means), next(means)
                a, b, both = (sides / share.clamp(min=1e-12)).chunk(3, dim=1)
                z.append(both - a * b)
        if self.rare.any():
            tail = top_count(counts["20x"]) / counts["20x"]
            top = (self._levels() + next(means) / tail).amin(dim=1, keepdim=True)
            z += [top] if z else [top.new_zeros(len(top), self.count - 1), top]
        elif z:
            z.append(z[0].new_zeros(len(z[0]), 1))
        found = torch.cat(z, dim=1) if z else torch.zeros_like(self.mean)[None]
        return (found - self.mean) / self.sd

    def _levels(self) -> Tensor:
        """Return levels (L,) around the training slides' means of the largest values."""
        steps = torch.linspace(-4, 3, 29, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean[-1] + self.sd[-1] * steps

    def kept(self) -> list[str]:
        """Return the name of each kept direction."""
        names = [
            name
            for name, directions in zip(PAIRS, self.left, strict=True)
            for direction in directions
            if direction.any()
        ]
        return [*names, RARE] if self.rare.any() else names

    def terms(self) -> Mapping[nn.Module, Term]:
        """Return the modules that compute the terms of the statistics that were kept."""
        found: dict[nn.Module, Term] = {
            module: Term(f"statistic {name}", scale)
            for module, (name, scale), left in zip(
                self.products, PAIRS.items(), self.left, strict=True
            )
            if left.any()
        }
        return (
            found | {self.projected: Term(f"statistic {RARE}", "20x")} if self.rare.any() else found
        )

    def _pairs(self, inputs: Mapping[str, Tensor], slides: int) -> Tensor:
        z = []
        for index, (name, product) in enumerate(zip(PAIRS, self.products, strict=True)):
            a, b, there = self._sides(index, name, inputs)
            weights = there.to(a.dtype).view(slides, -1, 1)
            total = weights.sum(dim=1).clamp(min=1)  # (B, 1)
            a, b = (
                (
                    (x := y.view(slides, -1, DIRECTIONS))
                    - (x * weights).sum(1, True) / total[:, None]
                )
                * weights
                for y in (a, b)
            )
            terms = product(a.flatten(0, 1), b.flatten(0, 1)).view(slides, -1, DIRECTIONS)
            z.append(terms.sum(dim=1) / total)
        return torch.cat(z, dim=1)

    def _sides(
        self, index: int, name: str, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return both sides (M, 2) of a pair, along its directions, and which of the M cells have both."""
        # Projected first: the sums are then over a few numbers a token.
        left, right = (
            {
                scale: (inputs[f"x{scale}"] @ directions[index].T).flatten(0, 1)
                for scale in (5, 10, 20)
            }
            for directions in (self.left, self.right)
        )
        families = Families.of(inputs["grid5"], inputs["grid10"], inputs["grid20"])
        return pair_cells(name, left, right, families, inputs["grid5"])


class Multiply(nn.Module):
    """The elementwise product of two tensors."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply."""
        return a * b


def pair_cells(
    name: str,
    a: Mapping[int, Tensor],
    b: Mapping[int, Tensor],
    families: Families,
    grid5: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both sides (M, D) of a pair of `PAIRS` for the M cells of its scale, and which cells have both.

    `a` and `b` are features or projections (B * N, D) of each scale 5, 10 and 20.
    """
    if name == "20x inside 10x":
        inside, there = _mean_by(a[20], families.parent20, len(b[10]))
        return inside, b[10], there
    if name == "10x inside 5x":
        inside, there = _mean_by(a[10], families.parent10, len(b[5]))
        return inside, b[5], there
    known = families.parent20 >= 0
    parent = torch.where(known, families.parent10[families.parent20.clamp(min=0)], -1)
    inside, there = _mean_by(a[20], parent, len(b[5]))
    if name == "20x inside 5x":
        return inside, b[5], there
    around = neighbours(grid5)  # (B * N5, 8)
    found = around >= 0
    values = b[5][around.clamp(min=0)] * found[:, :, None]
    beside = values.sum(dim=1) / found.sum(dim=1, keepdim=True).clamp(min=1)
    return inside, beside, there & found.any(dim=1)


def top_count(tokens: int) -> int:
    """Return how many of the 20x tokens the rare pattern is read from."""
    return max(1, round(TOP_SHARE * tokens))


def _mean_by(rows: Tensor, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean (count, D) of rows (N, D) by index, and which have any; an index of -1 is left out."""
    known = index >= 0
    sums = sum_by(rows, index, count)
    numbers = torch.bincount(index[known], minlength=count)
    return sums / numbers.clamp(min=1)[:, None], numbers > 0
