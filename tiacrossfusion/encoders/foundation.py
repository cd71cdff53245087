"""TIAToolbox's foundation models as plain timm architectures.

`timm.create_model("hf-hub:...")` reads the architecture from the hub even when no weights are
wanted. With this table a local weights file needs no network, and the same strict loading serves
local files and downloads. The toolbox's own `TimmBackbone` does not serve here: it flattens what
the model returns, which for Virchow would be 257 tokens of 1280 numbers.

Arguments come from the model cards and from TIAToolbox's `timm_arch_dict`; widths and parameter
counts are tested against the cards on torch's meta device. TRIDENT
(github.com/mahmoodlab/TRIDENT, `patch_encoder_models/load.py`) builds the same architectures for
local files.
"""

from dataclasses import dataclass, field
from typing import Literal

from tiacrossfusion.encoders.spec import OptionValue, Triple

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_BIOPTIMUS_MEAN: Triple = (0.707223, 0.578729, 0.703617)
_BIOPTIMUS_STD: Triple = (0.211883, 0.230117, 0.177517)


@dataclass(frozen=True, slots=True)
class FoundationModel:
    """A patch encoder: where its weights are and how timm builds it.

    Attributes:
        repository: its Hugging Face repository.
        architecture: timm's name of the plain architecture.
        arguments: keyword arguments for timm.
        swiglu: whether the MLPs are `SwiGLUPacked` with SiLU; classes cannot stand in `arguments` without
            importing torch.
        pooling: `class` for the class token, `class+mean` for the class token followed by the mean of the
            patch tokens, as the model card says.
        width: number of features of a patch.
        parameters: millions of parameters, as the card says.
        gated: whether the hub asks for an accepted licence.
        mean: mean of RGB in 0..1.
        std: standard deviation of RGB in 0..1.
    """

    repository: str
    architecture: str
    width: int
    parameters: float
    arguments: dict[str, OptionValue] = field(default_factory=dict)
    swiglu: bool = False
    pooling: Literal["class", "class+mean"] = "class"
    gated: bool = True
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD


#: Side in pixels that all of them were trained at.
INPUT_SIZE = 224

_VIRCHOW: dict[str, OptionValue] = {
    "img_size": 224,
    "init_values": 1e-5,
    "mlp_ratio": 5.3375,
    "global_pool": "",
}
_H_OPTIMUS: dict[str, OptionValue] = {"img_size": 224, "init_values": 1e-5}

FOUNDATION_MODELS: dict[str, FoundationModel] = {
    "UNI": FoundationModel(
        repository="MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        arguments={"img_size": 224, "init_values": 1e-5},
        width=1024,
        parameters=303,
    ),
    "UNI2": FoundationModel(
        repository="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        arguments={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
        swiglu=True,
        width=1536,
        parameters=681,
    ),
    "prov-gigapath": FoundationModel(
        repository="prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        arguments={"img_size": 224, "patch_size": 16, "init_values": 1e-5},
        width=1536,
        parameters=1135,
    ),
    "H-optimus-0": FoundationModel(
        repository="bioptimus/H-optimus-0",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments=_H_OPTIMUS,
        width=1536,
        parameters=1135,
        mean=_BIOPTIMUS_MEAN,
        std=_BIOPTIMUS_STD,
    ),
    "H-optimus-1": FoundationModel(
        repository="bioptimus/H-optimus-1",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments=_H_OPTIMUS,
        width=1536,
        parameters=1135,
        mean=_BIOPTIMUS_MEAN,
        std=_BIOPTIMUS_STD,
    ),
    # The card recommends the class token alone for most tasks.
    "H0-mini": FoundationModel(
        repository="bioptimus/H0-mini",
        architecture="vit_base_patch14_reg4_dinov2",
        arguments={"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334},
        swiglu=True,
        width=768,
        parameters=86,
        mean=_BIOPTIMUS_MEAN,
        std=_BIOPTIMUS_STD,
    ),
    "Virchow": FoundationModel(
        repository="paige-ai/Virchow",
        architecture="vit_huge_patch14_224",
        arguments=_VIRCHOW,
        swiglu=True,
        pooling="class+mean",
        width=2560,
        parameters=632,
    ),
    "Virchow2": FoundationModel(
        repository="paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        arguments={**_VIRCHOW, "reg_tokens": 4},
        swiglu=True,
        pooling="class+mean",
        width=2560,
        parameters=632,
    ),
    # Its positions are stored for 518 pixels (37 x 37) and are interpolated to 224 (16 x 16).
    "kaiko": FoundationModel(
        repository="1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms",
        architecture="vit_large_patch14_reg4_dinov2",
        arguments={"img_size": 518, "dynamic_img_size": True},
        width=1024,
        parameters=304,
        gated=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
}
