"""Names of models that are trained against nuisances, such as "mean-pool+shift"."""

from __future__ import annotations

from typing import Any

from tiacrossfusion.errors import ArgumentValueError
from tiacrossfusion.networks.registry import COXNETS, NETWORKS

#: SD of the multiples of differences between sites that a pass of training adds. Noise that is s times the
#: differences leaves 1 / (1 + s^2) of a linear model's weight along them, a tenth at 3
#: (benchmarks/audit_training.md).
SHIFT = 3.0

#: Measured changes are added with their own covariance.
STAIN = 1.0

#: What a network can be trained against, in the order of the names.
AUGMENTATIONS = ("stain", "shift", "adversarial")


def parts_of(model: str) -> tuple[str, tuple[str, ...]]:
    """Return the model that is trained, and what it is trained against: "mean-pool" and ("shift",).

    Raises:
        ArgumentValueError: it is trained against something unknown or named twice, or is no network that is
            trained in passes over slides.
    """
    plain, *parts = (model,) if model in NETWORKS else model.split("+")
    for part in parts:
        if part not in AUGMENTATIONS or parts.count(part) > 1:
            raise ArgumentValueError(
                f"{model}: {part!r} is not one of {', '.join(AUGMENTATIONS)}, each once; mend its name"
            )
    if parts and (plain not in NETWORKS or plain in COXNETS):
        raise ArgumentValueError(
            f"{model}: {plain} is not trained in passes over slides, to which changes could be added; "
            "take a network such as mean-pool"
        )
    return plain, tuple(parts)


def plain_of(model: str) -> str:
    """Return the model that is trained: "mean-pool" of "mean-pool+shift"."""
    return parts_of(model)[0]


def is_network(model: str) -> bool:
    """Return whether a model is a network of slides."""
    return plain_of(model) in NETWORKS


def in_recipe(parts: tuple[str, ...], strength: float) -> dict[str, Any]:
    """Return the fields of `Recipe` for what a network is trained against."""
    sizes = {"stain": STAIN, "shift": SHIFT, "adversarial": strength}
    return {part: sizes[part] for part in parts}
