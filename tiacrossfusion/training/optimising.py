"""The optimiser's weights and rate: decay by kind of weight, linear warm-up, and a cosine."""

from __future__ import annotations

import math

from torch import nn

from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.recipe import Recipe


def weight_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Return the weights by their decay: those of embeddings, other matrices, and the rest without any."""
    embedding = set()
    if isinstance(network, SurvivalNetwork):
        embedding = {w for part in network.embeddings() for w in part.parameters()}
    decays: dict[float, list[nn.Parameter]] = {}
    for weight in network.parameters():
        decay = recipe.input_weight_decay if weight in embedding else recipe.weight_decay
        decays.setdefault(decay if weight.ndim > 1 else 0.0, []).append(weight)
    return [{"params": weights, "weight_decay": decay} for decay, weights in decays.items()]


def share_of_rate(step: int, warm_up: int, total: int) -> float:
    """Return the share of the highest rate at a step: linear warm-up, then a cosine to 0, once."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, total - warm_up))
