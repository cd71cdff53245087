"""The slide and the maps that lie on it, as the page shows them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.explain.extent import tiles_of
from tiacrossfusion.outputs.colours import colour_table, signed_colour_table, signed_shares
from tiacrossfusion.outputs.report.fragment import MAP_SIDE, Bar, Layer, MapView, Outline
from tiacrossfusion.outputs.report.pictures import photograph, tiles_picture
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.explain.hotspots import Hotspot
    from tiacrossfusion.explain.scores import TileScores

#: Longer side of the picture of a slide, in pixels, and its quality.
_SIDE, _QUALITY = 700, 50

#: Where no picture of the slide is at hand its patches are shown in the grey of pale tissue.
_PATCHES = np.array([[205, 205, 210, 255]], np.uint8)


@functools.cache
def percentile_scale() -> np.ndarray:
    """RGBA (256, 4) uint8 from the lowest percentile to the highest."""
    return np.insert(colour_table(), 3, 255, axis=1)


@functools.cache
def signed_scale() -> np.ndarray:
    """RGBA (256, 4) uint8 from what lowers the risk most to what raises it most; 0 is transparent."""
    strength = np.abs(np.linspace(-1, 1, 256))
    return np.insert(signed_colour_table(), 3, np.rint(255 * np.sqrt(strength)), axis=1)


class Frame:
    """Turns level-0 pixels into the units of a map.

    Args:
        dimensions: width and height of the slide.
    """

    def __init__(self, dimensions: tuple[int, int]) -> None:
        """Fit the longer side."""
        self.dimensions = dimensions
        self._factor = MAP_SIDE / max(dimensions)
        self.width, self.height = (self.units(side) for side in dimensions)

    def units(self, pixels: float) -> float:
        """Give a length in the units of the map, to a hundredth."""
        return round(float(pixels) * self._factor, 2)

    def box(self, bounds: Sequence[float] | np.ndarray) -> dict[str, float]:
        """Place a box (x0, y0, x1, y1) as "x", "y", "width" and "height"."""
        x0, y0, x1, y1 = (self.units(value) for value in bounds)
        return {"x": x0, "y": y0, "width": round(x1 - x0, 2), "height": round(y1 - y0, 2)}


def map_view(
    frame: Frame,
    bag: FeatureBag,
    overview: np.ndarray | None,
    scores: Mapping[str, TileScores],
    hotspots: Sequence[Hotspot],
) -> MapView:
    """Put together what is shown of a slide.

    Args:
        frame: of the slide.
        bag: bag of the slide.
        overview: (h, w, 3) uint8 RGB, the whole slide; None when only the bag is there.
        scores: what `tile_scores` gave.
        hotspots: what `find_hotspots` gave.
    """
    if overview is None:
        patches = np.zeros(len(bag.scales["20x"]))
        ground = _layer(frame, bag, "20x", patches, _PATCHES, kind="patches", family="", name="")
    else:
        ground = Layer(
            kind="photo",
            family="",
            name="",
            picture=photograph(overview, _SIDE, _QUALITY),
            x=0,
            y=0,
            width=frame.width,
            height=frame.height,
        )
    fine = scores["20x"]
    layers = []
    for name in fine.values:
        grid = _own_grid(scores, name)
        shares = scores[grid].percentiles[name] / 100
        what = {"kind": "percentile", "family": "Attention", "name": name}
        layers.append(_layer(frame, bag, grid, shares, percentile_scale(), **what))
    for name in fine.attributions:
        grid = _own_grid(scores, name)
        shares = signed_shares(scores[grid].attributions[name])
        what = {"kind": "signed", "family": "Attribution", "name": name}
        layers.append(_layer(frame, bag, grid, shares, signed_scale(), **what))
    made = bag.provenance
    return MapView(
        width=frame.width,
        height=frame.height,
        ground=ground,
        layers=tuple(layers),
        outlines=tuple(_outline(frame, hotspot) for hotspot in hotspots),
        bar=None if made.mpp is None else scale_bar(frame.dimensions[0] * made.mpp[0], frame.width),
    )


def scale_bar(microns: float, units: float) -> Bar:
    """Make a scale bar of 1, 2 or 5 times 10^n, at most a quarter of a picture's width.

    Args:
        microns: width of the picture.
        units: the same in what the bar is drawn in.
    """
    most = microns / 4
    power = 10.0 ** np.floor(np.log10(most))
    length = max(step * power for step in (1, 2, 5) if step * power <= most)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} μm"
    return Bar(label=label, length=round(length / microns * units, 2))


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


def _own_grid(scores: Mapping[str, TileScores], name: str) -> str:
    """The grid on which a score is itself, not a mean over smaller tiles: the coarsest such."""
    return next(scale for scale in SCALES if name not in scores[scale].means)


def _outline(frame: Frame, hotspot: Hotspot) -> Outline:
    """Draw the border of a hotspot."""
    rings = [hotspot.polygon.exterior, *hotspot.polygon.interiors]
    path = " ".join(
        "M" + " L".join(f"{frame.units(x)} {frame.units(y)}" for x, y in ring.coords[:-1]) + "Z"
        for ring in rings
    )
    x0, y0, x1, _ = hotspot.polygon.bounds
    area = "" if hotspot.area is None else f", {hotspot.area / 1e6:.2g} mm²"
    return Outline(
        name=hotspot.name,
        label=str(hotspot.rank),
        path=path,
        x=frame.units((x0 + x1) / 2),
        y=frame.units(y0),
        note=(
            f"{hotspot.name}: {hotspot.tiles} tiles of 20x{area}, mean percentile of attention "
            f"{hotspot.stage} {hotspot.percentiles[hotspot.stage]:.0f}"
        ),
    )
