"""The whole slide at low resolution, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from tiacrossfusion.errors import TiacfError

if TYPE_CHECKING:
    from tiacrossfusion.slides.slide import Slide

#: Side of the blocks that a large level is read in; one of up to four blocks is read at once.
BLOCK = 2048

#: Side of the blocks that are left grey where the file is damaged.
DAMAGED_BLOCK = 256

#: Grey level where nothing can be read.
_UNKNOWN = 200


def read_overview(slide: Slide, side: int) -> np.ndarray:
    """Read the whole slide, (h, w, 3) uint8, with its longer side at most `side` pixels.

    Raises:
        TiacfError: no part of it can be decoded.
    """
    longest = max(d * mpp for d, mpp in zip(slide.dimensions, slide.mpp, strict=True))
    return read_whole(slide, max(longest / side, *slide.mpp))[0]


def read_whole(slide: Slide, mpp: float, *, block: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """Read the whole slide at a resolution.

    TIAToolbox's `slide_thumbnail` reads the next finer level of the pyramid at once: of a slide of
    100,000 x 100,000 px that has no low levels, up to 40 GB. A large level is read in blocks here and
    averaged over the same areas, which gives the same pixels but for roundings (tested: within 1
    grey level on average, as readers place a block on whole level-0 pixels). So is a damaged one.

    Returns:
        (h, w, 3) uint8 RGB, and (h, w) bool where the file is damaged and the picture grey.

    Raises:
        TiacfError: no part of it can be decoded.
    """
    reader = slide.reader
    level, bounds, size, _ = reader.find_read_bounds_params((0, 0, *slide.dimensions), mpp, "mpp")
    width, height = bounds[2:]
    size = np.maximum(size, 1)  # a strip of a few pixels would have none
    if width * height <= 4 * block**2:
        try:
            with slide.reading("the overview"):
                whole = np.ascontiguousarray(reader.slide_thumbnail(mpp, "mpp")[..., :3])
            return whole, np.zeros(whole.shape[:2], bool)
        except TiacfError:
            slide.reopen()
    whole = np.full((size[1], size[0], 3), _UNKNOWN, np.uint8)
    damaged = np.zeros(whole.shape[:2], bool)
    downsample = reader.info.level_downsamples[level]

    def read(rows: range, columns: range, side: int) -> None:
        """Fill some rows and columns of the picture, block by block."""
        for row in _averages(height, size[1], rows, side):
            for column in _averages(width, size[0], columns, side):
                cells = (row.cells, column.cells)
                corner = np.rint(np.array([column.start, row.start]) * downsample).astype(int)
                try:
                    with slide.reading("the overview"):
                        region = reader.read_rect(
                            location=tuple(corner),
                            size=(column.stop - column.start, row.stop - row.start),
                            resolution=int(level),
                            units="level",
                            pad_mode="constant",
                            pad_constant_values=255,
                        )[..., :3]
                except TiacfError:
                    slide.reopen()
                    if side > DAMAGED_BLOCK:
                        inside_rows, inside_columns = (range(c.start, c.stop) for c in cells)
                        read(inside_rows, inside_columns, DAMAGED_BLOCK)
                    else:
                        damaged[cells] = True
                    continue
                averaged = column.average(row.average(region).swapaxes(0, 1)).swapaxes(0, 1)
                whole[cells] = np.rint(averaged)

    read(range(size[1]), range(size[0]), block)
    if damaged.all():
        raise TiacfError(
            f"{slide.path or slide.name}: the overview cannot be read; the file is damaged, copy it again"
        )
    return whole, damaged


@dataclass(frozen=True)
class _Average:
    """The average over each of some cells along one axis of a level.

    Attributes:
        cells: which cells of the overview.
        start: first pixel of the level that they touch.
        stop: one after the last.
        weights: (cells, pixels) share of each pixel in the average of each cell.
    """

    cells: slice
    start: int
    stop: int
    weights: sparse.csr_array

    def average(self, pixels: np.ndarray) -> np.ndarray:
        """From (pixels, n, 3) to (cells, n, 3) float32."""
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        return (self.weights @ flat).reshape(-1, *pixels.shape[1:])


def _averages(length: int, n_cells: int, cells: range, side: int) -> list[_Average]:
    """Cut some cells of an axis of `length` pixels of a level into parts of about `side` pixels."""
    edges = np.linspace(0, length, n_cells + 1)  # of all cells; not on whole pixels
    n_parts = max(1, round(np.ceil((edges[cells.stop] - edges[cells.start]) / side)))
    parts = []
    for part in np.array_split(np.array(cells), min(n_parts, len(cells))):
        left, right = edges[part, None], edges[part + 1, None]
        start, stop = int(left[0, 0]), int(np.ceil(right[-1, 0]))
        pixels = np.arange(start, stop)
        shared = np.minimum(right, pixels + 1) - np.maximum(left, pixels)
        weights = sparse.csr_array(np.maximum(shared, 0) / (right - left), dtype=np.float32)
        parts.append(_Average(slice(int(part[0]), int(part[-1]) + 1), start, stop, weights))
    return parts
