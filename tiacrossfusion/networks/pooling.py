"""What a network pools of a slide, as sums over families, so that it can be estimated from some of them.

A family is a 5x token with the 10x and 20x tokens inside it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from tiacrossfusion.networks.families import Families

Network = TypeVar("Network", bound=nn.Module)


class Pool(NamedTuple):
    """Means that a network takes over the tokens of one scale, before they are divided.

    Attributes:
        scale: "5x", "10x" or "20x"; the sums over all families, divided by the number of tokens of this
            scale, are the means.
        sums: (F, C) over the tokens of each family, in the order of the 5x tokens.
        coarse: the 5x tokens alone tell the sums, so that they are known of families that were not read.
        positive: no sum is below 0.
    """

    scale: str
    sums: Tensor
    coarse: bool = False
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


def pools_of(network: nn.Module) -> bool:
    """Return whether a network predicts from means over families, see `SurvivalNetwork.family_sums`."""
    return bool(getattr(network, "pools_families", False))


def on_cpu(network: Network) -> Network:
    """Return a network on the CPU, a copy if it is elsewhere."""
    if next(network.parameters()).device.type == "cpu":
        return network
    return copy.deepcopy(network).cpu()
