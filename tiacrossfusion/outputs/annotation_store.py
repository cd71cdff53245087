"""Scores as a TIAToolbox annotation store, for `tiatoolbox visualize`.

The toolbox colours annotations by a property whose value lies in 0 to 1: percentiles are stored as
shares, and attribution so that 0.5 is none. It reads the whole image, so coordinates keep the slide's
offset.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from tiatoolbox.annotation.storage import Annotation, SQLiteStore

from tiacrossfusion.explain.extent import clip_to_slide, tiles_of
from tiacrossfusion.explain.hotspots import Hotspot
from tiacrossfusion.explain.scores import TileScores
from tiacrossfusion.outputs.colours import signed_shares
from tiacrossfusion.outputs.origin import origin

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag

#: Values of the property "type", by which the toolbox's viewer shows and hides annotations.
TILE_TYPE, HOTSPOT_TYPE = "Tile", "Hotspot"


class _SQLiteStore(SQLiteStore):
    """The toolbox's store, on every Python.

    `SQLiteStore.compile_options` (2.1.3) calls `enable_load_extension`, which it does not need and
    which Pythons built without loadable SQLite extensions lack (pyenv's and macOS's by default).
    """

    @staticmethod
    def compile_options() -> list[str]:
        """List the options that SQLite was compiled with."""
        with closing(sqlite3.connect(":memory:")) as connection:
            return [option for (option,) in connection.execute("pragma compile_options")]


def open_store(path: Path) -> SQLiteStore:
    """Open an annotation store, or make an empty one where there is no file."""
    return _SQLiteStore(path)


def write_annotation_store(
    path: Path,
    bag: FeatureBag,
    scores: TileScores,
    hotspots: Sequence[Hotspot],
    *,
    model: str,
    note: str,
) -> None:
    """Write the 20x tiles and the hotspots of a slide as a store.

    Each annotation has a "type" and, per stage, the property "attention_5x" and so on to
    "attention_fused": its percentile divided by 100, the mean over its tiles for a hotspot. Tiles
    have "attribution_5x" and so on to "attribution_total" too, from 0 (lowers the risk most of the
    slide's tiles) to 1 (raises it most). What is not known is left out. Hotspots have a "name", a
    "rank" and the mean of each score under its name in QuPath. The store's metadata hold the origin
    under "tiacrossfusion".

    Args:
        path: where there is no file yet; should end in ".db", by which the toolbox knows a store.
        bag: bag of the slide.
        scores: scores of its 20x grid.
        hotspots: what `find_hotspots` gave.
        model: name of the model.
        note: what the result may be used for.
    """
    with closing(open_store(path)) as store:
        store.metadata["tiacrossfusion"] = origin(bag, model=model, note=note)
        annotations = dict(_tiles(bag, scores))
        for hotspot in hotspots:
            properties = {"type": HOTSPOT_TYPE, "name": hotspot.name, "rank": hotspot.rank}
            shares = {
                f"attention_{stage}": round(percentile / 100, 6)
                for stage, percentile in hotspot.percentiles.items()
            }
            means = {name: float(f"{mean:.6g}") for name, mean in hotspot.means.items()}
            annotations[f"hotspot_{hotspot.rank}"] = Annotation(
                hotspot.polygon,
                properties | _finite(shares) | _finite(means),
            )
        store.append_many(list(annotations.values()), list(annotations))


def _tiles(bag: FeatureBag, scores: TileScores) -> Iterator[tuple[str, Annotation]]:
    """Yield the key, such as "20x_3_7" for column 3 and row 7, and the annotation of each tile."""
    bounds, shown = clip_to_slide(bag, "20x")
    boxes = shapely.box(*bounds[shown].T)
    columns = {f"attention_{stage}": ranks / 100 for stage, ranks in scores.percentiles.items()}
    columns |= {
        f"attribution_{name}": signed_shares(values) for name, values in scores.attributions.items()
    }
    shares = np.stack([column[shown] for column in columns.values()], axis=1).round(6)
    for (column, row), polygon, known in zip(
        tiles_of(bag, "20x").grid[shown].tolist(), boxes, shares.tolist(), strict=True
    ):
        properties = _finite(dict(zip(columns, known, strict=True)))
        yield f"20x_{column}_{row}", Annotation(polygon, {"type": TILE_TYPE} | properties)


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is not finite."""
    return {name: number for name, number in numbers.items() if math.isfinite(number)}
