"""The slide and its maps, as the page shows them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.explain.extent import tiles_of
from tiacrossfusion.explain.score import Score, on_own_grid
from tiacrossfusion.outputs.colours import colour_table, score_shares, signed_colour_table
from tiacrossfusion.outputs.report.fragment import MAP_SIDE, Bar, Layer, MapView, Outline
from tiacrossfusion.outputs.report.pictures import photograph, tiles_picture
from tiacrossfusion.outputs.scale_bar import scale_bar

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.explain.hotspots import Hotspot

#: Longer side of the picture of a slide in pixels, and its quality.
_SIDE, _QUALITY = 700, 50

#: Without a picture of the slide its patches are shown in the grey of pale tissue.
_PATCHES = np.array([[205, 205, 210, 255]], np.uint8)


@functools.cache
def percentile_scale() -> np.ndarray:
    """RGBA (256, 4) uint8 from the lowest percentile to the highest."""
    return np.insert(colour_table(), 3, 255, axis=1)


@functools.cache
def signed_scale() -> np.ndarray:
    """RGBA (256, 4) uint8 from lowering the risk most to raising it most; 0 is transparent."""
    strength = np.abs(np.linspace(-1, 1, 256))
    return np.insert(signed_colour_table(), 3, np.rint(255 * np.sqrt(strength)), axis=1)


class Frame:
    """Converts level-0 pixels to the units of a map.

    Args:
        dimensions: width and height of the slide.
    """

    def __init__(self, dimensions: tuple[int, int]) -> None:
        """Fit the longer side."""
        self.dimensions = dimensions
        self._factor = MAP_SIDE / max(dimensions)
        self.width, self.height = (self.units(side) for side in dimensions)

    def units(self, pixels: float) -> float:
        """Return a length in the units of the map, rounded to a hundredth."""
        return round(float(pixels) * self._factor, 2)

    def box(self, bounds: Sequence[float] | np.ndarray) -> dict[str, float]:
        """Return a box (x0, y0, x1, y1) as "x", "y", "width" and "height"."""
        x0, y0, x1, y1 = (self.units(value) for value in bounds)
        return {"x": x0, "y": y0, "width": round(x1 - x0, 2), "height": round(y1 - y0, 2)}


def map_view(
    frame: Frame,
    bag: FeatureBag,
    overview: np.ndarray | None,
    scores: Mapping[str, Sequence[Score]],
    hotspots: Sequence[Hotspot],
) -> MapView:
    """Return a slide with a layer for each score of the 20x grid, each on its own grid.

    Args:
        frame: frame of the slide.
        bag: bag of the slide.
        overview: (h, w, 3) uint8 RGB, the whole slide; None when it was predicted from a bag.
        scores: scores of each grid.
        hotspots: hotspots of the slide.
    """
    if overview is None:
        patches = np.zeros(len(bag.scales["20x"]))
        ground = _layer(frame, bag, "20x", patches, _PATCHES, kind="patches")
    else:
        ground = Layer(
            kind="photo",
            picture=photograph(overview, _SIDE, _QUALITY),
            x=0,
            y=0,
            width=frame.width,
            height=frame.height,
        )
    layers = []
    for score in (on_own_grid(scores, score.name) for score in scores["20x"]):
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
            )
        )
    made = bag.provenance
    return MapView(
        width=frame.width,
        height=frame.height,
        ground=ground,
        layers=tuple(layers),
        outlines=tuple(_outline(frame, hotspot) for hotspot in hotspots),
        bar=None if made.mpp is None else bar_of(frame.dimensions[0] * made.mpp[0], frame.width),
    )


def bar_of(microns: float, units: float) -> Bar:
    """Return the scale bar of a picture.

    Args:
        microns: width of the picture.
        units: the same width in the units of the drawing.
    """
    bar = scale_bar(microns)
    return Bar(label=bar.label, length=round(bar.microns / microns * units, 2))


def _layer(
    frame: Frame,
    bag: FeatureBag,
    grid: str,
    shares: np.ndarray,
    colours: np.ndarray,
    **what: str,
) -> Layer:
    """Draw the tiles of a grid and place them on the map."""
    tiles = tiles_of(bag, grid)
    reach = np.concatenate([tiles.bounds[:, :2].min(axis=0), tiles.bounds[:, 2:].max(axis=0)])
    return Layer(
        **what,
        picture=tiles_picture(tiles.grid, shares, colours),
        **frame.box(reach),
    )


def _outline(frame: Frame, hotspot: Hotspot) -> Outline:
    """Return the border of a hotspot."""
    path = " ".join(
        "M" + " L".join(f"{frame.units(x)} {frame.units(y)}" for x, y in ring[:-1]) + "Z"
        for ring in hotspot.rings
    )
    x, y = hotspot.label_place
    area = "" if hotspot.area is None else f", {hotspot.area / 1e6:.2g} mm²"
    return Outline(
        name=hotspot.name,
        label=str(hotspot.rank),
        path=path,
        x=frame.units(x),
        y=frame.units(y),
        note=(
            f"{hotspot.name}: {hotspot.tiles} tiles of 20x{area}, mean percentile of "
            f"{hotspot.score} {hotspot.percentiles[hotspot.score]:.0f}"
        ),
    )
