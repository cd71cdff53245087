"""Survival prediction from whole-slide images with CrossFusion, as a plugin for TIAToolbox.

The public names are loaded when they are first used: `import tiacrossfusion` imports neither torch nor
TIAToolbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bags.bag": ["FeatureBag"],
        "encoders.loading": ["load_encoder"],
        "errors": ["TiacfError", "UsageError"],
        "models.bundle": ["load_bundle"],
        "models.source": ["ModelSource"],
        "networks.crossfusion": ["CrossFusion"],
        "networks.official": ["load_official_checkpoint"],
        "runs.extraction": ["ExtractionOptions", "extract"],
        "runs.runner": ["Outcome"],
        "slides.options": ["ReadOptions", "Scale"],
        "slides.spec": ["SamplingSpec"],
        "toolbox.engine": ["SurvivalPredictor"],
        "toolbox.model": ["CrossFusionModel"],
    },
)

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag as FeatureBag
    from tiacrossfusion.encoders.loading import load_encoder as load_encoder
    from tiacrossfusion.errors import TiacfError as TiacfError
    from tiacrossfusion.errors import UsageError as UsageError
    from tiacrossfusion.models.bundle import load_bundle as load_bundle
    from tiacrossfusion.models.source import ModelSource as ModelSource
    from tiacrossfusion.networks.crossfusion import CrossFusion as CrossFusion
    from tiacrossfusion.networks.official import (
        load_official_checkpoint as load_official_checkpoint,
    )
    from tiacrossfusion.runs.extraction import ExtractionOptions as ExtractionOptions
    from tiacrossfusion.runs.extraction import extract as extract
    from tiacrossfusion.runs.runner import Outcome as Outcome
    from tiacrossfusion.slides.options import ReadOptions as ReadOptions
    from tiacrossfusion.slides.options import Scale as Scale
    from tiacrossfusion.slides.spec import SamplingSpec as SamplingSpec
    from tiacrossfusion.toolbox.engine import SurvivalPredictor as SurvivalPredictor
    from tiacrossfusion.toolbox.model import CrossFusionModel as CrossFusionModel
