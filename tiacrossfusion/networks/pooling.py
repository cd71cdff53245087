"""What a network pools of a slide, as sums over families, so that it can be estimated from some of them.

A family is a 5x token with the 10x and 20x tokens inside it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.families import Families, parents

Network = TypeVar("Network", bound=nn.Module)


class Pool(NamedTuple):
    """Means that a network takes over the tokens of one scale, before they are divided.

    Attributes:
        scale: "5x", "10x" or "20x"; the sums over all families, divided by the number of tokens of this
            scale, are the means.
        sums: (F, C) over the tokens of each family, in the order of the 5x tokens.
        reads: the finest scale that tells the sums, so that those of "5x" are known of all families.
        positive: no sum is below 0.
    """

    scale: str
    sums: Tensor
    reads: str = "20x"
    positive: bool = False


def family_rows(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the row of the 5x token in which each token (N,) of a slide lies, by scale; -1 for none."""
    families = Families.of(inputs["grid5"], inputs["grid10"], inputs["grid20"])
    parent20 = families.parent20
    grand = families.parent10[parent20.clamp(min=0)].masked_fill(parent20 < 0, -1)
    own = families.parent10.new_ones(inputs["grid5"].shape[1]).cumsum(0) - 1
    return {"5x": own, "10x": families.parent10, "20x": grand}


def sum_by(rows: Tensor, index: Tensor, count: int) -> Tensor:
    """Return the sums (count, C) of rows (N, C) by index (N,); an index of -1 is left out."""
    known = (index >= 0)[:, None]
    return rows.new_zeros(count, rows.shape[1]).index_add(0, index.clamp(min=0), rows * known)


def telling(inputs: Mapping[str, Tensor], pools: Sequence[Pool], read: Sequence[str]) -> Tensor:
    """Return what is known of each family, (F, U), from which the rest is told.

    Its 5x token, the mean of its 10x tokens if these were read, and the means of the pools that are known.

    Args:
        inputs: features and grids (1, N, ...) of a slide.
        pools: of a network.
        read: the scales that were read, "5x", or "5x" and "10x".
    """
    parts = [inputs["x5"][0]]
    numbers = {"5x": parts[0].new_ones(len(parts[0]), 1)}
    if "10x" in read:
        rows = parents(inputs["grid10"], inputs["grid5"])
        x10 = inputs["x10"][0]
        numbers["10x"] = sum_by(x10.new_ones(len(x10), 1), rows, len(parts[0])).clamp(min=1)
        parts.append(sum_by(x10, rows, len(parts[0])) / numbers["10x"])
    parts += [pool.sums / numbers[pool.scale] for pool in pools if pool.reads in read]
    return torch.cat(parts, dim=1)


def phi_of(features: Tensor, around: Tensor, centre: Tensor, directions: Tensor) -> Tensor:
    """Return `[1; v; mean of v over the 3 x 3 cells]` (F, 1 + 2 q) of features (F, U)."""
    v = (features - centre) @ directions
    there = around >= 0
    total = v + (v[around.clamp(min=0)] * there[:, :, None]).sum(dim=1)
    return torch.cat(
        [torch.ones_like(v[:, :1]), v, total / (1 + there.sum(1, keepdim=True))], dim=1
    )


def pools_of(network: nn.Module) -> bool:
    """Return whether a network predicts from means over families, see `SurvivalNetwork.family_sums`."""
    return bool(getattr(network, "pools_families", False))


def on_cpu(network: Network) -> Network:
    """Return a network on the CPU, a copy if it is elsewhere."""
    if next(network.parameters()).device.type == "cpu":
        return network
    return copy.deepcopy(network).cpu()
