"""All networks by name, imported on first use."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tiacrossfusion.errors import UsageError, one_line
from tiacrossfusion.io.registry import Registry
from tiacrossfusion.networks.recipe import PAPER, Recipe

if TYPE_CHECKING:
    from torch import nn

#: Networks by name. Those in "-20x", "-5x" and "-5x-10x" read these scales alone. Add your own with
#: `@NETWORKS.register("name")` or an entry point in the group "tiacrossfusion.networks": a class whose
#: constructor takes `encoder_width`, `num_bins` and any other sizes, see `base.SurvivalNetwork`.
NETWORKS: Registry[type[nn.Module]] = Registry(
    "network",
    "tiacrossfusion.networks",
    {
        "crossfusion": "tiacrossfusion.networks.crossfusion:CrossFusion",
        "crossfusion-no-conv": "tiacrossfusion.networks.crossfusion:CrossFusionNoConv",
        "crossfusion-20x": "tiacrossfusion.networks.crossfusion:CrossFusion20x",
        "nested-fusion": "tiacrossfusion.networks.nested_fusion:NestedFusion",
        "nested-fusion-5x-10x": "tiacrossfusion.networks.coarse_fusion:CoarseFusion",
        "abmil": "tiacrossfusion.networks.abmil:ABMIL",
        "abmil-20x": "tiacrossfusion.networks.abmil:ABMIL20x",
        "dsmil": "tiacrossfusion.networks.dsmil:DSMIL",
        "dsmil-20x": "tiacrossfusion.networks.dsmil:DSMIL20x",
        "transmil": "tiacrossfusion.networks.transmil:TransMIL",
        "transmil-20x": "tiacrossfusion.networks.transmil:TransMIL20x",
        "mean-pool": "tiacrossfusion.networks.mean_pool:MeanPool",
        "mean-pool-20x": "tiacrossfusion.networks.mean_pool:MeanPool20x",
        "mean-pool-5x": "tiacrossfusion.networks.mean_pool:MeanPool5x",
        "coxnet": "tiacrossfusion.networks.coxnet:CoxNet",
        "coxnet-20x": "tiacrossfusion.networks.coxnet:CoxNet20x",
    },
)

#: Networks that are Cox regression on mean features, and have no other loss.
COXNETS = ("coxnet", "coxnet-20x")

#: Cox regression on a table's covariates alone, which is trained without slides.
CLINICAL = "clinical"

#: Other names of models, by which commands and settings may ask for them.
OTHER_NAMES: Mapping[str, str] = {"cox-covariates": CLINICAL}


#: Models of a slide's network and a clinical record (`networks.fused`), with the kind of their heads.
FUSIONS: Mapping[str, str] = {
    "late-fusion": "linear",
    "joint-fusion": "linear",
    "joint-network": "mlp",
    "joint-transformer": "tokens",
}


#: Students in closed form (`networks.closed_student`), which `tiacf distil` makes, with the scales they read.
STUDENTS: Mapping[str, tuple[str, ...]] = {
    "closed-student-5x": ("5x",),
    "closed-student-5x-10x": ("5x", "10x"),
}


def model_names() -> tuple[str, ...]:
    """Return the names of all models that can be trained: networks, Cox regression, and both together."""
    return (*NETWORKS.names(), CLINICAL, *FUSIONS)


def network_sizes(name: str) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a network's constructor, such as "embed_dim" and "dropout".

    Raises:
        UsageError: the network is unknown.
    """
    return inspect.signature(NETWORKS[name]).parameters


def recipe_of(name: str) -> Recipe:
    """Return how a network is trained by default: its class attribute `recipe`, or the paper's recipe.

    Raises:
        UsageError: the network is unknown.
    """
    return getattr(NETWORKS[name], "recipe", PAPER)


def build_network(name: str, **sizes: Any) -> nn.Module:
    """Return a network with fresh weights, in training mode.

    Args:
        name: one of `NETWORKS`.
        sizes: arguments of its constructor; the network has defaults for the others.

    Raises:
        UsageError: the network is unknown, does not take one of the sizes, or rejects its value.
    """
    taken = network_sizes(name)
    odd = [size for size in sizes if size not in taken]
    if odd:
        raise UsageError(
            f"{name} takes no {' and no '.join(odd)}: leave it out; it takes {', '.join(taken)}"
        )
    try:
        return NETWORKS[name](**sizes)
    except (TypeError, ValueError) as error:  # raised by a user's own network
        raise UsageError(f"{name} cannot be built ({one_line(error)}); check its sizes") from error
