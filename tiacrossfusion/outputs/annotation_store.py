"""Scores as a TIAToolbox annotation store, for `tiatoolbox visualize`.

Scores have the same names as in GeoJSON. The toolbox colours annotations by a property between 0 and 1,
so percentiles are divided by 100 and signed scores are scaled so that 0.5 means zero. It shows the whole
image, so coordinates include the slide's offset.
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
from tiacrossfusion.explain.score import Score
from tiacrossfusion.outputs.colours import score_shares
from tiacrossfusion.outputs.values import origin
from tiacrossfusion.outputs.writers import Writer

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.inference.slide import SlideResult

#: Values of the property "type", by which the toolbox's viewer shows and hides annotations.
TILE_TYPE, HOTSPOT_TYPE = "Tile", "Hotspot"


class _SQLiteStore(SQLiteStore):
    """The toolbox's store for Pythons without loadable SQLite extensions (pyenv's and macOS's by default).

    They lack `enable_load_extension`, which the toolbox (2.1.3) calls here without need.
    """

    @staticmethod
    def compile_options() -> list[str]:
        """Return the options that SQLite was compiled with."""
        with closing(sqlite3.connect(":memory:")) as connection:
            return [option for (option,) in connection.execute("pragma compile_options")]


def open_annotation_store(path: Path) -> SQLiteStore:
    """Open an annotation store; an empty one is made when the file does not exist."""
    return _SQLiteStore(path)


class AnnotationStoreWriter(Writer):
    """A TIAToolbox annotation store, `<stem>.db`, with the 20x tiles and the hotspots.

    Each annotation has a "type". Tiles have "Attention fused percentile" and so on, divided by 100, and
    signed scores such as "Attribution total" from 0 (lowers the risk most) to 1 (raises it most), without
    those about zero.
    Hotspots have a "name", a "rank", the mean percentile of their tiles divided by 100, and the mean of
    every score, such as "Attribution total mean", in the score's unit. Unknown values are left out. The
    store's metadata contain the origin under "tiacrossfusion".
    """

    suffixes = (".db",)

    def write(self, folder: Path, stem: str, result: SlideResult) -> None:
        """Write the store."""
        with closing(open_annotation_store(folder / f"{stem}.db")) as store:
            store.metadata["tiacrossfusion"] = origin(result)
            annotations = dict(_tiles(result.bag, result.scores[result.bag.finest]))
            for hotspot in result.hotspots:
                properties = {"type": HOTSPOT_TYPE, "name": hotspot.name, "rank": hotspot.rank}
                properties["kind"] = hotspot.kind
                ranks = hotspot.percentiles.items()
                shares = {f"{name} percentile": round(rank / 100, 6) for name, rank in ranks}
                means = {f"{name} mean": float(f"{m:.6g}") for name, m in hotspot.means.items()}
                annotations[f"hotspot_{hotspot.kind}_{hotspot.rank}"] = Annotation(
                    hotspot.polygon, properties | _finite(shares) | _finite(means)
                )
            store.append_many(list(annotations.values()), list(annotations))


def _tiles(bag: FeatureBag, scores: Sequence[Score]) -> Iterator[tuple[str, Annotation]]:
    """Yield the key, such as "20x_3_7" for column 3 and row 7, and the annotation of each tile."""
    bounds, shown = clip_to_slide(bag, bag.finest)
    boxes = shapely.box(*bounds[shown].T)
    names = [score.name if score.signed else f"{score.name} percentile" for score in scores]
    shares = np.zeros((len(boxes), len(scores)))
    for index, score in enumerate(scores):
        shares[:, index] = score_shares(score)[shown].round(6)
    for (column, row), polygon, known in zip(
        tiles_of(bag, bag.finest).grid[shown].tolist(), boxes, shares.tolist(), strict=True
    ):
        properties = _finite(dict(zip(names, known, strict=True)))
        yield f"{bag.finest}_{column}_{row}", Annotation(polygon, {"type": TILE_TYPE} | properties)


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the finite values."""
    return {name: number for name, number in numbers.items() if math.isfinite(number)}
