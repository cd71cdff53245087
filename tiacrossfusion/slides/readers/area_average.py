"""Shrink images by averaging areas, as OpenCV's INTER_AREA does, in a third of its time.

OpenCV has no vectorised code for fractional factors, and most scanners need patches of 506 or 1,013 pixels
shrunk to 256: there resampling would take longer than decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


class AreaAverage:
    """Shrinks images of one size to a square.

    Args:
        size: width and height of the images.
        side: of the square, not larger than the images.
    """

    def __init__(self, size: tuple[int, int], side: int) -> None:
        """Compute which pixels contribute to each pixel of the result, and their weights."""
        self._size, self._side = size, side
        self._columns, self._rows = (_shares(length, side) for length in size)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Shrink an image.

        Args:
            picture: (h, w, 3) uint8.

        Returns:
            (side, side, 3) uint8, equal to OpenCV's up to the rounding of halves.
        """
        width, height = self._size
        shrunk = np.empty((self._side, self._side, 3), np.uint8)
        lines = np.ascontiguousarray(picture).reshape(height, 3 * width)
        _average(lines, *self._rows, *self._columns, shrunk)
        return shrunk


def _shares(length: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut an axis of pixels into equal parts.

    Returns:
        (parts,) int64 first pixel of each part, and (parts, n) float32 shares in it of the n pixels
        from there on, which sum to 1.
    """
    edges = np.arange(parts + 1) * (length / parts)
    count = min(int(np.ceil(length / parts)) + 1, length)
    first = np.minimum(np.floor(edges[:-1] + 1e-9).astype(np.int64), length - count)
    pixels = first[:, None] + np.arange(count)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares = np.maximum(shared, 0)
    return first, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def _compiled(function: Callable[..., None]) -> Any:
    """Compile to code that releases the GIL, cached for the next process."""
    try:
        return numba.njit(cache=True, nogil=True, fastmath=True)(function)
    except RuntimeError:  # no folder for the cache is writable
        return numba.njit(nogil=True, fastmath=True)(function)


@_compiled
def _average(
    lines: np.ndarray,
    first_row: np.ndarray,
    row_shares: np.ndarray,
    first_column: np.ndarray,
    column_shares: np.ndarray,
    shrunk: np.ndarray,
) -> None:
    """Average lines (h, 3 w) of RGB pixels into `shrunk` (side, side, 3): down first, then across."""
    half = np.float32(0.5)
    line = np.empty(lines.shape[1], np.float32)
    for j in range(shrunk.shape[0]):
        line[:] = 0
        for k in range(row_shares.shape[1]):
            share = row_shares[j, k]
            if share > 0:
                below = lines[first_row[j] + k]
                for i in range(len(line)):
                    line[i] += share * np.float32(below[i])
        for i in range(shrunk.shape[1]):
            start = 3 * first_column[i]
            red = green = blue = half
            for k in range(column_shares.shape[1]):
                share = column_shares[i, k]
                red += share * line[start + 3 * k]
                green += share * line[start + 3 * k + 1]
                blue += share * line[start + 3 * k + 2]
            shrunk[j, i, 0] = np.uint8(red)
            shrunk[j, i, 1] = np.uint8(green)
            shrunk[j, i, 2] = np.uint8(blue)
