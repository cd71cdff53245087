"""The survival networks: plain `torch.nn`, importing torch and nothing of the toolbox."""

from tiacrossfusion.networks.attention_trace import (
    AttentionTrace,
    trace_attention,
)
from tiacrossfusion.networks.crossfusion import CrossFusion
from tiacrossfusion.networks.ensemble import Ensemble
from tiacrossfusion.networks.official import load_official_checkpoint
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput
from tiacrossfusion.networks.registry import (
    NETWORKS,
    build_network,
    network_sizes,
)
from tiacrossfusion.networks.rollout import RolledAttention, rolled_attention
from tiacrossfusion.networks.trained import TrainedNetwork

__all__ = [
    "NETWORKS",
    "AttentionScores",
    "AttentionTrace",
    "CrossFusion",
    "Ensemble",
    "RolledAttention",
    "SurvivalOutput",
    "TrainedNetwork",
    "build_network",
    "load_official_checkpoint",
    "network_sizes",
    "rolled_attention",
    "trace_attention",
]
