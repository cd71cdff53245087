"""Encoders that a bundle or a checkpoint was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.encoders.loading import load_encoder
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
