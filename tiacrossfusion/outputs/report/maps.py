"""The slide and its maps, as shown on the page."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.explain.extent import tiles_of
from tiacrossfusion.explain.score import on_own_grid
from tiacrossfusion.outputs.colours import colour_table, limit_of, score_shares
from tiacrossfusion.outputs.report.fragment import MAP_SIDE, Layer, MapView, Outline
from tiacrossfusion.outputs.report.pictures import photograph, tiles_picture
from tiacrossfusion.outputs.scale_bar import scale_bar

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.explain.hotspots import Hotspot
    from tiacrossfusion.inference.slide import SlideResult

#: Longer side in pixels and WebP quality of the picture of a slide.
_SIDE, _QUALITY = 700, 50

#: Grey of the patches when there is no picture of the slide.
_PATCHES = np.array([[205, 205, 210, 255]], np.uint8)

#: Green of known areas, which is no colour of a score.
_AREA = np.array([[0, 158, 115, 255]], np.uint8)


@functools.cache
def percentile_scale() -> np.ndarray:
    """RGBA (256, 4) uint8 from the lowest percentile to the highest."""
    return np.insert(colour_table(signed=False), 3, 255, axis=1)


@functools.cache
def signed_scale() -> np.ndarray:
    """RGBA (256, 4) uint8 from lowering the risk most to raising it most; 0 is transparent."""
    strength = np.abs(np.linspace(-1, 1, 256))
    return np.insert(colour_table(signed=True), 3, np.rint(255 * np.sqrt(strength)), axis=1)


class Frame:
    """Converts level-0 pixels of a slide to units of its map."""

    def __init__(self, dimensions: tuple[int, int]) -> None:
        """Scale the longer of width and height to `MAP_SIDE`."""
        self.dimensions = dimensions
        self._factor = MAP_SIDE / max(dimensions)
        self.width, self.height = (self.units(side) for side in dimensions)

    def units(self, pixels: float) -> float:
        """Return a length in units of the map, rounded to a hundredth."""
        return round(float(pixels) * self._factor, 2)

    def box(self, bounds: Sequence[float] | np.ndarray) -> dict[str, float]:
        """Return a box (x0, y0, x1, y1) as "x", "y", "width" and "height"."""
        x0, y0, x1, y1 = (self.units(value) for value in bounds)
        return {"x": x0, "y": y0, "width": round(x1 - x0, 2), "height": round(y1 - y0, 2)}


def map_view(frame: Frame, result: SlideResult) -> MapView:
    """Return a slide with a layer for each score of the finest grid, each on its own grid."""
    bag, scores = result.bag, result.scores
    size = {"width": frame.width, "height": frame.height}
    if result.overview is None:
        patches = np.zeros(len(bag.scales[bag.finest]))
        ground = _layer(frame, bag, bag.finest, patches, _PATCHES, kind="patches")
    else:
        picture = photograph(result.overview, _SIDE, _QUALITY)
        ground = Layer(kind="photo", picture=picture, x=0, y=0, **size)
    layers = []
    for score in (on_own_grid(scores, score.name) for score in scores[bag.finest]):
        family, _, name = score.name.partition(" ")
        layers.append(
            _layer(
                frame,
                bag,
                score.scale,
                score_shares(score),
                signed_scale() if score.signed else percentile_scale(),
                kind="signed" if score.signed else "percentile",
                family=family,
                name=name or family,
                unit=score.unit,
                meaning=score.meaning,
                limit=limit_of(score) if score.signed else None,
            )
        )
    mpp = bag.provenance.mpp
    return MapView(
        **size,
        ground=ground,
        layers=tuple(layers),
        outlines=tuple(_outline(frame, hotspot, bag.finest) for hotspot in result.hotspots),
        bar=None if mpp is None else scale_bar(frame.dimensions[0] * mpp[0], frame.width),
    )


def area_layer(frame: Frame, area: np.ndarray, side: float, **names: str) -> Layer:
    """Draw a known area of the slide.

    Args:
        frame: of the slide.
        area: (h, w) bool from the slide's top left corner, true somewhere.
        side: of a pixel of `area`, in level-0 pixels.
        names: family, name and meaning of the layer.
    """
    cells = np.argwhere(area)[:, ::-1]
    picture = tiles_picture(cells, np.ones(len(cells)), _AREA)
    reach = np.concatenate([cells.min(axis=0), cells.max(axis=0) + 1]) * side
    return Layer(kind="area", picture=picture, **names, **frame.box(reach))


def _layer(
    frame: Frame, bag: FeatureBag, grid: str, shares: np.ndarray, colours: np.ndarray, **names: Any
) -> Layer:
    """Draw the tiles of a grid and place them on the map."""
    tiles = tiles_of(bag, grid)
    reach = np.concatenate([tiles.bounds[:, :2].min(axis=0), tiles.bounds[:, 2:].max(axis=0)])
    picture = tiles_picture(tiles.grid, shares, colours)
    return Layer(**names, picture=picture, **frame.box(reach))


def _outline(frame: Frame, hotspot: Hotspot, finest: str) -> Outline:
    """Return the border of a hotspot."""
    path = " ".join(
        "M" + " L".join(f"{frame.units(x)} {frame.units(y)}" for x, y in ring[:-1]) + "Z"
        for ring in hotspot.rings
    )
    x, y = hotspot.label_place
    area = "" if hotspot.area is None else f", {hotspot.area / 1e6:.2g} mm²"
    value = (
        f"percentile of {hotspot.score} {hotspot.percentiles[hotspot.score]:.0f}"
        if hotspot.kind == "attention"
        else f"of {hotspot.score} {hotspot.mean:+.2g}"
    )
    return Outline(
        kind=hotspot.kind,
        name=hotspot.name,
        label=str(hotspot.rank),
        path=path,
        x=frame.units(x),
        y=frame.units(y),
        note=f"{hotspot.name}: {hotspot.tiles} tiles of {finest}{area}, mean {value}",
    )
