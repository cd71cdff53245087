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

from dataclasses import dataclass
from functools import partial
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
        width: number of features of a patch.
        parameters: millions of parameters, as the card says.
        arguments: keyword arguments for timm.
        swiglu: whether the MLPs are `SwiGLUPacked` with SiLU; classes in `arguments` would need torch to be
            imported.
        pooling: `class` for the class token, `class+mean` for the class token followed by the mean of the
            patch tokens, as the model card says.
        gated: whether the hub asks for an accepted licence.
        mean: mean of RGB in 0..1.
        std: standard deviation of RGB in 0..1.
    """

    repository: str
    architecture: str
    width: int
    parameters: float
    arguments: dict[str, OptionValue]
    swiglu: bool = False
    pooling: Literal["class", "class+mean"] = "class"
    gated: bool = True
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD


#: Side in pixels that all of them were trained at.
INPUT_SIZE = 224

_PLAIN: dict[str, OptionValue] = {"img_size": 224, "init_values": 1e-5}

_UNI2: dict[str, OptionValue] = (
    _PLAIN
    | {"patch_size": 14, "depth": 24, "num_heads": 24, "embed_dim": 1536}
    | {"mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8}
)
_VIRCHOW: dict[str, OptionValue] = {**_PLAIN, "mlp_ratio": 5.3375, "global_pool": ""}

_bioptimus = partial(FoundationModel, mean=_BIOPTIMUS_MEAN, std=_BIOPTIMUS_STD)
_virchow = partial(FoundationModel, swiglu=True, pooling="class+mean")

FOUNDATION_MODELS: dict[str, FoundationModel] = {
    "UNI": FoundationModel("MahmoodLab/UNI", "vit_large_patch16_224", 1024, 303, _PLAIN),
    "UNI2": FoundationModel(
        "MahmoodLab/UNI2-h", "vit_giant_patch14_224", 1536, 681, _UNI2, swiglu=True
    ),
    "prov-gigapath": FoundationModel(
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        1536,
        1135,
        {**_PLAIN, "patch_size": 16},
    ),
    "H-optimus-0": _bioptimus(
        "bioptimus/H-optimus-0", "vit_giant_patch14_reg4_dinov2", 1536, 1135, _PLAIN
    ),
    "H-optimus-1": _bioptimus(
        "bioptimus/H-optimus-1", "vit_giant_patch14_reg4_dinov2", 1536, 1135, _PLAIN
    ),
    # The card recommends the class token alone for most tasks.
    "H0-mini": _bioptimus(
        "bioptimus/H0-mini",
        "vit_base_patch14_reg4_dinov2",
        768,
        86,
        {**_PLAIN, "mlp_ratio": 5.33334},
        swiglu=True,
    ),
    "Virchow": _virchow("paige-ai/Virchow", "vit_huge_patch14_224", 2560, 632, _VIRCHOW),
    "Virchow2": _virchow(
        "paige-ai/Virchow2", "vit_huge_patch14_224", 2560, 632, {**_VIRCHOW, "reg_tokens": 4}
    ),
    # Its positions are stored for 518 pixels (37 x 37) and are interpolated to 224 (16 x 16).
    "kaiko": FoundationModel(
        "1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms",
        "vit_large_patch14_reg4_dinov2",
        1024,
        304,
        {"img_size": 518, "dynamic_img_size": True},
        gated=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
}
