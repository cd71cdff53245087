"""CrossFusion survival prediction from whole-slide images, for TIAToolbox.

The public names below are loaded when they are first used: importing the package costs nothing, while
torch and TIAToolbox's engines take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiacrossfusion.encoders import load_encoder
    from tiacrossfusion.errors import TiacfError, UsageError
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.networks import CrossFusion, load_official_checkpoint
    from tiacrossfusion.slides import SamplingSpec
    from tiacrossfusion.toolbox import CrossFusionModel, SurvivalPredictor
    from tiacrossfusion.models import load_bundle

__version__ = "0.1.0"

_HOMES = {
    "CrossFusion": "networks",
    "CrossFusionModel": "toolbox",
    "FeatureBag": "features",
    "SamplingSpec": "sampling",
    "SurvivalPredictor": "toolbox",
    "TiacfError": "errors",
    "UsageError": "errors",
    "load_bundle": "zoo",
    "load_encoder": "encoders",
    "load_official_checkpoint": "networks",
}

__all__ = [
    "CrossFusion",
    "CrossFusionModel",
    "FeatureBag",
    "SamplingSpec",
    "SurvivalPredictor",
    "TiacfError",
    "UsageError",
    "load_bundle",
    "load_encoder",
    "load_official_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
