"""Three nested grids of patches over one slide.

One lattice is laid at 5x and subdivided, so that a 5x cell holds exactly 2 x 2 cells of 10x and
4 x 4 cells of 20x. The lattice lines are rounded to level-0 pixels once and shared by all scales:
neighbours and parents have common edges even where a cell is 506.3 pixels wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.sampling.spec import CELLS_20X, SCALES, SamplingSpec

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    from tiacrossfusion.sampling.slide import Slide


@dataclass(frozen=True)
class PatchGrid:
    """The kept cells of one scale, in row-major order.

    Attributes:
        scale: "5x", "10x" or "20x".
        bounds: (N, 4) int64, level-0 pixels (x0, y0, x1, y1), x1 and y1 exclusive.
        grid: (N, 2) int32, column and row on this scale's grid; the parent of a cell stands at
            (column // 2, row // 2) of the next coarser grid.
    """

    scale: str
    bounds: np.ndarray
    grid: np.ndarray

    def __len__(self) -> int:
        """Return the number of cells, N."""
        return len(self.grid)


def nested_grids(
    slide: Slide, mask: VirtualWSIReader | None, spec: SamplingSpec
) -> dict[str, PatchGrid]:
    """Lay the three grids over a slide and keep the cells with tissue.

    Args:
        slide: an open slide.
        mask: tissue mask of the whole slide; None keeps every cell on the slide.
        spec: the sampling of the model.

    Returns:
        The kept cells of each scale, keyed "5x", "10x", "20x". All three are empty when no 20x cell
        holds enough tissue.
    """
    from tiatoolbox.tools.patchextraction import PatchExtractor

    side_x, side_y = _cell_side_20x(slide, spec)
    width, height = slide.dimensions
    n_cells = (max(1, int(np.ceil(width / side_x))), max(1, int(np.ceil(height / side_y))))
    # In units of 20x cells everything is a whole number: a 5x cell is 4 x 4, and the toolbox's
    # coordinates are exact.
    coarse = PatchExtractor.get_coordinates(
        image_shape=n_cells, patch_input_shape=(4, 4), stride_shape=(4, 4)
    )
    cells = _subdivide(_subdivide(coarse[:, :2] // 4))  # (N, 2) column, row at 20x
    lines_x = np.rint(np.arange(cells[:, 0].max() + 5) * side_x).astype(np.int64)
    lines_y = np.rint(np.arange(cells[:, 1].max() + 5) * side_y).astype(np.int64)

    bounds = _bounds(cells, "20x", lines_x, lines_y)
    inside = (bounds[:, 0] < width) & (bounds[:, 1] < height)
    cells, bounds = cells[inside], bounds[inside]
    if mask is not None:
        cells = cells[
            PatchExtractor.filter_coordinates(
                mask_reader=mask,
                coordinates_list=bounds,
                wsi_shape=slide.dimensions,
                min_mask_ratio=spec.min_mask_ratio,
            )
        ]
    grids = {}
    for scale in SCALES:
        kept = _row_major(cells // CELLS_20X[scale])
        grids[scale] = PatchGrid(
            scale=scale,
            bounds=_bounds(kept, scale, lines_x, lines_y),
            grid=kept.astype(np.int32),
        )
    return grids


def _cell_side_20x(slide: Slide, spec: SamplingSpec) -> tuple[float, float]:
    """Width and height of a 20x cell in level-0 pixels, not rounded."""
    if spec.units == "mpp":
        microns = spec.patch_size * spec.resolution("20x")
        return microns / slide.mpp[0], microns / slide.mpp[1]
    side = spec.patch_size * slide.power / spec.resolution("20x")
    return side, side


def _subdivide(cells: np.ndarray) -> np.ndarray:
    """Split each cell (column, row) into its 2 x 2 children on the next finer grid."""
    children = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    return (2 * cells[:, None, :] + children[None]).reshape(-1, 2)


def _row_major(cells: np.ndarray) -> np.ndarray:
    """Distinct cells, row by row and from left to right."""
    distinct = np.unique(cells[:, ::-1], axis=0)
    return distinct[:, ::-1]


def _bounds(cells: np.ndarray, scale: str, lines_x: np.ndarray, lines_y: np.ndarray) -> np.ndarray:
    """Level-0 bounds (N, 4) of cells of a scale, from the lines of the 20x lattice."""
    start = cells * CELLS_20X[scale]
    end = start + CELLS_20X[scale]
    return np.stack(
        [lines_x[start[:, 0]], lines_y[start[:, 1]], lines_x[end[:, 0]], lines_y[end[:, 1]]], axis=1
    )
