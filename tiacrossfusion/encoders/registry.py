"""Encoders by name: the built-in one, those of installed packages, and your own.

Your own encoder is a function that returns its network::

    @ENCODERS.register("my-encoder")
    def my_encoder() -> EncoderNetwork:
        module = MyNetwork()
        module.load_state_dict(torch.load("my-weights.pt", weights_only=True))
        return EncoderNetwork(module, width=512, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

A package declares the function as an entry point of the group `tiacrossfusion.encoders`; a file is given
with `--plugin`. timm's and TIAToolbox's models have names with a prefix and need no registration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.registry import Registry

if TYPE_CHECKING:
    from tiacrossfusion.encoders.network import EncoderNetwork

#: The encoder that ships with the package.
SHIPPED = "stain-texture"

ENCODERS: Registry[Callable[[], EncoderNetwork]] = Registry(
    "encoder",
    "tiacrossfusion.encoders",
    {SHIPPED: "tiacrossfusion.encoders.registry:stain_texture"},
)


def stain_texture() -> EncoderNetwork:
    """Return the encoder that ships with the package, which is not learned."""
    from tiacrossfusion.encoders.network import EncoderNetwork
    from tiacrossfusion.encoders.stain_texture import FEATURE_NAMES, StainTexture

    return EncoderNetwork(
        StainTexture(),
        width=len(FEATURE_NAMES),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        micro_batch=16,
        takes_weights=False,
    )


def load_registered(name: str, weights: Path | None) -> EncoderNetwork:
    """Build a registered encoder, with its own weights or those of a local file.

    Raises:
        TiacfError: the function fails or returns something else than it declares, or the file does not
            fit.
    """
    import torch

    from tiacrossfusion.encoders.network import PATCH_SIZE, EncoderNetwork
    from tiacrossfusion.encoders.weights import load_strictly, read_state_dict

    build, package = ENCODERS[name], ENCODERS.package(name)
    if package is None:
        return replace(build(), name=name)
    try:
        network = build()
        if not isinstance(network, EncoderNetwork):
            raise TypeError(f"it returns a {type(network).__name__}, not an EncoderNetwork")
        side = network.fixed_size or PATCH_SIZE
        with torch.inference_mode():
            shape = tuple(network.module.eval()(torch.zeros(1, 3, side, side)).shape)
        if shape != (1, network.width):
            raise ValueError(f"a patch gives {shape}, the declared width is {network.width}")
    except TiacfError:
        raise
    except Exception as error:  # the function is another author's
        raise TiacfError(
            f"encoder {name} of {package}: {one_line(error)}; repair {package}"
        ) from error
    if weights is not None:
        load_strictly(network.module, read_state_dict(weights), source=str(weights))
    return replace(network, name=name, package=package)
