"""The list of encoders, for `tiacf encoders`."""

from typing import NamedTuple

from tiacrossfusion.encoders.foundation import FOUNDATION_MODELS
from tiacrossfusion.encoders.names import TORCHVISION_BACKBONES
from tiacrossfusion.encoders.registry import ENCODERS, SHIPPED


class AvailableEncoder(NamedTuple):
    """One line of the list.

    Attributes:
        name: what `load_encoder` takes; patterns such as `timm:<model>` mean many.
        note: one line.
        width: number of features of a patch, where it is known without loading.
        offline: whether it works without network access and without a file. The others work offline with
            `--encoder-weights FILE`.
    """

    name: str
    note: str
    width: int | None = None
    offline: bool = False


def available_encoders() -> list[AvailableEncoder]:
    """List the encoders: the registered ones, the toolbox's, and how to name timm's."""
    from tiacrossfusion.encoders.stain_texture import FEATURE_NAMES

    listed = [
        AvailableEncoder(
            SHIPPED, "ships with the package, not learned", len(FEATURE_NAMES), offline=True
        )
    ]
    listed += [
        AvailableEncoder(name, f"of {package}")
        for name in ENCODERS.names()
        if (package := ENCODERS.package(name)) is not None
    ]
    listed += [
        AvailableEncoder("timm:<model>", "any model of timm, e.g. timm:resnet50.a1_in1k"),
        AvailableEncoder("timm:hf-hub:<org>/<model>", "a hub model in timm's format"),
    ]
    for key, model in FOUNDATION_MODELS.items():
        access = "ask for access at " if model.gated else ""
        page = f"{access}https://huggingface.co/{model.repository}"
        note = f"{model.parameters:.0f} M parameters, {page}"
        listed.append(AvailableEncoder(f"tiatoolbox:{key}", note, model.width))
    return listed + [
        AvailableEncoder(f"tiatoolbox:{key}", "torchvision's ImageNet weights")
        for key in TORCHVISION_BACKBONES
    ]
