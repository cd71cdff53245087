"""TIAToolbox's shapes: a model and an engine that are thin adapters on the rooms of this package."""

from tiacrossfusion.toolbox.engine import SurvivalPredictor
from tiacrossfusion.toolbox.model import CrossFusionModel

__all__ = ["CrossFusionModel", "SurvivalPredictor"]
