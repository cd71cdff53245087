"""The list of encoders, for `tiacf encoders`."""

from dataclasses import dataclass

from tiacrossfusion.encoders.foundation import FOUNDATION_MODELS
from tiacrossfusion.encoders.names import TORCHVISION_BACKBONES
from tiacrossfusion.encoders.registry import ENCODERS, SHIPPED


@dataclass(frozen=True, slots=True)
class AvailableEncoder:
    """One line of the list.

    Attributes:
        name: what `load_encoder` takes; patterns such as `timm:<model>` stand for many.
        width: number of features of a patch, where it is known without loading.
        offline: whether it works without network access and without a file. The others work offline with
            `--encoder-weights FILE`.
        note: one line.
    """

    name: str
    width: int | None
    offline: bool
    note: str


def available_encoders() -> list[AvailableEncoder]:
    """List the encoders: the registered ones, the toolbox's, and how to name timm's."""
    from tiacrossfusion.encoders.stain_texture import FEATURE_NAMES

    listed = [
        AvailableEncoder(
            SHIPPED, len(FEATURE_NAMES), offline=True, note="ships with the package, not learned"
        ),
        *(
            AvailableEncoder(name, None, offline=False, note=f"of {package}")
            for name in ENCODERS.names()
            if (package := ENCODERS.package(name)) is not None
        ),
        AvailableEncoder(
            "timm:<model>",
            None,
            offline=False,
            note="any model of timm, e.g. timm:resnet50.a1_in1k",
        ),
        AvailableEncoder(
            "timm:hf-hub:<org>/<model>", None, offline=False, note="a hub model in timm's format"
        ),
    ]
    listed += [
        AvailableEncoder(
            f"tiatoolbox:{key}",
            model.width,
            offline=False,
            note=(
                f"{model.parameters:.0f} M parameters, "
                + ("ask for access at " if model.gated else "")
                + f"https://huggingface.co/{model.repository}"
            ),
        )
        for key, model in FOUNDATION_MODELS.items()
    ]
    listed += [
        AvailableEncoder(
            f"tiatoolbox:{key}", None, offline=False, note="torchvision's ImageNet weights"
        )
        for key in TORCHVISION_BACKBONES
    ]
    return listed
