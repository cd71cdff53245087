"""Load an encoder by name."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.encoders.names import EncoderName, resolve_name
from tiacrossfusion.encoders.registry import load_registered
from tiacrossfusion.encoders.spec import OptionValue, Triple
from tiacrossfusion.errors import UsageError

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.encoders.network import EncoderNetwork


def load_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, OptionValue] | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> "Encoder":
    """Load an encoder.

    Args:
        name: `stain-texture` or another registered name, `timm:<model>`, `timm:hf-hub:<org>/<model>` or
            `tiatoolbox:<backbone>`; without a prefix when only one of them has it.
        weights: local weights file, with which no network access happens; None for the default pretrained
            weights. A network never runs on random weights.
        mean: three numbers instead of the encoder's own mean of RGB in 0..1.
        std: three numbers instead of the encoder's own standard deviation.
        options: extra arguments of `timm.create_model`, for `timm:` names only.
        device: torch device.
        precision: of the arithmetic: "float32", on a GPU also "float16" or "bfloat16"; "auto" takes
            float16 on a GPU and float32 elsewhere.

    Returns:
        In evaluation mode on `device`.

    Raises:
        TiacfError: the name is unknown or ambiguous, the weights cannot be fetched or do not fit, or an
            argument does not apply to this encoder.
    """
    resolved = resolve_name(name)
    checked_mean = _triple("mean", mean)
    checked_std = _triple("std", std)
    checked_options = dict(options or {})
    check_arguments(resolved, checked_mean, checked_std, checked_options)

    from tiacrossfusion.encoders.encoder import Encoder

    network = _network(resolved, None if weights is None else Path(weights), checked_options)
    # Those of a stored EncoderSpec are its own and pass.
    own = checked_mean in (None, network.mean) and checked_std in (None, network.std)
    if not network.takes_weights and not (weights is None and own):
        raise UsageError(f"encoder {resolved}: is fixed, it takes no weights, mean or std")
    return Encoder(network, mean=checked_mean, std=checked_std, device=device, precision=precision)


def _network(
    name: EncoderName, weights: Path | None, options: dict[str, OptionValue]
) -> "EncoderNetwork":
    if name.family == "registered":
        return load_registered(name.model, weights)
    if name.family in ("timm", "hub"):
        from tiacrossfusion.encoders.timm_models import load_timm

        return load_timm(name, weights, options)
    from tiacrossfusion.encoders.toolbox_models import load_foundation, load_torchvision

    load = load_foundation if name.family == "foundation" else load_torchvision
    return load(str(name), name.model, weights)


def check_arguments(
    name: EncoderName,
    mean: Triple | None,
    std: Triple | None,
    options: Mapping[str, OptionValue] | None,
) -> None:
    """Refuse arguments that no encoder, or not this one, can take.

    Raises:
        TiacfError: mean or standard deviation are not finite, the latter is not positive, or options are
            given to another family than timm's.
    """
    if not all(isfinite(value) for value in (*(mean or ()), *(std or ()))):
        raise UsageError(f"encoder mean and std must be finite, not {mean} and {std}")
    if std is not None and min(std) <= 0:
        raise UsageError(f"encoder std must be positive, not {std}")
    if options and name.family not in ("timm", "hub"):
        raise UsageError(f"encoder {name}: options are for timm: names, it takes none")


def _triple(label: str, values: Sequence[float] | None) -> Triple | None:
    if values is None:
        return None
    if len(values) != 3:
        raise UsageError(f"encoder {label} must be three numbers, not {len(values)}")
    red, green, blue = values
    return (float(red), float(green), float(blue))
