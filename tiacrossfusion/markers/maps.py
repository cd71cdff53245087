"""Markers of a slide as GeoJSON for QuPath, and as a picture."""

from __future__ import annotations

import colorsys
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.explain.extent import clipped
from tiacrossfusion.io.atomic import write_text

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "tiacrossfusion markers")


def colour_of(marker: int) -> tuple[int, int, int]:
    """Return the colour of a marker as RGB."""
    hue = marker * 0.381966 % 1  # the golden section keeps hues of neighbouring numbers apart
    red, green, blue = colorsys.hls_to_rgb(hue, 0.62 if marker % 2 else 0.42, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def marker_name(marker: int) -> str:
    """Return the name of a marker; they are numbered from 1, the most frequent first."""
    return f"Marker {marker + 1}"


def visible(bag: FeatureBag, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds (N, 4) of patches within the slide, and (N,) whether anything is left of them."""
    bounds = bag.scales[scale].bounds
    assert bounds is not None  # noqa: S101 - the caller has looked
    return clipped(bounds, bag.provenance)


def write_marker_map(bag: FeatureBag, scale: str, labels: np.ndarray, path: Path) -> None:
    """Write the areas of each marker as an annotation of its own class.

    Coordinates are level-0 pixels of the image as QuPath opens it, clipped to the slide.

    Args:
        bag: with positions at `scale`.
        scale: of the patches.
        labels: (N,) marker of each patch.
        path: of the file.
    """
    made = bag.provenance
    bounds, shown = visible(bag, scale)
    bounds = bounds - np.tile(made.offset, 2)
    features: list[dict[str, Any]] = []
    for marker in np.unique(labels[shown]).tolist():
        rows = np.flatnonzero((labels == marker) & shown)
        area = shapely.unary_union(shapely.box(*_strips(bounds[rows]).T)).simplify(0)
        colour = list(colour_of(marker))
        measured = {"Patches": len(rows), "Share": round(len(rows) / len(labels), 6)}
        if made.mpp is not None:
            measured["Area um^2"] = float(f"{area.area * made.mpp[0] * made.mpp[1]:.6g}")
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, f"{made.slide}/{scale}/{marker}")),
                "geometry": _geometry(area),
                "properties": {
                    "objectType": "annotation",
                    "name": marker_name(marker),
                    "classification": {
                        "name": f"tiacrossfusion marker {marker + 1}",
                        "color": colour,
                    },
                    "isLocked": True,
                    "measurements": measured,
                },
            }
        )
    content = {
        "type": "FeatureCollection",
        "tiacrossfusion": {
            "slide": made.slide,
            "scale": scale,
            "notice": "Research use only, not for clinical use.",
        },
        "features": features,
    }
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


def _strips(boxes: np.ndarray) -> np.ndarray:
    """Join boxes (N, 4) of one height that touch from left to right; there are fewer to unite then."""
    boxes = boxes[np.lexsort((boxes[:, 0], boxes[:, 3], boxes[:, 1]))]
    goes_on = (boxes[1:, [1, 3]] == boxes[:-1, [1, 3]]).all(axis=1) & (
        boxes[1:, 0] == boxes[:-1, 2]
    )
    first = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    last = np.append(first[1:], len(boxes)) - 1
    return np.column_stack([boxes[first, :2], boxes[last, 2:]])


def _geometry(area: Any) -> dict[str, Any]:
    """Return polygons as GeoJSON, outer rings anticlockwise, in whole pixels."""
    parts = [
        [
            shapely.get_coordinates(ring).astype(np.int64).tolist()
            for ring in shapely.get_rings(shapely.geometry.polygon.orient(part, 1.0))
        ]
        for part in shapely.get_parts(area)
    ]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}
