"""All networks by name."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from torch import nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.abmil import ABMIL, ABMIL20x
from tiacrossfusion.networks.crossfusion import CrossFusion, CrossFusionNoConv
from tiacrossfusion.networks.crossfusion_20x import CrossFusion20x
from tiacrossfusion.networks.dsmil import DSMIL, DSMIL20x
from tiacrossfusion.networks.mean_pool import MeanPool, MeanPool20x
from tiacrossfusion.networks.transmil import TransMIL, TransMIL20x

#: Every network takes x5, x10, x20 and gives a `SurvivalOutput`, and has the attributes
#: `encoder_width` and `num_bins`. The names stand in `tiacrossfusion.networks.names` too.
NETWORKS: dict[str, type[nn.Module]] = {
    "crossfusion": CrossFusion,
    "crossfusion-no-conv": CrossFusionNoConv,
    "crossfusion-20x": CrossFusion20x,
    "abmil": ABMIL,
    "abmil-20x": ABMIL20x,
    "dsmil": DSMIL,
    "dsmil-20x": DSMIL20x,
    "transmil": TransMIL,
    "transmil-20x": TransMIL20x,
    "mean-pool": MeanPool,
    "mean-pool-20x": MeanPool20x,
}


def network_sizes(name: str) -> tuple[str, ...]:
    """Names of what a network takes, such as "embed_dim" and "dropout".

    Args:
        name (str):
            A key of `NETWORKS`.

    Raises:
        TiacfError:
            There is no such network.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.4)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise TiacfError(f"{name}: unknown network; {hint}known are {', '.join(NETWORKS)}")
    return tuple(inspect.signature(NETWORKS[name]).parameters)


def build_network(name: str, **sizes: Any) -> nn.Module:
    """Make a network with fresh weights.

    Args:
        name (str):
            A key of `NETWORKS`.
        sizes (Any):
            Arguments of the network; what is left out has the network's default.

    Returns:
        nn.Module:
            The network, in training mode.

    Raises:
        TiacfError:
            There is no such network, it does not take one of the sizes, or a size is unfit.
    """
    taken = network_sizes(name)
    odd = [size for size in sizes if size not in taken]
    if odd:
        raise TiacfError(
            f"{name} takes no {' and no '.join(odd)}: leave it out; it takes {', '.join(taken)}"
        )
    return NETWORKS[name](**sizes)
