"""TIAToolbox's backbones: torchvision's networks and the foundation models."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tiacrossfusion.encoders.foundation import (
    FOUNDATION_MODELS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    INPUT_SIZE,
    FoundationModel,
)
from tiacrossfusion.encoders.hub import fetching_from_hub, fetching_from_url
from tiacrossfusion.encoders.network import EncoderNetwork
from tiacrossfusion.encoders.weights import load_strictly, read_state_dict

#: torchvision's weights of these two expect inputs scaled to -1..1. Its models convert ImageNet's
#: normalisation themselves (`transform_input`), which TIAToolbox's stripped backbones do not.
_INCEPTION_STYLE = ("inception_v3", "googlenet")

#: torchvision's DenseNet files were saved with keys such as `denselayer1.norm.1.weight`.
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def load_torchvision(name: str, model: str, weights: Path | None) -> EncoderNetwork:
    """Return one of the toolbox's torchvision backbones, with ImageNet weights or a local file's.

    A file has torchvision's keys, or those of TIAToolbox's `CNNModel` and `CNNBackbone`.

    Raises:
        TiacfError: the weights cannot be fetched, or the file does not fit.
    """
    # 15 s on two cores: the toolbox's whole model zoo comes along.
    from tiatoolbox.models.architecture.vanilla import CNNBackbone
    from torchvision.models import (  # type: ignore[import-untyped]
        get_model,
        get_model_weights,
    )

    backbone = CNNBackbone(model)  # with random weights, all of which are replaced below
    auxiliary = {"aux_logits": False} if model in _INCEPTION_STYLE else {}
    with torch.device("meta"):
        reference = get_model(model, weights=None, **auxiliary)
    # The backbone is the reference without its last children, under other names.
    theirs, ours = list(reference.state_dict()), list(backbone.state_dict())
    renamed = dict(zip(theirs, ours, strict=False))

    def rename(key: str) -> str:
        key = _OLD_DENSENET_KEY.sub(r"\1\2", key)
        return renamed.get(key, key)

    if weights is None:
        url = get_model_weights(model).DEFAULT.url
        with fetching_from_url(name, url):
            state = get_model(model, weights="DEFAULT", progress=True).state_dict()
        source = url
    else:
        state, source = read_state_dict(weights), str(weights)
    load_strictly(backbone, state, source=source, rename=rename)
    return _torchvision_network(name, model, backbone)


def describe_torchvision(name: str, model: str) -> EncoderNetwork:
    """Return a backbone with random weights, of which only width and preprocessing are used."""
    from tiatoolbox.models.architecture.vanilla import CNNBackbone

    return _torchvision_network(name, model, CNNBackbone(model))


def _torchvision_network(name: str, model: str, backbone: nn.Module) -> EncoderNetwork:
    inception = model in _INCEPTION_STYLE
    with torch.inference_mode():
        width = backbone.eval()(torch.zeros(1, 3, 96, 96)).shape[1]
    return EncoderNetwork(
        name=name,
        module=backbone,
        width=width,
        mean=(0.5, 0.5, 0.5) if inception else IMAGENET_MEAN,
        std=(0.5, 0.5, 0.5) if inception else IMAGENET_STD,
    )


class _TokenPooling(nn.Module):
    """Class token followed by the mean of the patch tokens, registers left out."""

    def __init__(self, model: nn.Module, prefix: int) -> None:
        super().__init__()
        self.model = model
        self.prefix = prefix

    def forward(self, images: Tensor) -> Tensor:
        """From `(B, 3, S, S)` to `(B, 2 * D)`."""
        tokens = self.model(images)  # (B, prefix + patches, D)
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(1)], dim=1)


def build_foundation(model: FoundationModel) -> nn.Module:
    """Return the architecture of a foundation model on the meta device, tokens not yet pooled.

    Without memory, because filling a billion parameters at random would take half a minute.
    """
    import timm
    from timm.layers import SwiGLUPacked

    layers = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if model.swiglu else {}
    with torch.device("meta"):
        return timm.create_model(
            model.architecture, pretrained=False, num_classes=0, **model.arguments, **layers
        )


def load_foundation(name: str, model: str, weights: Path | None) -> EncoderNetwork:
    """Return one of the toolbox's foundation models, from the hub or a local file.

    Raises:
        TiacfError: access is refused or the hub out of reach, or the file does not fit.
    """
    description = FOUNDATION_MODELS[model]
    if weights is None:
        from timm.models import load_state_dict_from_hf

        # Before the model is built, which takes long enough to keep a user waiting for a refusal.
        with fetching_from_hub(name, description.repository):
            # Passed explicitly: timm's default would unpickle code.
            state = load_state_dict_from_hf(description.repository, weights_only=True)
        source = f"https://huggingface.co/{description.repository}"
    else:
        state, source = read_state_dict(weights), str(weights)
    network: Any = build_foundation(description)
    load_strictly(network, state, source=source)
    if description.pooling == "class+mean":
        network = _TokenPooling(network, network.num_prefix_tokens)
    return EncoderNetwork(
        name=name,
        module=network,
        width=description.width,
        mean=description.mean,
        std=description.std,
        fixed_size=INPUT_SIZE,
    )
