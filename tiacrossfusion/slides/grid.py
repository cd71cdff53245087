"""Three nested grids of patches over one slide.

One lattice is laid at 5x and subdivided, so that a 5x cell holds exactly 2 x 2 cells of 10x and
4 x 4 cells of 20x. The lattice lines are rounded to level-0 pixels once and shared by all scales:
neighbours and parents have common edges even where a cell is 506.3 pixels wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    from tiacrossfusion.slides.slide import Slide


@dataclass(frozen=True)
class PatchGrid:
    """The kept cells of one scale, in row-major order.

    Attributes:
        scale: "5x", "10x" or "20x".
        bounds: (N, 4) int64, level-0 pixels (x0, y0, x1, y1), x1 and y1 exclusive.
        grid: (N, 2) int32, column and row on this scale's grid; the parent of a cell lies at
            (column // 2, row // 2) of the next coarser grid.
    """

    scale: str
    bounds: np.ndarray
    grid: np.ndarray

    def __len__(self) -> int:
        """Return the number of cells, N."""
        return len(self.grid)


def nested_grids(
    slide: Slide, mask: VirtualWSIReader | None, spec: SamplingSpec, margin: float = 0.0
) -> dict[str, PatchGrid]:
    """Lay three nested grids over a slide and keep the cells with tissue.

    Args:
        slide: an open slide.
        mask: that of the whole slide; None keeps every cell on the slide.
        spec: how patches are laid and kept.
        margin: how far left of and above the slide the grids begin, in sides of a 20x cell.

    Returns:
        The kept cells of each scale, keyed "5x", "10x", "20x". All three are empty when no 20x cell
        holds enough tissue.
    """
    width, height = slide.dimensions
    side_x, side_y = cell_side_20x(slide, spec)
    lines_x, lines_y = _lines(width, side_x, margin), _lines(height, side_y, margin)
    kept = (lines_y[:-1, None] < height) & (lines_x[None, :-1] < width)  # (rows, columns) at 20x
    if mask is not None:
        kept &= _on_tissue(mask.img, lines_x, lines_y, slide.dimensions, spec.min_mask_ratio)
    grids = {}
    for scale in SCALES:
        n = CELLS_20X[scale]
        rows, columns = kept.shape
        any_child = kept.reshape(rows // n, n, columns // n, n).any(axis=(1, 3))
        row, column = np.nonzero(any_child)
        left, top = column * n, row * n
        bounds = (lines_x[left], lines_y[top], lines_x[left + n], lines_y[top + n])
        cells = np.stack([column, row], axis=1).astype(np.int32)
        grids[scale] = PatchGrid(scale, np.stack(bounds, axis=1), cells)
    return grids


def cell_side_20x(slide: Slide, spec: SamplingSpec) -> tuple[float, float]:
    """Width and height of a 20x cell in level-0 pixels, not rounded."""
    microns = spec.patch_size * spec.mpp("20x")
    return microns / slide.mpp[0], microns / slide.mpp[1]


def _lines(length: int, side: float, margin: float) -> np.ndarray:
    """Lines of the 20x lattice in level-0 pixels, int64, as many as whole 5x cells need."""
    cells_5x = int(np.ceil(max(1, np.ceil(length / side + margin)) / CELLS_20X["5x"]))
    return np.rint((np.arange(cells_5x * CELLS_20X["5x"] + 1) - margin) * side).astype(np.int64)


def _on_tissue(
    mask: np.ndarray,
    lines_x: np.ndarray,
    lines_y: np.ndarray,
    dimensions: tuple[int, int],
    min_ratio: float,
) -> np.ndarray:
    """Return which cells of a lattice are tissue to more than a share of their part on the slide.

    The rule is that of TIAToolbox's `PatchExtractor.filter_coordinates`, to the rounding. That looks
    at one cell after another, on glass too, and takes seconds for a large slide; on a lattice, whose
    cells share their edges, sums over rows and columns do.

    Args:
        mask: (h, w) bool, over the whole slide.
        lines_x: (columns + 1,) edges of the cells in level-0 pixels.
        lines_y: (rows + 1,) the same.
        dimensions: width and height of the slide in level-0 pixels.
        min_ratio: the share, 0 to 1.

    Returns:
        (rows, columns) bool.
    """
    edges_x = _mask_pixels(lines_x, mask.shape[1], dimensions[0])
    edges_y = _mask_pixels(lines_y, mask.shape[0], dimensions[1])
    area = np.outer(np.diff(edges_y), np.diff(edges_x))
    tissue = np.empty_like(area)
    before = np.zeros(mask.shape[1] + 1, np.int64)  # tissue left of a column, in a row of cells
    for row, (top, bottom) in enumerate(pairwise(edges_y)):
        np.cumsum(np.count_nonzero(mask[top:bottom], axis=0), out=before[1:])
        tissue[row] = np.diff(before[edges_x])
    return (tissue > 0) & ((tissue == area) | (tissue > area * min_ratio))


def _mask_pixels(lines: np.ndarray, mask_length: int, length: int) -> np.ndarray:
    """Lines in pixels of the mask, int64; in float32 and cut off as TIAToolbox has it."""
    scaled = lines.astype(np.float32)
    scaled *= np.float64(mask_length) / length
    return np.clip(scaled, 0, mask_length).astype(np.int64)
