"""Explain: attention as tiles and hotspots for QuPath and TIAToolbox, and figures to look at.

The names are loaded when they are first used: importing this room imports neither TIAToolbox nor
matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiacrossfusion.explain.annotation_store import open_store, write_annotation_store
    from tiacrossfusion.explain.geojson_files import write_geojson
    from tiacrossfusion.explain.hotspots import Hotspot, find_hotspots
    from tiacrossfusion.explain.overlay import attention_figure
    from tiacrossfusion.explain.scores import STAGES, TileScores, percentile_rank, tile_scores
    from tiacrossfusion.explain.survival_plot import survival_figure

_MODULES = {
    "STAGES": "scores",
    "Hotspot": "hotspots",
    "TileScores": "scores",
    "attention_figure": "overlay",
    "find_hotspots": "hotspots",
    "open_store": "annotation_store",
    "percentile_rank": "scores",
    "survival_figure": "survival_plot",
    "tile_scores": "scores",
    "write_annotation_store": "annotation_store",
    "write_geojson": "geojson_files",
}

__all__ = [
    "STAGES",
    "Hotspot",
    "TileScores",
    "attention_figure",
    "find_hotspots",
    "open_store",
    "percentile_rank",
    "survival_figure",
    "tile_scores",
    "write_annotation_store",
    "write_geojson",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
