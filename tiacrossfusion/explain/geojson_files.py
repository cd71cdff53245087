"""Attention as GeoJSON that QuPath loads: a tile for each patch, and the hotspots.

QuPath lists and colours measurements of tiles, not of annotations, so attention stands on tiles and
only the hotspots are annotations. One bad feature makes QuPath refuse the whole file: what is not
finite is left out, and no value is ever null.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import geojson
import numpy as np

from tiacrossfusion.explain.colours import HOTSPOT, percentile_colours
from tiacrossfusion.explain.extent import clip_to_slide
from tiacrossfusion.explain.hotspots import Hotspot
from tiacrossfusion.explain.provenance import origin
from tiacrossfusion.explain.scores import TileScores

if TYPE_CHECKING:
    from tiacrossfusion.features import FeatureBag

#: Ending of each grid's file. The 20x tiles carry the scores of all stages, so theirs is the file
#: to open first.
FILE_ENDINGS = {"20x": ".geojson", "10x": "_10x.geojson", "5x": "_5x.geojson"}

#: Class of the hotspots. QuPath takes the colour of a class only when the class is new to the
#: user's project, hence a name that nobody else gives.
HOTSPOT_CLASS = {"name": "CrossFusion attention hotspot", "color": list(HOTSPOT)}

#: Objects of the same slide have the same ids in every run.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "tiacrossfusion")


def write_geojson(
    folder: Path,
    stem: str,
    bag: FeatureBag,
    scores: Mapping[str, TileScores],
    hotspots: Sequence[Hotspot],
    *,
    model: str,
    note: str,
) -> list[Path]:
    """Write `<stem>.geojson` (20x tiles and hotspots), `<stem>_10x.geojson`, `<stem>_5x.geojson`.

    Coordinates are level-0 pixels of the image as QuPath opens it, that is without the slide's
    `offset`, cut at its borders. Tiles are coloured by the percentile of the fused attention in the
    20x file and of the grid's own attention in the others, or by the 20x attention where the network
    has no such; each file says by which. Two runs write the same bytes.

    Args:
        folder: an existing folder.
        stem: beginning of the file names.
        bag: bag of the slide.
        scores: what `tile_scores` gave.
        hotspots: what `find_hotspots` gave.
        model: name of the model.
        note: what the result may be used for.

    Returns:
        The three files, the 20x file first.
    """
    record = origin(bag, model=model, note=note)
    paths = []
    for scale, ending in FILE_ENDINGS.items():
        path = Path(folder) / f"{stem}{ending}"
        header = record | {"tiles": scale, "colour": f"percentile of {scores[scale].colour}"}
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write('{"type":"FeatureCollection",\n"tiacrossfusion":')
            file.write(json.dumps(header, ensure_ascii=False, allow_nan=False))
            file.write(',\n"features":[')
            separator = "\n"
            if scale == "20x":
                for hotspot in hotspots:
                    file.write(
                        separator + geojson.dumps(_hotspot_feature(bag, hotspot, model, note))
                    )
                    separator = ",\n"
            for feature in _tile_features(bag, scores[scale]):
                file.write(separator + feature)
                separator = ",\n"
            file.write("\n]}\n")
        paths.append(path)
    return paths


def _tile_features(bag: FeatureBag, scores: TileScores) -> Iterator[str]:
    """Yield each tile of a grid as the text of a GeoJSON feature.

    The text is put together here: making 150,000 `geojson.Feature`s and dumping them takes three
    times as long. Only numbers and fixed names go in, so nothing needs escaping.
    """
    bounds, shown = clip_to_slide(bag, scores.scale)
    bounds = bounds - np.tile(bag.provenance.offset, 2)
    colours = percentile_colours(scores.percentiles[scores.colour_stage])
    measurements = zip(
        *(_measurements(scores, stage, shown) for stage in scores.values), strict=True
    )
    prefix = f"{bag.provenance.slide}/{scores.scale}/"
    for (x0, y0, x1, y1), (column, row), (red, green, blue), known in zip(
        bounds[shown].tolist(),
        bag.scales[scores.scale].grid[shown].tolist(),
        colours[shown].tolist(),
        measurements,
        strict=True,
    ):
        yield (
            f'{{"type":"Feature","id":"{uuid.uuid5(_NAMESPACE, f"{prefix}{column},{row}")}",'
            f'"geometry":{{"type":"Polygon","coordinates":'
            f"[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]}},"
            f'"properties":{{"objectType":"tile","color":[{red},{green},{blue}],'
            f'"measurements":{{{",".join(filter(None, known))}}}}}}}'
        )


def _measurements(scores: TileScores, stage: str, shown: np.ndarray) -> list[str]:
    """Value and percentile of a stage for each shown tile, as JSON members; "" where not finite."""
    values, percentiles = scores.values[stage][shown], scores.percentiles[stage][shown]
    name = scores.measurement(stage)
    # Tiles inside one larger tile share its attention: each different value is written out once.
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    texts = [
        f'"{name}":{value:.6g},"{name} percentile":{percentile:.6g}' if math.isfinite(value) else ""
        for value, percentile in zip(
            values[first].tolist(), percentiles[first].tolist(), strict=True
        )
    ]
    return [texts[index] for index in inverse.tolist()]


def _hotspot_feature(bag: FeatureBag, hotspot: Hotspot, model: str, note: str) -> geojson.Feature:
    """Make a hotspot a locked annotation."""
    rings = [hotspot.polygon.exterior, *hotspot.polygon.interiors]
    coordinates = [
        (np.asarray(ring.coords).astype(np.int64) - bag.provenance.offset).tolist()
        for ring in rings
    ]
    return geojson.Feature(
        id=str(uuid.uuid5(_NAMESPACE, f"{bag.provenance.slide}/hotspot/{hotspot.rank}")),
        geometry=geojson.Polygon(coordinates),
        properties={
            "objectType": "annotation",
            "name": hotspot.name,
            "classification": HOTSPOT_CLASS,
            "isLocked": True,
            "measurements": {
                "Rank": hotspot.rank,
                f"Attention {hotspot.stage} mean": float(f"{hotspot.attention:.6g}"),
                "Tiles": hotspot.tiles,
                "Area um^2": float(f"{hotspot.area:.6g}"),
            },
            "metadata": {"Model": model, "Notice": note},
        },
    )
