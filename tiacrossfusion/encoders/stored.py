"""Encoders that a bundle or a checkpoint was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.encoders.foundation import FOUNDATION_MODELS, INPUT_SIZE
from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.encoders.names import resolve_name
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder


def load_encoder_of(
    spec: EncoderSpec, *, weights: str | Path | None = None, device: str = "cpu"
) -> Encoder:
    """Load the encoder that a model was trained with.

    Args:
        spec (EncoderSpec):
            What the model says of its encoder.
        weights (str or Path or None):
            Local weights file; None for the encoder's default weights.
        device (str):
            torch device.

    Raises:
        TiacfError:
            When it cannot be loaded, or turns out to be another one than the model's.
    """
    encoder = load_encoder(
        spec.name,
        weights=weights,
        mean=spec.mean,
        std=spec.std,
        options=spec.options,
        device=device,
    )
    wanted, found = spec.weights_sha256, encoder.spec.weights_sha256
    if wanted is not None and found != wanted:
        remedy = "give the right file with --encoder-weights FILE"
        msg = (
            f"encoder {spec.name}: the model was trained with weights {wanted[:12]}, "
            f"{weights or 'the default ones'} are {str(found)[:12]}; {remedy}"
        )
        raise TiacfError(msg)
    return encoder


def describe_encoder(name: str, *, weights: str | Path | None = None) -> EncoderSpec:
    """Describe an encoder without fetching its weights.

    Args:
        name (str):
            As for `load_encoder`.
        weights (str or Path or None):
            Local weights file, whose hash is then part of the description; without it the hash is
            unknown (None), which matches any.

    Raises:
        TiacfError:
            When the name is unknown, or the file does not fit.
    """
    resolved = resolve_name(name)
    if weights is not None or resolved.family == "shipped":
        return load_encoder(name, weights=weights).spec
    if resolved.family in ("timm", "hub"):
        from tiacrossfusion.encoders.timm_models import describe_timm

        return describe_timm(resolved).spec(weights_sha256=None)
    if resolved.family == "torchvision":
        from tiacrossfusion.encoders.toolbox_models import describe_torchvision

        return describe_torchvision(str(resolved), resolved.model).spec(weights_sha256=None)
    model = FOUNDATION_MODELS[resolved.model]
    return EncoderSpec(
        name=str(resolved),
        width=model.width,
        mean=model.mean,
        std=model.std,
        input_size=INPUT_SIZE,
    )
