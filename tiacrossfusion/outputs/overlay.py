"""A figure of scores over the slide: the tissue, and a map of each score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from tiacrossfusion.explain.attribution_scores import ATTRIBUTIONS, TOTAL
from tiacrossfusion.explain.extent import slide_size, tiles_of
from tiacrossfusion.explain.hotspots import Hotspot
from tiacrossfusion.explain.score import Score, colour_score, on_own_grid
from tiacrossfusion.outputs.colours import (
    HOTSPOT,
    colour_table,
    score_colours,
    signed_colour_table,
)
from tiacrossfusion.outputs.figures import add_caption, save_png
from tiacrossfusion.outputs.scale_bar import scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.inference.slide import SlideResult

#: How much of a tile's colour covers the tissue: enough to read the colour against the bar, little
#: enough to see the glands.
_OPACITY = 0.62

#: Grey level, from 0 to 1, of the tissue under the colour bars, and of patches without a picture.
_PALE_TISSUE = 0.8

_DPI = 110
_MAX_WIDTH, _MAX_HEIGHT = 15.0, 9.0  # of all panels together, in inches
_MIN_COLUMN = 1.2  # of a panel's column: what its heading needs
_MIN_WIDTH = 8.0  # of the figure: what title, colour bar and note need
_MARGIN, _GAP, _PANEL_TITLE = 0.3, 0.2, 0.32  # inches
_BAR, _BAR_GAP = 4.5, 1.2  # width of a colour bar, and the gap between two
_HEAD, _FOOT = 0.55, 1.15  # inches above and below the panels


def attention_figure(result: SlideResult, path: Path) -> None:
    """Draw the slide and its scores as a PNG.

    There is a map of each score of the 20x grid, each on its own grid; of the attributions only their
    total has one. The tissue under the maps is grey, so that their colours mean scores only: percentiles
    within the slide on one scale, and signed scores from what lowers the risk to what raises it. Without
    an overview of the slide, patches lie on white, and the first panel shows those of 20x.

    Args:
        result: the slide, its scores and hotspots.
        path: the PNG file.
    """
    bag, scores, hotspots, overview = result.bag, result.scores, result.hotspots, result.overview
    width, height = slide_size(bag)
    unsigned = [score for score in scores["20x"] if not score.signed]
    signed = [s for s in scores["20x"] if s.signed and s.name not in ATTRIBUTIONS.values()]
    hot = colour_score(scores["20x"])
    panels = (None, *unsigned, *signed)
    bars = _colour_bars(unsigned, signed, hotspots)
    rows, columns, panel_w, panel_h = _layout(width / height, len(panels))
    column_w = max(panel_w, _MIN_COLUMN) + _GAP
    figure_w = max(
        _MIN_WIDTH,
        columns * column_w - _GAP + 2 * _MARGIN,
        len(bars) * (_BAR + _BAR_GAP) - _BAR_GAP + 1,
    )
    figure_h = _HEAD + rows * (panel_h + _PANEL_TITLE) + (rows - 1) * _GAP + _FOOT
    figure = Figure(figsize=(figure_w, figure_h), dpi=_DPI, facecolor="white")

    size = (max(1, round(panel_w * _DPI)), max(1, round(panel_h * _DPI)))
    if overview is None:
        tissue = _draw_patches(bag, "20x", size)
    else:
        shrinks = size[0] < overview.shape[1]
        tissue = cv2.resize(
            overview, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
    grey = np.repeat(cv2.cvtColor(tissue, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    for place, score in enumerate(panels):
        row, column = divmod(place, columns)
        in_row = min(columns, len(panels) - row * columns)
        x = (figure_w - in_row * column_w) / 2 + column * column_w + (column_w - panel_w) / 2
        y = figure_h - _HEAD - (row + 1) * (panel_h + _PANEL_TITLE) - row * _GAP
        axes = figure.add_axes((x / figure_w, y / figure_h, panel_w / figure_w, panel_h / figure_h))
        if score is None:
            image = tissue
            heading = "H&E" if overview is not None else "20x patches"
        else:
            # Hotspots are made of 20x tiles, so their score is drawn on these.
            drawn = score if score is hot else on_own_grid(scores, score.name)
            colours = score_colours(drawn)
            heading = "Attribution of the risk" if score.name == TOTAL else score.name
            ground = grey if overview is not None else _draw_patches(bag, drawn.scale, size)
            image = _paint(ground, bag, drawn.scale, colours)
        axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
        axes.set_title(heading, fontsize=11, pad=5)
        axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
        axes.spines[:].set(color="0.75", linewidth=0.8)
        if score is None and bag.provenance.mpp is not None:
            _draw_scale_bar(axes, bag.provenance.mpp[0], width, height)
        if score is not None and score is hot:
            for hotspot in hotspots:
                _outline(axes, hotspot, height)

    add_caption(figure, 1 - 0.3 / figure_h, result.name, size=14)
    for number, (label, table, ticks) in enumerate(bars):
        shift = (number - (len(bars) - 1) / 2) * (_BAR + _BAR_GAP)
        _colour_bar(figure, label, table, ticks, shift=shift)
    foot = f"{result.config.name}  ·  {result.config.card.notice}"
    add_caption(figure, 0.22 / figure_h, foot, size=9, colour="0.35")
    save_png(figure, path)


def _colour_bars(
    unsigned: Sequence[Score], signed: Sequence[Score], hotspots: Sequence[Hotspot]
) -> list[tuple[str, np.ndarray, dict[int, str]]]:
    """Return label, colours and ticks of the colour bars that the maps need."""
    bars = []
    if unsigned:
        of_attention = all(score.name.startswith("Attention ") for score in unsigned)
        label = f"{'attention ' if of_attention else ''}percentile within the slide"
        label += " (red outlines: hotspots)" if hotspots else ""
        bars.append((label, colour_table(), {0: "0", 50: "50", 100: "100"}))
    if signed:
        unit = signed[0].unit
        ends = {0: f"lowers the {unit}", 50: "0", 100: f"raises the {unit}"}
        bars.append(("attribution", signed_colour_table(), ends))
    return bars


def _layout(aspect: float, panels: int) -> tuple[int, int, float, float]:
    """Rows and columns of the largest panels that fit, and their width and height in inches.

    Args:
        aspect: width of the slide divided by its height.
        panels: number of panels.
    """
    best = (0, 0, 0.0, 0.0)
    for rows in range(1, panels + 1):
        columns = -(-panels // rows)
        room_w = (_MAX_WIDTH - (columns - 1) * _GAP) / columns
        room_h = (_MAX_HEIGHT - (rows - 1) * _GAP) / rows - _PANEL_TITLE
        panel_w = min(room_w, room_h * aspect)
        if panel_w > best[2]:
            best = (rows, columns, panel_w, panel_w / aspect)
    return best


def _paint(grey: np.ndarray, bag: FeatureBag, grid: str, colours: np.ndarray) -> np.ndarray:
    """Lay the colours of the tiles of a grid over the tissue.

    Args:
        grey: (h, w, 3) uint8, the whole slide.
        bag: bag of the slide.
        grid: "5x", "10x" or "20x", with N tiles.
        colours: (N, 3) uint8.

    Returns:
        (h, w, 3) uint8.
    """
    if len(bag.scales[grid]) == 0:
        return grey
    tile = _tile_of_pixels(bag, grid, grey.shape[1], grey.shape[0])
    painted = grey.copy()
    covered = tile >= 0
    # Fine steps of grey cannot be seen through the colours, and take a third of the file's size.
    under = grey[covered] // 8 * 8 + 4
    painted[covered] = np.rint(_OPACITY * colours[tile[covered]] + (1 - _OPACITY) * under)
    return painted


def _draw_patches(bag: FeatureBag, grid: str, size: tuple[int, int]) -> np.ndarray:
    """Draw the patches of a grid in the grey of pale tissue on white.

    Args:
        bag: bag of the slide.
        grid: "5x", "10x" or "20x".
        size: width and height of the picture.

    Returns:
        (h, w, 3) uint8.
    """
    drawn = np.full((size[1], size[0], 3), 255, np.uint8)
    drawn[_tile_of_pixels(bag, grid, *size) >= 0] = round(255 * _PALE_TISSUE)
    return drawn


def _tile_of_pixels(bag: FeatureBag, grid: str, width: int, height: int) -> np.ndarray:
    """Tile in which each pixel of a picture of the slide lies, of a grid of at least one tile.

    Args:
        bag: bag of the slide.
        grid: "5x", "10x" or "20x".
        width: of the picture.
        height: of the picture.

    Returns:
        (height, width) index of the tile, -1 outside all tiles.
    """
    tiles = tiles_of(bag, grid)
    # Each pixel looks up its tile on the lattice: the work grows with the picture, not the tiles.
    # There is one more row and column than tiles: -1, off the lattice, finds -1 there.
    lattice = np.full(tiles.grid.max(axis=0) + 2, -1)
    lattice[tiles.grid[:, 0], tiles.grid[:, 1]] = np.arange(len(tiles))
    slide_width, slide_height = slide_size(bag)
    columns = _lattice_of_pixels(
        tiles.grid[:, 0], tiles.bounds[:, [0, 2]], slide_width / width, width
    )
    rows = _lattice_of_pixels(
        tiles.grid[:, 1], tiles.bounds[:, [1, 3]], slide_height / height, height
    )
    return lattice[columns[None, :], rows[:, None]]


def _lattice_of_pixels(
    index: np.ndarray, spans: np.ndarray, pixel_size: float, n_pixels: int
) -> np.ndarray:
    """Column (or row) of the lattice in which each pixel's centre lies.

    Args:
        index: (N,) column of each tile.
        spans: (N, 2) level-0 start and end of each tile along that axis.
        pixel_size: in level-0 pixels.
        n_pixels: number of pixels along that axis.

    Returns:
        (n_pixels,) column, -1 where no tile has it.
    """
    lines, first = np.unique(index, return_index=True)
    starts, ends = spans[first].T
    centres = (np.arange(n_pixels) + 0.5) * pixel_size
    place = np.searchsorted(starts, centres, side="right") - 1
    return np.where((place >= 0) & (centres < ends[place]), lines[place], -1)


def _draw_scale_bar(axes: Axes, mpp: float, width: int, height: int) -> None:
    """Draw a scale bar into the lower left corner."""
    bar = scale_bar(width * mpp)
    start, y = 0.04 * width, 0.95 * height
    halo = [withStroke(linewidth=6, foreground="white")]
    axes.plot(
        [start, start + bar.microns / mpp],
        [y, y],
        color="black",
        linewidth=3,
        solid_capstyle="butt",
        path_effects=halo,
    )
    axes.annotate(
        bar.label,
        (start, y),
        xytext=(0, 5),
        textcoords="offset points",
        fontsize=10,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _outline(axes: Axes, hotspot: Hotspot, height: int) -> None:
    """Draw the border of a hotspot, and its rank above it, on a slide of this height."""
    colour = np.array(HOTSPOT) / 255
    for ring in hotspot.rings:
        axes.plot(
            *ring.T,
            color=colour,
            linewidth=1.5,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    x, y = hotspot.label_place
    fits_above = y > height / 10
    axes.annotate(
        str(hotspot.rank),
        (x, y),
        xytext=(0, 4 if fits_above else -4),
        textcoords="offset points",
        ha="center",
        va="bottom" if fits_above else "top",
        fontsize=9,
        fontweight="bold",
        color="white",
        bbox={"boxstyle": "circle,pad=0.2", "facecolor": colour, "edgecolor": "white"},
    )


def _colour_bar(
    figure: Figure, label: str, table: np.ndarray, ticks: Mapping[int, str], *, shift: float
) -> None:
    """Draw a colour bar, in the colours as they look over pale tissue.

    Args:
        figure: the figure.
        label: what the colours mean.
        table: (256, 3) uint8 from left to right.
        ticks: text at each hundredth of its width.
        shift: distance of its middle from that of the figure, in inches.
    """
    width, height = figure.get_size_inches()
    over_tissue = _OPACITY * table / 255 + (1 - _OPACITY) * _PALE_TISSUE
    x = (width - _BAR) / 2 + shift
    axes = figure.add_axes((x / width, 0.78 / height, _BAR / width, 0.16 / height))
    scale = ScalarMappable(Normalize(0, 100), ListedColormap(over_tissue))
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal")
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.set_label(label, fontsize=10)
    axes.tick_params(labelsize=9)
