"""Encoders that a bundle or a checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.encoders.foundation import FOUNDATION_MODELS, INPUT_SIZE
from tiacrossfusion.encoders.loading import check_arguments, load_encoder
from tiacrossfusion.encoders.names import resolve_name
from tiacrossfusion.encoders.registry import ENCODERS
from tiacrossfusion.encoders.spec import EncoderSpec, OptionValue, Triple
from tiacrossfusion.errors import TiacfError, UsageError

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder


def load_encoder_of(
    spec: EncoderSpec,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> Encoder:
    """Load the encoder of a model, with its default weights or those of a local file.

    Raises:
        TiacfError: it cannot be loaded, or its weights are not those of the model.
    """
    if spec.package is not None and spec.name not in ENCODERS:
        raise ENCODERS.absent(spec.name, spec.package)
    try:
        encoder = load_encoder(
            spec.name,
            weights=weights,
            mean=spec.mean,
            std=spec.std,
            options=spec.options,
            device=device,
            precision=precision,
        )
    except UsageError as error:
        if weights is not None or precision != "auto":  # these options may be wrong, not the model
            raise
        raise TiacfError(f"the model's encoder: {error}") from error
    wanted, found = spec.weights_sha256, encoder.spec.weights_sha256
    if wanted is not None and found != wanted:
        raise TiacfError(
            f"encoder {spec.name}: the model was trained with weights {wanted[:12]}, "
            f"{weights or 'the default ones'} are {str(found)[:12]}; give the right file with "
            "--encoder-weights FILE"
        )
    return encoder


def describe_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    options: Mapping[str, OptionValue] | None = None,
) -> EncoderSpec:
    """Describe an encoder without fetching its weights.

    The arguments are those of `load_encoder`. The hash of a local weights file is part of the
    description; without a file it is unknown (None), which matches any.

    Raises:
        TiacfError: the name is unknown, or the file does not fit.
    """
    resolved = resolve_name(name)
    check_arguments(resolved, mean, std, options)
    if weights is not None or resolved.family == "registered":
        return load_encoder(name, weights=weights, mean=mean, std=std, options=options).spec
    if resolved.family == "foundation":
        model = FOUNDATION_MODELS[resolved.model]
        return EncoderSpec(
            name=str(resolved),
            width=model.width,
            mean=mean or model.mean,
            std=std or model.std,
            input_size=INPUT_SIZE,
        )
    if resolved.family == "torchvision":
        from tiacrossfusion.encoders.toolbox_models import describe_torchvision

        network = describe_torchvision(str(resolved), resolved.model)
    else:
        from tiacrossfusion.encoders.timm_models import describe_timm

        network = describe_timm(resolved, dict(options or {}))
    return network.spec(weights_sha256=None, mean=mean, std=std)
