"""Encoders from timm: any of its models, and models of the Hugging Face hub in its format."""

from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from timm.data import resolve_model_data_config
from torch import nn

from tiacrossfusion.encoders.foundation import FOUNDATION_MODELS
from tiacrossfusion.encoders.hub import fetching_from_hub, fetching_from_url, hub_offline
from tiacrossfusion.encoders.names import EncoderName
from tiacrossfusion.encoders.network import PATCH_SIZE, EncoderNetwork
from tiacrossfusion.encoders.spec import OptionValue
from tiacrossfusion.encoders.weights import load_strictly, read_state_dict
from tiacrossfusion.errors import TiacfError, UsageError, one_line

#: Arguments of `timm.create_model` that this module sets itself.
_OWN_ARGUMENTS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "in_chans", "num_classes"),
}

#: Of any number among the options; the widest of timm's networks have it.
_LARGEST_OPTION = 4096

#: The largest of timm's networks have seven thousand million.
_MOST_PARAMETERS = 10_000_000_000


def load_timm(
    name: EncoderName, weights: Path | None, options: dict[str, OptionValue]
) -> EncoderNetwork:
    """Build a timm model and load its pretrained weights or a local file, then without network access.

    Returns:
        Named with timm's full tag when the weights are timm's own.

    Raises:
        TiacfError: the model cannot be built with these options, has no pretrained weights, they cannot
            be fetched, the file does not fit, or it returns something else than a vector.
    """
    if weights is None:
        return _network(name, _pretrained(name, options), options, tagged=True)
    model = _untrained(name, options)
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else classifier
    _remove_classifier(model)
    load_strictly(model, read_state_dict(weights), source=str(weights), heads=heads)
    return _network(name, model, options)


def describe_timm(name: EncoderName, options: dict[str, OptionValue]) -> EncoderNetwork:
    """Build a timm model with random weights, of which only width and preprocessing are used."""
    return _network(name, _untrained(name, options), options, tagged=True)


def _network(
    name: EncoderName, model: Any, options: dict[str, OptionValue], *, tagged: bool = False
) -> EncoderNetwork:
    """Return the encoder without its classifier, named with the tag of timm's weights if `tagged`."""
    _remove_classifier(model)
    config, own = resolve_model_data_config(model), model.pretrained_cfg
    if tagged and name.family == "timm":
        name = EncoderName("timm", ".".join(filter(None, (own["architecture"], own.get("tag")))))
    fixed_size = None
    if own.get("fixed_input_size", False):
        fixed_size = int(options.get("img_size", config["input_size"][-1]))
    return EncoderNetwork(
        name=str(name),
        module=model,
        width=_width(model, fixed_size or PATCH_SIZE, str(name)),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fixed_size=fixed_size,
        options=options,
    )


def _create(name: EncoderName, options: dict[str, OptionValue], *, pretrained: bool) -> Any:
    """Call timm, and turn its errors about options into one line."""
    _check_options(name, options)
    model = f"hf-hub:{name.model}" if name.family == "hub" else name.model
    try:
        if options:
            _check_size(name, model, options)
        return timm.create_model(model, pretrained=pretrained, **options)
    except (OSError, EntryNotFoundError, HfHubHTTPError, TiacfError):
        raise  # of the network or the cache, which the caller handles
    except Exception as error:  # timm has no common exception for a wrong option
        raise UsageError(
            f"encoder {name}: timm cannot build it with options {options}: {one_line(error)}"
        ) from error


def _check_options(name: EncoderName, options: dict[str, OptionValue]) -> None:
    """Refuse options that this package sets itself, such as files of weights, and absurd sizes.

    A model bundle names the options of its encoder, and bundles come from others.
    """
    if own := sorted(_OWN_ARGUMENTS & options.keys()):
        raise UsageError(
            f"encoder {name}: option {own[0]!r} is set by this package and cannot be given"
        )
    for option, value in options.items():
        if not isinstance(value, str) and not abs(value) <= _LARGEST_OPTION:
            raise UsageError(
                f"encoder {name}: option {option}={value}: must be {_LARGEST_OPTION} or less"
            )


def _check_size(name: EncoderName, architecture: str, options: dict[str, OptionValue]) -> None:
    """Refuse a network that would fill the memory, before it does.

    Some timm networks (RegNets) read tensor values while being built, which the meta device lacks; numeric
    options are refused for them.
    """
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False, **options)
    except RuntimeError as error:
        for option, value in options.items():
            if not isinstance(value, str | bool):
                raise UsageError(
                    f"encoder {name}: its size with option {option}={value} cannot be known before it is "
                    "made; leave the option out"
                ) from error
        return
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > _MOST_PARAMETERS:
        raise UsageError(
            f"encoder {name}: would have {count:.2g} parameters with these options; change them"
        )


def _pretrained(name: EncoderName, options: dict[str, OptionValue]) -> Any:
    """Return the model with timm's weights, with its classifier, so that timm loads all of them."""
    config: Any = None if name.family == "hub" else timm.get_pretrained_cfg(name.model)
    if name.family != "hub" and (config is None or not config.has_weights):
        tagged = timm.list_pretrained(f"{name.model.partition('.')[0]}*")
        hint = f"; for instance timm:{tagged[0]} has" if tagged else ""
        raise UsageError(
            f"encoder {name}: timm has no pretrained weights of it{hint}; "
            "or give a local file with --encoder-weights FILE"
        )
    repository = name.model if config is None else config.hf_hub_id
    fetching = (
        fetching_from_hub(str(name), repository)
        if repository
        else fetching_from_url(str(name), config.url)
    )
    with fetching:
        return _create(name, options, pretrained=True)


def _untrained(name: EncoderName, options: dict[str, OptionValue]) -> Any:
    """Return the architecture with random weights, without network access."""
    if name.family != "hub":
        return _create(name, options, pretrained=False)
    try:
        with hub_offline():
            return _create(name, options, pretrained=False)
    except (OSError, EntryNotFoundError) as error:
        remedy = "name its plain architecture, timm:<model>, with the options in its config.json"
        for key, model in FOUNDATION_MODELS.items():
            if model.repository.lower() == name.model.lower():
                remedy = f"say tiatoolbox:{key}, whose architecture is known"
        raise UsageError(
            f"encoder {name}: its architecture is on the hub only, and with a local file no "
            f"network is used; {remedy}"
        ) from error


def _remove_classifier(model: Any) -> None:
    if model.num_classes:
        model.reset_classifier(0)


def _width(model: nn.Module, size: int, name: str) -> int:
    """Return the number of features of a patch, from a trial."""
    try:
        with torch.inference_mode():
            shape = tuple(model.eval()(torch.zeros(1, 3, size, size)).shape)
    except Exception as error:  # as above
        raise UsageError(
            f"encoder {name}: cannot take a patch of {size} pixels ({one_line(error)}); change its options"
        ) from error
    if len(shape) != 2:
        raise UsageError(
            f"encoder {name}: returns {shape} instead of one vector a patch; say how to pool with "
            "the option global_pool, 'token' or 'avg'"
        )
    return shape[1]
