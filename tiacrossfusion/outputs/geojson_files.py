"""Scores as GeoJSON that QuPath loads: a tile for each patch, and the hotspots.

QuPath lists and colours measurements of tiles, not of annotations, so scores stand on tiles and
only the hotspots are annotations. One bad feature makes QuPath refuse the whole file: what is not
finite is left out, and no value is ever null.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import geojson
import numpy as np

from tiacrossfusion.explain.extent import clip_to_slide, tiles_of
from tiacrossfusion.explain.hotspots import Hotspot
from tiacrossfusion.explain.scores import TileScores
from tiacrossfusion.outputs.colours import HOTSPOT, percentile_colours
from tiacrossfusion.outputs.origin import origin

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag

#: Ending of each grid's file. The 20x tiles carry the scores of all stages, so theirs is the file
#: to open first.
FILE_ENDINGS = {"20x": ".geojson", "10x": "_10x.geojson", "5x": "_5x.geojson"}

#: What a compressed file's name ends with as well; QuPath opens it as it is.
COMPRESSED = ".gz"

#: Of 1 (fast) to 9: at 4 the files are a tenth larger than at 9, in a quarter of the time.
_COMPRESSION = 4

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
    compress: bool = False,
) -> list[Path]:
    """Write `<stem>.geojson` (20x tiles and hotspots), `<stem>_10x.geojson`, `<stem>_5x.geojson`.

    Tiles carry their attention at each stage with its percentile, and attribution where it is known.

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
        compress: write gzip, with ".gz" at the end of the names.

    Returns:
        The three files, the 20x file first.

    Raises:
        TiacfError: it is not known where the patches of the bag lie.
    """
    record = origin(bag, model=model, note=note)
    paths = []
    for scale, ending in FILE_ENDINGS.items():
        path = Path(folder) / f"{stem}{ending}{COMPRESSED if compress else ''}"
        header = record | {"tiles": scale, "colour": f"percentile of {scores[scale].colour}"}
        with _open(path, compress=compress) as file:
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


@contextmanager
def _open(path: Path, *, compress: bool) -> Iterator[TextIO]:
    """Open a file for text, which is compressed without name and time so that the bytes are the same."""
    if not compress:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", _COMPRESSION, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
    ):
        yield file


def _tile_features(bag: FeatureBag, scores: TileScores) -> Iterator[str]:
    """Yield each tile of a grid as the text of a GeoJSON feature.

    The text is put together here: making 150,000 `geojson.Feature`s and dumping them takes three
    times as long. Only numbers and fixed names go in, so nothing needs escaping.
    """
    bounds, shown = clip_to_slide(bag, scores.scale)
    bounds = bounds - np.tile(bag.provenance.offset, 2)
    colours = percentile_colours(scores.percentiles[scores.colour_stage])
    columns = [
        _members(scores.measurement(stage), values[shown], scores.percentiles[stage][shown])
        for stage, values in scores.values.items()
    ] + [
        _members(scores.attribution_measurement(name), values[shown])
        for name, values in scores.attributions.items()
    ]
    prefix = f"{bag.provenance.slide}/{scores.scale}/"
    for (x0, y0, x1, y1), (column, row), (red, green, blue), known in zip(
        bounds[shown].tolist(),
        tiles_of(bag, scores.scale).grid[shown].tolist(),
        colours[shown].tolist(),
        zip(*columns, strict=True),
        strict=True,
    ):
        yield (
            f'{{"type":"Feature","id":"{uuid.uuid5(_NAMESPACE, f"{prefix}{column},{row}")}",'
            f'"geometry":{{"type":"Polygon","coordinates":'
            f"[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]}},"
            f'"properties":{{"objectType":"tile","color":[{red},{green},{blue}],'
            f'"measurements":{{{",".join(filter(None, known))}}}}}}}'
        )


def _members(name: str, values: np.ndarray, percentiles: np.ndarray | None = None) -> list[str]:
    """Write out a score, and its percentile where it has one, as JSON members; "" where not finite.

    Args:
        name: of the score in QuPath.
        values: (N,).
        percentiles: (N,), a function of the values.
    """
    # Tiles inside one larger tile share its score: each different value is written out once.
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    numbers = values[first, None]
    member = f'"{name}":%.6g'
    if percentiles is not None:
        numbers = np.column_stack([numbers, percentiles[first]])
        member += f',"{name} percentile":%.6g'
    # One long formatting of all numbers takes half of the time of one for each.
    texts = ("\n".join([member] * len(first)) % tuple(numbers.ravel().tolist())).split("\n")
    for unknown in np.flatnonzero(~np.isfinite(numbers).all(axis=1)):
        texts[unknown] = ""
    return [texts[index] for index in inverse.tolist()]


def _hotspot_feature(bag: FeatureBag, hotspot: Hotspot, model: str, note: str) -> geojson.Feature:
    """Make a hotspot a locked annotation."""
    scores = {f"{name} mean": mean for name, mean in hotspot.means.items() if math.isfinite(mean)}
    if hotspot.area is not None:
        scores = {"Area um^2": hotspot.area} | scores
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
                "Tiles": hotspot.tiles,
                **{name: float(f"{value:.6g}") for name, value in scores.items()},
            },
            "metadata": {"Model": model, "Notice": note},
        },
    )
