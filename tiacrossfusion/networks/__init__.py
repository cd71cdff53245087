"""The survival networks: plain `torch.nn`, importing torch and nothing of the toolbox."""

from tiacrossfusion.networks.crossfusion import CrossFusion
from tiacrossfusion.networks.official import load_official_checkpoint
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput

__all__ = ["AttentionScores", "CrossFusion", "SurvivalOutput", "load_official_checkpoint"]
