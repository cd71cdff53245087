"""A slide that was read in part: its families as a picture and as GeoJSON."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from tiacrossfusion.explain.extent import clipped
from tiacrossfusion.outputs.colours import colour_table
from tiacrossfusion.outputs.figures import in_own_style, save_figure
from tiacrossfusion.outputs.values import origin

if TYPE_CHECKING:
    from tiacrossfusion.inference.reading import PartialReading
    from tiacrossfusion.inference.slide import SlideResult

PICTURE, GEOJSON = "_families.png", "_families.geojson"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "tiacrossfusion families")
_READ, _IMPUTED, _NOT_READ = "read", "imputed from 5x", "not read"
_GREY = (200, 200, 200)
#: Families that are numbered in the picture.
_RANKED = 5


def states(reading: PartialReading) -> list[str]:
    """Return for each family whether it was read, imputed from 5x, or nothing is known of it."""
    return [
        _READ if read else _IMPUTED if np.isfinite(effect) else _NOT_READ
        for read, effect in zip(reading.read, reading.effects, strict=True)
    ]


def most_apart(reading: PartialReading) -> list[int]:
    """Return the rows of the families that disagree most with what 5x tells, the largest first."""
    apart = np.nan_to_num(np.abs(reading.disagreement))
    rows = np.argsort(-apart, kind="stable")[:_RANKED]
    return [int(row) for row in rows if apart[row] > 0]


def write_families(result: SlideResult, path: Path) -> None:
    """Write the families as GeoJSON for QuPath: a tile each, with what was read of it."""
    reading = result.prediction.reading
    assert reading is not None  # noqa: S101 - asked for such slides only
    made, colours = result.bag.provenance, _colours(reading, _limit(result))
    bounds = _bounds(result, reading) - np.tile(made.offset, 2)
    ranks = {row: rank for rank, row in enumerate(most_apart(reading), 1)}
    features: list[dict[str, object]] = []
    for (x0, y0, x1, y1), state, colour, read, effect, apart in zip(
        bounds.tolist(),
        states(reading),
        colours.tolist(),
        reading.read.tolist(),
        reading.effects.tolist(),
        reading.disagreement.tolist(),
        strict=True,
    ):
        measured = {
            "Read": int(read),
            "Effect on the risk": effect,
            "Disagreement with 5x": apart,
            "Disagreement rank": ranks.get(len(features), math.nan),
        }
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, f"{made.slide}/{x0},{y0}")),
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
                },
                "properties": {
                    "objectType": "tile",
                    "color": colour,
                    "classification": {"name": f"tiacrossfusion {state}", "color": colour},
                    "measurements": {
                        name: float(f"{value:.6g}")
                        for name, value in measured.items()
                        if np.isfinite(value)
                    },
                },
            }
        )
    meanings = {
        "Read": "1: the 10x and 20x patches inside were read.",
        "Effect on the risk": "Change of the risk if the whole slide were like the family, to first order; "
        "of families that were not read, as 5x tells to expect.",
        "Disagreement with 5x": "How far that lies above what 5x tells to expect.",
        "Disagreement rank": "1 for the family that disagrees most, up to 5.",
    }
    content = {
        "type": "FeatureCollection",
        "tiacrossfusion": origin(result) | {"tiles": "families", "meanings": meanings},
        "features": features,
    }
    path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


@in_own_style
def families_figure(result: SlideResult, path: Path) -> None:
    """Draw the families: those read in full colour, those imputed from 5x pale and hatched, others empty."""
    reading = result.prediction.reading
    assert reading is not None  # noqa: S101 - asked for such slides only
    width, height = result.bag.provenance.dimensions or reading.cells[:, 2:].max(axis=0).tolist()
    bounds, limit = _bounds(result, reading), _limit(result)
    colours = _colours(reading, limit) / 255
    tall = 6.0 * height / width
    figure = Figure(figsize=(8.0, min(10.0, tall) + 1.6), dpi=110, facecolor="white")
    axes = figure.add_axes(
        (0.05, 1.1 / (min(10.0, tall) + 1.6), 0.9, 1 - 1.6 / (min(10.0, tall) + 1.6))
    )
    if result.overview is not None:
        axes.imshow(result.overview, extent=(0, width, height, 0), alpha=0.5)
    kinds = np.array(states(reading))
    for kind, opacity, hatch in (
        (_READ, 0.85, None),
        (_IMPUTED, 0.35, "////"),
        (_NOT_READ, 0.0, None),
    ):
        rows = np.flatnonzero(kinds == kind)
        cells = [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in bounds[rows].tolist()]
        drawn = PatchCollection(
            cells,
            facecolors=np.column_stack([colours[rows], np.full(len(rows), opacity)]),
            edgecolors=(0.45, 0.45, 0.45, 0.5) if kind != _READ else (0.1, 0.1, 0.1, 0.9),
            linewidths=0.3 if kind != _READ else 0.6,
            hatch=hatch,
        )
        axes.add_collection(drawn)
    for rank, row in enumerate(most_apart(reading), 1):
        x0, y0, x1, y1 = bounds[row].tolist()
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="black", linewidth=2)
        )
        axes.text((x0 + x1) / 2, (y0 + y1) / 2, str(rank), ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    axes.set_title(
        f"{result.name}: {int(reading.read.sum())} of {reading.families} families read "
        f"({reading.share:.0%}), risk {result.prediction.risk:.3f} "
        f"({reading.low:.3f} to {reading.high:.3f})",
        fontsize=10,
    )
    table = colour_table(signed=True) / 255
    labels = [
        Patch(facecolor=table[-30], edgecolor="0.1", label=f"{_READ}: raises the risk"),
        Patch(facecolor=table[30], edgecolor="0.1", label=f"{_READ}: lowers the risk"),
        Patch(facecolor=(*table[-30], 0.35), edgecolor="0.45", hatch="////", label=_IMPUTED),
    ]
    if (kinds == _NOT_READ).any():
        labels[-1] = Patch(facecolor="white", edgecolor="0.45", label=_NOT_READ)
    axes.legend(
        handles=labels, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncol=3, frameon=False
    )
    figure.text(
        0.5,
        0.25 / (min(10.0, tall) + 1.6),
        "Change of the risk if the whole slide were like the family, from "
        f"\u2212{limit:.2g} to +{limit:.2g}. "
        "Numbers: families that disagree most with what 5x tells. "
        f"{result.config.card.notice}",
        ha="center",
        fontsize=8,
        color="0.35",
        wrap=True,
    )
    save_figure(figure, path)


def _limit(result: SlideResult) -> float:
    """Return the effect that is drawn in full colour: one for all slides of a model that knows its risks."""
    reference = result.config.risk_reference
    reading = result.prediction.reading
    if reference is not None and reference.sd > 0:
        return 2 * reference.sd
    known = (
        np.abs(reading.effects[np.isfinite(reading.effects)]) if reading is not None else np.ones(1)
    )
    return float(known.max(initial=1e-9))


def _colours(reading: PartialReading, limit: float) -> np.ndarray:
    """Return a colour (F, 3) uint8 for each family, grey where nothing is known."""
    table = colour_table(signed=True)
    place = np.clip(np.nan_to_num(reading.effects) / limit, -1, 1)
    colours = table[np.rint((place + 1) / 2 * (len(table) - 1)).astype(int)].astype(np.uint8)
    return np.where(np.isfinite(reading.effects)[:, None], colours, np.array(_GREY, np.uint8))


def _bounds(result: SlideResult, reading: PartialReading) -> np.ndarray:
    """Return the bounds (F, 4) of the families, clipped to the slide."""
    return clipped(reading.cells, result.bag.provenance)[0]
