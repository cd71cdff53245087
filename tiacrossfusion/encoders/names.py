"""Names of encoders: which family a name belongs to."""

import difflib
from collections.abc import Iterable
from typing import Literal, NamedTuple

from tiacrossfusion.encoders.foundation import FOUNDATION_MODELS
from tiacrossfusion.encoders.registry import ENCODERS
from tiacrossfusion.errors import UsageError

#: Keys of TIAToolbox's `torch_cnn_backbone_dict`. They are written down here because importing the
#: dictionary takes 15 s; a test compares the two.
TORCHVISION_BACKBONES = (
    *("alexnet", "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d"),
    *("resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2", "densenet121", "densenet161"),
    *("densenet169", "densenet201", "inception_v3", "googlenet", "mobilenet_v2"),
    *("mobilenet_v3_large", "mobilenet_v3_small"),
)
_TOOLBOX_NAMES = tuple(f"tiatoolbox:{key}" for key in (*TORCHVISION_BACKBONES, *FOUNDATION_MODELS))

#: How timm marks models of the Hugging Face hub.
_HUB_SCHEMES = ("hf-hub", "hf_hub")

Family = Literal["registered", "timm", "hub", "torchvision", "foundation"]


class EncoderName(NamedTuple):
    """A resolved name: the name of a model in its family; `hub` is timm's `hf-hub:org/model`."""

    family: Family
    model: str

    def __str__(self) -> str:
        """Canonical form, which `resolve_name` takes back."""
        prefixes = {"registered": "", "timm": "timm:", "hub": "timm:hf-hub:"}
        return prefixes.get(self.family, "tiatoolbox:") + self.model


def _unknown(name: str, candidates: Iterable[str]) -> UsageError:
    # Matched without prefixes and case, so that `uni-2` finds `tiatoolbox:UNI2`.
    forms = {
        candidate.partition(":")[2].lower() or candidate: candidate for candidate in candidates
    }
    wanted = name.partition(":")[2] or name
    nearest = difflib.get_close_matches(wanted.lower(), forms, n=1, cutoff=0.5)
    hint = f"did you mean {forms[nearest[0]]!r}? " if nearest else ""
    return UsageError(f"unknown encoder {name!r}: {hint}`tiacf encoders` lists the names")


def resolve_name(name: str) -> EncoderName:
    """Return the encoder that `name` means.

    A registered name comes first; another one without a prefix is taken when exactly one family has
    it. timm is imported only to look up its own or an unprefixed name, and TIAToolbox never.

    Raises:
        TiacfError: no family has the name, or more than one has.
    """
    if ":" not in name and name in ENCODERS:
        return EncoderName("registered", name)
    prefix, _, model = name.rpartition(":") if name.count(":") < 2 else name.partition(":")
    if prefix in _HUB_SCHEMES:
        prefix, model = "timm", name  # only timm has these
    toolbox: Family | None = "torchvision" if model in TORCHVISION_BACKBONES else None
    if model in FOUNDATION_MODELS:
        toolbox = "foundation"

    if prefix == "tiatoolbox":
        if toolbox:
            return EncoderName(toolbox, model)
        raise _unknown(name, _TOOLBOX_NAMES)
    if prefix == "timm":
        scheme, colon, repository = model.partition(":")
        if colon and scheme in _HUB_SCHEMES and repository.count("/") == 1:
            return EncoderName("hub", repository)
    elif prefix:
        raise _unknown(name, (*ENCODERS.names(), *_TOOLBOX_NAMES))

    import timm

    in_timm = timm.is_model(model) and _tag_exists(model)
    if in_timm and toolbox and not prefix:
        raise UsageError(
            f"encoder {name!r} is in timm and in TIAToolbox: "
            f"say 'timm:{name}' or 'tiatoolbox:{name}'"
        )
    if in_timm:
        return EncoderName("timm", model)
    if toolbox and not prefix:
        return EncoderName(toolbox, model)
    candidates = [f"timm:{key}" for key in (*timm.list_models(), *timm.list_pretrained())]
    if not prefix:
        candidates += [*ENCODERS.names(), *_TOOLBOX_NAMES]
    raise _unknown(name, candidates)


def _tag_exists(model: str) -> bool:
    """Whether timm knows the pretrained tag of `model` (`a1_in1k` of `resnet50.a1_in1k`)."""
    from timm.models import list_pretrained

    architecture, dot, _ = model.partition(".")
    return not dot or model in list_pretrained(f"{architecture}.*")
