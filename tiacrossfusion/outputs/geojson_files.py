"""Scores as GeoJSON that QuPath loads: a tile for each patch, and the hotspots.

QuPath lists and colours measurements of tiles, not of annotations, so scores are measurements of tiles
and only the hotspots are annotations. QuPath rejects a file with one invalid feature, so values that are
not finite are left out, and no value is null.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import geojson
import numpy as np

from tiacrossfusion.explain.extent import clip_to_slide, tiles_of
from tiacrossfusion.explain.hotspots import Hotspot
from tiacrossfusion.explain.score import Score, colour_score
from tiacrossfusion.outputs.colours import HOTSPOTS, UNKNOWN, limit_of, score_colours
from tiacrossfusion.outputs.values import origin
from tiacrossfusion.outputs.writers import Writer

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.inference.slide import SlideResult

#: Suffix of each grid's file. The finest tiles have the scores of all stages, so their file comes first.
_SUFFIXES = {"20x": ".geojson", "10x": "_10x.geojson", "5x": "_5x.geojson"}

#: Level of gzip: at 4 the files are a tenth larger than at 9 and take a quarter of the time.
_COMPRESSION = 4

#: Classes of the hotspots. QuPath uses the colour given here only for a class that the user's project does
#: not have yet, so the names are ones that no other program uses.
_HOTSPOT_CLASSES = {
    kind: {"name": f"tiacrossfusion {name}", "color": list(HOTSPOTS[kind])}
    for kind, name in (
        ("raises", "raises the risk"),
        ("lowers", "lowers the risk"),
        ("attention", "highest attention"),
    )
}

#: Namespace of the ids: an object of a slide has the same id in every run.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "tiacrossfusion")


class QuPathWriter(Writer):
    """GeoJSON for QuPath: `<stem>.geojson` (finest tiles, hotspots), `<stem>_10x.geojson`, `_5x.geojson`.

    The finest tiles are those of 20x, unless the model reads less; the file of their own scale, and that of a
    scale that was not read, then has no tiles.

    The measurements of a tile are its scores, and the percentiles of unsigned scores; the file says under
    "meanings" what each shows.

    Coordinates are level-0 pixels of the image as QuPath opens it, that is without the slide's
    `offset`, clipped to the slide. Tiles are coloured by `colour_score`, which each file names. Two runs
    write the same bytes.
    """

    def __init__(self, *, gzip: bool = False) -> None:
        """Choose the suffixes."""
        super().__init__(gzip=gzip)
        compressed = ".gz" if gzip else ""
        self.suffixes = tuple(suffix + compressed for suffix in _SUFFIXES.values())

    def write(self, folder: Path, stem: str, result: SlideResult) -> None:
        """Write the three files."""
        record = origin(result)
        for scale, suffix in zip(_SUFFIXES, self.suffixes, strict=True):
            if scale == "20x":
                grid: str | None = result.bag.finest
            else:
                grid = scale if scale in result.bag.scales and scale != result.bag.finest else None
            scores = [] if grid is None else result.scores.get(grid, [])
            header = record | {"tiles": grid or scale, "colour": _colour(scores)}
            header |= {"meanings": {score.name: score.meaning for score in scores if score.meaning}}
            hotspots = result.hotspots if scale == "20x" else []
            features = (geojson.dumps(_hotspot_feature(result, hotspot)) for hotspot in hotspots)
            tiles = () if grid is None else _tile_features(result.bag, grid, scores)
            with _open(folder / f"{stem}{suffix}", compress=self.gzip) as file:
                file.write('{"type":"FeatureCollection",\n"tiacrossfusion":')
                file.write(json.dumps(header, ensure_ascii=False, allow_nan=False))
                file.write(',\n"features":[')
                separator = "\n"
                for feature in chain(features, tiles):
                    file.write(separator + feature)
                    separator = ",\n"
                file.write("\n]}\n")


def _colour(scores: Sequence[Score]) -> str:
    """Return the name of what colours the tiles, such as "percentile of fused"."""
    score = colour_score(scores)
    if score is None:
        return "no score"
    name = score.name.removeprefix("Attention ")
    if score.percentiles is not None:
        return f"percentile of {name}"
    limit = f"{limit_of(score):.3g} {score.unit}".rstrip()
    return f"{name}, blue -{limit} to red +{limit}, grey about 0"


@contextmanager
def _open(path: Path, *, compress: bool) -> Iterator[TextIO]:
    """Open a text file; gzip's header gets neither name nor time, so that two runs write the same bytes."""
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


def _tile_features(bag: FeatureBag, scale: str, scores: Sequence[Score]) -> Iterator[str]:
    """Yield each tile of a grid as the text of a GeoJSON feature.

    Dumping 150,000 `geojson.Feature`s would take three times as long.
    """
    bounds, shown = clip_to_slide(bag, scale)
    bounds = bounds - np.tile(bag.provenance.offset, 2)
    score = colour_score(scores)
    colours = np.full((len(bounds), 3), UNKNOWN) if score is None else score_colours(score)
    columns = [_members(score, shown) for score in scores] or [[""] * len(bounds)]
    prefix = f"{bag.provenance.slide}/{scale}/"
    for (x0, y0, x1, y1), (column, row), (red, green, blue), known in zip(
        bounds[shown].tolist(),
        tiles_of(bag, scale).grid[shown].tolist(),
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


def _members(score: Score, shown: np.ndarray) -> list[str]:
    """Format the values of shown tiles, and their percentiles, as JSON members; "" where not finite."""
    values, percentiles = score.values[shown], score.percentiles
    # Tiles inside one larger tile share its score, so each distinct value is formatted once.
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    numbers = values[first, None]
    name, rank = (
        json.dumps(text, ensure_ascii=False).replace("%", "%%")
        for text in (score.name, f"{score.name} percentile")
    )
    member = f"{name}:%.6g"
    if percentiles is not None:  # equal values have equal percentiles
        numbers = np.column_stack([numbers, percentiles[shown][first]])
        member += f",{rank}:%.6g"
    # Formatting all numbers at once takes half the time of formatting them one by one.
    texts = ("\n".join([member] * len(first)) % tuple(numbers.ravel().tolist())).split("\n")
    for unknown in np.flatnonzero(~np.isfinite(numbers).all(axis=1)):
        texts[unknown] = ""
    return [texts[index] for index in inverse.tolist()]


def _hotspot_feature(result: SlideResult, hotspot: Hotspot) -> geojson.Feature:
    """Return a hotspot as a locked annotation."""
    made, config = result.bag.provenance, result.config
    scores = {f"{name} mean": mean for name, mean in hotspot.means.items() if math.isfinite(mean)}
    if hotspot.area is not None:
        scores = {"Area um^2": hotspot.area} | scores
    coordinates = [(ring.astype(np.int64) - made.offset).tolist() for ring in hotspot.rings]
    return geojson.Feature(
        id=str(uuid.uuid5(_NAMESPACE, f"{made.slide}/{hotspot.kind}/{hotspot.rank}")),
        geometry=geojson.Polygon(coordinates),
        properties={
            "objectType": "annotation",
            "name": hotspot.name,
            "classification": _HOTSPOT_CLASSES[hotspot.kind],
            "isLocked": True,
            "measurements": {"Rank": hotspot.rank, "Tiles": hotspot.tiles}
            | {name: float(f"{value:.6g}") for name, value in scores.items()},
            "metadata": {"Model": config.name, "Notice": config.card.notice},
        },
    )
