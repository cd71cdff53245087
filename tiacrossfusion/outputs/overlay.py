"""A figure of the slide and a map of each score."""

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

from tiacrossfusion.explain.attribution_scores import TOTAL
from tiacrossfusion.explain.extent import slide_size, tiles_of
from tiacrossfusion.explain.hotspots import Hotspot
from tiacrossfusion.explain.score import Score, colour_score, named, on_own_grid
from tiacrossfusion.outputs.colours import (
    HOTSPOTS,
    colour_table,
    limit_of,
    score_colours,
    score_shares,
)
from tiacrossfusion.outputs.figures import Style, add_caption, in_own_style, save_figure
from tiacrossfusion.outputs.scale_bar import ScaleBar, scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.inference.slide import SlideResult

#: Opacity of the tiles: the colour can be read off the bar, and glands can still be seen.
_OPACITY = 0.62

#: Grey level, from 0 to 1, under the colour bars, and of patches when there is no picture of the slide.
_PALE_TISSUE = 0.8

_HALO = [withStroke(linewidth=3, foreground="white")]

_DPI = 110
_MAX_WIDTH, _MAX_HEIGHT = 15.0, 9.0  # of all panels together, in inches
_MIN_COLUMN = 1.2  # width of a panel's column, so that its heading fits
_MIN_WIDTH = 8.0  # of the figure, so that title, colour bar and note fit
_MARGIN, _GAP, _PANEL_TITLE = 0.3, 0.2, 0.32  # inches
_BAR, _BAR_GAP = 4.5, 1.2  # width of a colour bar, and the gap between two
_HEAD, _FOOT = 0.55, 1.15  # inches above and below the panels


@in_own_style
def attention_figure(result: SlideResult, path: Path) -> None:
    """Draw the slide and its scores as a PNG.

    Each score of the finest grid has a map on its own grid, except that of the attributions only the total
    is drawn; the report has them all. The tissue under the maps is grey, so that colour means score only:
    unsigned scores share the scale of percentiles within the slide, signed scores one in units of the risk,
    which is the same for all slides of a model.
    Without an overview of the slide, patches are drawn on white, and the first panel shows the finest.
    """
    bag, scores, hotspots, overview = result.bag, result.scores, result.hotspots, result.overview
    finest = bag.finest
    width, height = slide_size(bag)
    unsigned = [score for score in scores[finest] if not score.signed]
    signed = [
        score
        for score in scores[finest]
        if score.signed and (score.name == TOTAL or not score.name.startswith("Attribution "))
    ]
    hot = named(scores[finest], hotspots[0].score) if hotspots else colour_score(scores[finest])
    panels = (None, *signed, *unsigned)
    bars = _colour_bars(unsigned, signed, hotspots)
    rows, columns, panel_w, panel_h = _layout(width / height, len(panels))
    column_w = max(panel_w, _MIN_COLUMN) + _GAP
    bars_w = len(bars) * (_BAR + _BAR_GAP) - _BAR_GAP + 1
    figure_w = max(_MIN_WIDTH, columns * column_w - _GAP + 2 * _MARGIN, bars_w)
    figure_h = _HEAD + rows * (panel_h + _PANEL_TITLE) + (rows - 1) * _GAP + _FOOT
    figure = Figure(figsize=(figure_w, figure_h), dpi=_DPI, facecolor="white")

    size = (max(1, round(panel_w * _DPI)), max(1, round(panel_h * _DPI)))
    if overview is None:
        tissue = _draw_patches(bag, finest, size)
    else:
        smooth = cv2.INTER_AREA if size[0] < overview.shape[1] else cv2.INTER_LINEAR
        tissue = cv2.resize(overview, size, interpolation=smooth)
    grey = np.repeat(cv2.cvtColor(tissue, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    for place, score in enumerate(panels):
        row, column = divmod(place, columns)
        in_row = min(columns, len(panels) - row * columns)
        x = (figure_w - in_row * column_w) / 2 + column * column_w + (column_w - panel_w) / 2
        y = figure_h - _HEAD - (row + 1) * (panel_h + _PANEL_TITLE) - row * _GAP
        axes = figure.add_axes((x / figure_w, y / figure_h, panel_w / figure_w, panel_h / figure_h))
        if score is None:
            image, heading = tissue, "H&E" if overview is not None else f"{finest} patches"
        else:
            # Hotspots consist of the finest tiles, so their score is drawn on their grid.
            drawn = score if score is hot else on_own_grid(scores, score.name)
            heading = "Attribution of the risk" if score.name == TOTAL else score.name
            ground = grey if overview is not None else _draw_patches(bag, drawn.scale, size)
            image = _paint(ground, bag, drawn)
        axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
        axes.set_title(heading, fontsize=11, pad=5)
        axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
        axes.spines[:].set(color="0.75", linewidth=0.8)
        if score is None and bag.provenance.mpp is not None:
            _draw_scale_bar(axes, scale_bar(width * bag.provenance.mpp[0], width), width, height)
        if score is not None and score is hot:
            for hotspot in hotspots:
                _outline(axes, hotspot, height)

    add_caption(figure, 1 - 0.3 / figure_h, result.name, size=14)
    for number, (label, table, ticks) in enumerate(bars):
        shift = (number - (len(bars) - 1) / 2) * (_BAR + _BAR_GAP)
        _colour_bar(figure, label, table, ticks, shift=shift)
    foot = f"{result.config.name}  ·  {result.config.card.notice}"
    add_caption(figure, 0.22 / figure_h, foot, size=9, colour="0.35")
    save_figure(figure, path)


def _colour_bars(
    unsigned: Sequence[Score], signed: Sequence[Score], hotspots: Sequence[Hotspot]
) -> list[tuple[str, np.ndarray, dict[int, str]]]:
    """Return label, colours and ticks of each colour bar that the maps use."""
    bars = []
    if unsigned:
        of_attention = all(score.name.startswith("Attention ") for score in unsigned)
        label = f"{'attention ' if of_attention else ''}percentile within the slide"
        label += " (outlines: hotspots)" if any(h.kind == "attention" for h in hotspots) else ""
        bars.append((label, colour_table(signed=False), {0: "0", 50: "50", 100: "100"}))
    if signed:
        unit, limit = signed[0].unit, limit_of(signed[0])
        ends = {0: f"\u2212{limit:.2g}", 50: "0", 100: f"+{limit:.2g}"}
        label = f"change of the {unit} if the whole slide were like the patch"
        label += " (outlines: hotspots)" if any(h.kind != "attention" for h in hotspots) else ""
        bars.append((label, colour_table(signed=True), ends))
    return bars


def _layout(aspect: float, panels: int) -> tuple[int, int, float, float]:
    """Return rows and columns of the largest panels that fit, and their width and height in inches.

    Width divided by height is `aspect`.
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


def _paint(grey: np.ndarray, bag: FeatureBag, score: Score) -> np.ndarray:
    """Blend the colours of a score's tiles with the grey slide, (h, w, 3) uint8; not of those about zero."""
    if len(bag.scales[score.scale]) == 0:
        return grey
    tile = _tile_of_pixels(bag, score.scale, grey.shape[1], grey.shape[0])
    painted = grey.copy()
    colours = score_colours(score)
    plain = np.isnan(score_shares(score)) & np.isfinite(score.values)
    covered = (tile >= 0) & ~plain[tile]
    # Fine steps of grey cannot be seen under the colours and make up a third of the file's size.
    under = grey[covered] // 8 * 8 + 4
    painted[covered] = np.rint(_OPACITY * colours[tile[covered]] + (1 - _OPACITY) * under)
    return painted


def _draw_patches(bag: FeatureBag, grid: str, size: tuple[int, int]) -> np.ndarray:
    """Draw the patches of a grid in pale grey on white; (h, w, 3) uint8 of width and height `size`."""
    drawn = np.full((size[1], size[0], 3), 255, np.uint8)
    drawn[_tile_of_pixels(bag, grid, *size) >= 0] = round(255 * _PALE_TISSUE)
    return drawn


def _tile_of_pixels(bag: FeatureBag, grid: str, width: int, height: int) -> np.ndarray:
    """Return which tile of a grid each pixel of a picture of the slide lies in.

    Returns:
        (height, width) index of the tile, -1 outside all tiles. There must be at least one tile.
    """
    tiles = tiles_of(bag, grid)
    # Pixels look up their tile on the lattice: the work grows with the picture, not with the tiles.
    # The lattice has an extra row and column of -1 at the end, which the index -1 selects.
    lattice = np.full(tiles.grid.max(axis=0) + 2, -1)
    lattice[tuple(tiles.grid.T)] = np.arange(len(tiles))
    cells = []
    for axis, (side, pixels) in enumerate(zip(slide_size(bag), (width, height), strict=True)):
        lines, first = np.unique(tiles.grid[:, axis], return_index=True)
        starts, ends = tiles.bounds[first][:, [axis, axis + 2]].T
        centres = (np.arange(pixels) + 0.5) * (side / pixels)
        place = np.searchsorted(starts, centres, side="right") - 1
        cells.append(np.where((place >= 0) & (centres < ends[place]), lines[place], -1))
    return lattice[cells[0], cells[1][:, None]]


def _draw_scale_bar(axes: Axes, bar: ScaleBar, width: int, height: int) -> None:
    """Draw a scale bar in the lower left corner."""
    start, y = 0.04 * width, 0.95 * height
    halo = [withStroke(linewidth=6, foreground="white")]
    black: Style = {"color": "black", "linewidth": 3, "solid_capstyle": "butt"}
    axes.plot([start, start + bar.length], [y, y], path_effects=halo, **black)
    above: Style = {"xytext": (0, 5), "textcoords": "offset points"}
    axes.annotate(bar.label, (start, y), fontsize=10, path_effects=_HALO, **above)


def _outline(axes: Axes, hotspot: Hotspot, height: int) -> None:
    """Draw the border of a hotspot, and its rank above it, on a slide of this height."""
    colour = np.array(HOTSPOTS[hotspot.kind]) / 255
    for ring in hotspot.rings:
        axes.plot(*ring.T, color=colour, linewidth=1.5, path_effects=_HALO)
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
    """Draw a colour bar `shift` inches from the middle, with the colours as they look over pale tissue.

    The table is (256, 3) uint8 from left to right; ticks map per cent of the width to a text.
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
