"""Explain: attention and attribution as tiles and hotspots for QuPath and TIAToolbox, and figures to look at.

The names are loaded when they are first used: importing this room imports neither TIAToolbox nor
matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiacrossfusion.outputs.annotation_store import (
        open_store,
        write_annotation_store,
    )
    from tiacrossfusion.explain.attribution import Attribution, attribute
    from tiacrossfusion.explain.extent import why_no_maps
    from tiacrossfusion.explain.gallery import Gallery, read_gallery
    from tiacrossfusion.outputs.geojson_files import write_geojson
    from tiacrossfusion.explain.hotspots import Hotspot, find_hotspots
    from tiacrossfusion.outputs.overlay import attention_figure
    from tiacrossfusion.explain.rolled import rolled_scores
    from tiacrossfusion.explain.scores import (
        ATTRIBUTIONS,
        STAGES,
        TileScores,
        percentile_rank,
        tile_scores,
    )
    from tiacrossfusion.outputs.survival_plot import survival_figure

_MODULES = {
    "ATTRIBUTIONS": "scores",
    "Attribution": "attribution",
    "STAGES": "scores",
    "Gallery": "gallery",
    "Hotspot": "hotspots",
    "TileScores": "scores",
    "attention_figure": "overlay",
    "attribute": "attribution",
    "find_hotspots": "hotspots",
    "open_store": "annotation_store",
    "percentile_rank": "scores",
    "read_gallery": "gallery",
    "rolled_scores": "rolled",
    "survival_figure": "survival_plot",
    "tile_scores": "scores",
    "why_no_maps": "extent",
    "write_annotation_store": "annotation_store",
    "write_geojson": "geojson_files",
}

__all__ = [
    "ATTRIBUTIONS",
    "STAGES",
    "Attribution",
    "Gallery",
    "Hotspot",
    "TileScores",
    "attention_figure",
    "attribute",
    "find_hotspots",
    "open_store",
    "percentile_rank",
    "read_gallery",
    "rolled_scores",
    "survival_figure",
    "tile_scores",
    "why_no_maps",
    "write_annotation_store",
    "write_geojson",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
