"""From the architecture that a bundle names to the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiacrossfusion.models.config import Architecture

if TYPE_CHECKING:
    from torch import nn


def build_network(
    architecture: Architecture,
    *,
    dropout: float | None = None,
    attention_dropout: float | None = None,
) -> nn.Module:
    """Make the network of an architecture with fresh weights, in training mode.

    Training and loading both come through here. Moments and baseline, where the architecture has
    them, are those of a `TrainedNetwork` that is not trained yet.

    Args:
        architecture: name and sizes.
        dropout: rate in training; None takes the network's default.
        attention_dropout: rate for the self-attention weights, likewise; the networks that drop no
            attention weights (all but the CrossFusion family) have no use for it.

    Raises:
        TiacfError: the sizes make no network.
    """
    from tiacrossfusion.networks.registry import build_network as build
    from tiacrossfusion.networks.registry import network_sizes
    from tiacrossfusion.networks.trained import TrainedNetwork

    rates = {"dropout": dropout, "attention_dropout": attention_dropout}
    taken = network_sizes(architecture.name)
    network = build(
        architecture.name,
        **architecture.network_sizes(),
        **{name: rate for name, rate in rates.items() if rate is not None and name in taken},
    )
    if not (architecture.standardise or architecture.proportional_hazards):
        return network
    return TrainedNetwork(
        network,
        standardise=architecture.standardise,
        num_bins=architecture.num_bins if architecture.proportional_hazards else None,
    )
