"""All networks by name; none is imported before it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tiacrossfusion.errors import UsageError, one_line
from tiacrossfusion.io.registry import Registry

if TYPE_CHECKING:
    from torch import nn

#: Networks by name. "-20x" reads the 20x tokens alone. A user's own is added with
#: `@NETWORKS.register("name")` or as an entry point of the group "tiacrossfusion.networks": a class
#: whose constructor takes `encoder_width`, `num_bins` and other sizes, see `base.SurvivalNetwork`.
NETWORKS: Registry[type[nn.Module]] = Registry(
    "network",
    "tiacrossfusion.networks",
    {
        "crossfusion": "tiacrossfusion.networks.crossfusion:CrossFusion",
        "crossfusion-no-conv": "tiacrossfusion.networks.crossfusion:CrossFusionNoConv",
        "crossfusion-20x": "tiacrossfusion.networks.crossfusion_20x:CrossFusion20x",
        "abmil": "tiacrossfusion.networks.abmil:ABMIL",
        "abmil-20x": "tiacrossfusion.networks.abmil:ABMIL20x",
        "dsmil": "tiacrossfusion.networks.dsmil:DSMIL",
        "dsmil-20x": "tiacrossfusion.networks.dsmil:DSMIL20x",
        "transmil": "tiacrossfusion.networks.transmil:TransMIL",
        "transmil-20x": "tiacrossfusion.networks.transmil:TransMIL20x",
        "mean-pool": "tiacrossfusion.networks.mean_pool:MeanPool",
        "mean-pool-20x": "tiacrossfusion.networks.mean_pool:MeanPool20x",
    },
)

#: Cox regression on a table's covariates, which is trained without slides.
COX_COVARIATES = "cox-covariates"


def model_names() -> tuple[str, ...]:
    """Return the names of all that can be trained: the networks, and Cox regression."""
    return (*NETWORKS.names(), COX_COVARIATES)


def network_sizes(name: str) -> Mapping[str, inspect.Parameter]:
    """Return what the constructor of a network takes, such as "embed_dim" and "dropout".

    Raises:
        UsageError: there is no such network.
    """
    return inspect.signature(NETWORKS[name]).parameters


def build_network(name: str, **sizes: Any) -> nn.Module:
    """Make a network with fresh weights, in training mode.

    Args:
        name: of `NETWORKS`.
        sizes: arguments of its constructor; the others have the network's defaults.

    Raises:
        UsageError: there is no such network, it does not take one of the sizes, or a size does not fit.
    """
    taken = network_sizes(name)
    odd = [size for size in sizes if size not in taken]
    if odd:
        raise UsageError(
            f"{name} takes no {' and no '.join(odd)}: leave it out; it takes {', '.join(taken)}"
        )
    try:
        return NETWORKS[name](**sizes)
    except (TypeError, ValueError) as error:  # a user's own network checks its sizes as it likes
        raise UsageError(f"{name} cannot be built ({one_line(error)}); check its sizes") from error
