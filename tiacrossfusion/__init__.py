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
        "audit.api": ["audit_model"],
        "audit.slides": ["audit_slides"],
        "bags.bag": ["FeatureBag"],
        "bags.stores": ["STORES"],
        "encoders.loading": ["load_encoder"],
        "encoders.registry": ["ENCODERS"],
        "errors": ["TiacfError", "UsageError"],
        "evaluation.api": [
            "Clinic",
            "evaluate_external",
            "evaluate_faithfulness",
            "evaluate_predictions",
        ],
        "explain.score": ["Score"],
        "explain.scores": ["SCORES"],
        "inference.budget": ["Budget"],
        "inference.prediction": ["Prediction", "predict_bag"],
        "markers.making": ["make_markers"],
        "models.bundle": ["ModelBundle", "load_bundle", "save_bundle"],
        "models.source": ["ModelSource"],
        "networks.base": ["SurvivalNetwork"],
        "networks.crossfusion": ["CrossFusion"],
        "networks.official": ["load_official_checkpoint"],
        "networks.output": ["SurvivalOutput"],
        "networks.registry": ["NETWORKS"],
        "networks.tokens": ["SlideTokens"],
        "outputs.writers": ["WRITERS", "Writer"],
        "runs.extraction": ["extract"],
        "runs.extraction_task": ["ExtractionOptions"],
        "runs.runner": ["Outcome"],
        "slides.options": ["ReadOptions", "Scale"],
        "slides.spec": ["SamplingSpec"],
        "toolbox.engine": ["SurvivalPredictor"],
        "toolbox.model": ["CrossFusionModel", "NestedFusionModel", "SurvivalModel"],
        "training.api": ["train"],
        "training.config": ["TrainingConfig"],
        "training.distillation": ["distil"],
    },
)

if TYPE_CHECKING:
    from tiacrossfusion.audit.api import audit_model as audit_model
    from tiacrossfusion.audit.slides import audit_slides as audit_slides
    from tiacrossfusion.bags.bag import FeatureBag as FeatureBag
    from tiacrossfusion.bags.stores import STORES as STORES
    from tiacrossfusion.encoders.loading import load_encoder as load_encoder
    from tiacrossfusion.encoders.registry import ENCODERS as ENCODERS
    from tiacrossfusion.errors import TiacfError as TiacfError
    from tiacrossfusion.errors import UsageError as UsageError
    from tiacrossfusion.evaluation.api import Clinic as Clinic
    from tiacrossfusion.evaluation.api import evaluate_external as evaluate_external
    from tiacrossfusion.evaluation.api import evaluate_faithfulness as evaluate_faithfulness
    from tiacrossfusion.evaluation.api import evaluate_predictions as evaluate_predictions
    from tiacrossfusion.explain.score import Score as Score
    from tiacrossfusion.explain.scores import SCORES as SCORES
    from tiacrossfusion.inference.budget import Budget as Budget
    from tiacrossfusion.inference.prediction import Prediction as Prediction
    from tiacrossfusion.inference.prediction import predict_bag as predict_bag
    from tiacrossfusion.markers.making import make_markers as make_markers
    from tiacrossfusion.models.bundle import ModelBundle as ModelBundle
    from tiacrossfusion.models.bundle import load_bundle as load_bundle
    from tiacrossfusion.models.bundle import save_bundle as save_bundle
    from tiacrossfusion.models.source import ModelSource as ModelSource
    from tiacrossfusion.networks.base import SurvivalNetwork as SurvivalNetwork
    from tiacrossfusion.networks.crossfusion import CrossFusion as CrossFusion
    from tiacrossfusion.networks.official import (
        load_official_checkpoint as load_official_checkpoint,
    )
    from tiacrossfusion.networks.output import SurvivalOutput as SurvivalOutput
    from tiacrossfusion.networks.registry import NETWORKS as NETWORKS
    from tiacrossfusion.networks.tokens import SlideTokens as SlideTokens
    from tiacrossfusion.outputs.writers import WRITERS as WRITERS
    from tiacrossfusion.outputs.writers import Writer as Writer
    from tiacrossfusion.runs.extraction import extract as extract
    from tiacrossfusion.runs.extraction_task import ExtractionOptions as ExtractionOptions
    from tiacrossfusion.runs.runner import Outcome as Outcome
    from tiacrossfusion.slides.options import ReadOptions as ReadOptions
    from tiacrossfusion.slides.options import Scale as Scale
    from tiacrossfusion.slides.spec import SamplingSpec as SamplingSpec
    from tiacrossfusion.toolbox.engine import SurvivalPredictor as SurvivalPredictor
    from tiacrossfusion.toolbox.model import CrossFusionModel as CrossFusionModel
    from tiacrossfusion.toolbox.model import NestedFusionModel as NestedFusionModel
    from tiacrossfusion.toolbox.model import SurvivalModel as SurvivalModel
    from tiacrossfusion.training.api import train as train
    from tiacrossfusion.training.config import TrainingConfig as TrainingConfig
    from tiacrossfusion.training.distillation import distil as distil
