"""A cache of decoded tiles, each kept from the first to the last patch that needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import numpy as np

from tiacrossfusion.slides.readers.jpeg_stream import DamagedTileError

#: Tiles that a patch overlaps: first row, first column, end row, end column.
Span = tuple[int, int, int, int]


def count_uses(spans: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Count for each tile of a grid, (rows, columns) int32, how many patches with spans (N, 4) overlap it."""
    rows, columns = grid
    # A rectangle adds 1 at one corner of the table of differences, and takes it off at the others.
    steps = np.zeros((rows + 1, columns + 1), np.int32)
    top, left, bottom, right = spans[(spans[:, 2:] > spans[:, :2]).all(axis=1)].T
    np.add.at(steps, (top, left), 1)
    np.add.at(steps, (bottom, right), 1)
    np.add.at(steps, (top, right), -1)
    np.add.at(steps, (bottom, left), -1)
    return steps.cumsum(axis=0).cumsum(axis=1)[:rows, :columns].astype(np.int32)


class TileCache:
    """Tiles by level, row and column; a tile is decoded by the thread that first asks for it.

    Args:
        decode: returns the tile at a level, row and column, or an error, which is cached like a tile.
        uses: for each level, (rows, columns) number of patches that overlap each tile.
    """

    def __init__(
        self,
        decode: Callable[[int, int, int], np.ndarray | DamagedTileError],
        uses: Mapping[int, np.ndarray],
    ) -> None:
        """Start with an empty cache."""
        self._decode, self._uses = decode, uses
        self._tiles: dict[tuple[int, int, int], Future[np.ndarray | DamagedTileError]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of tiles that are kept."""
        return len(self._tiles)

    def get(self, level: int, row: int, column: int) -> np.ndarray:
        """Return a tile, (tile_height, tile_width, 3) uint8; waits where another thread decodes it.

        Raises:
            DamagedTileError: it is damaged.
        """
        key = (level, row, column)
        with self._lock:
            waiting = self._tiles.get(key)
            mine = waiting is None
            if waiting is None:
                waiting = self._tiles[key] = Future()
        if mine:
            try:
                waiting.set_result(self._decode(level, row, column))
            except BaseException as error:
                waiting.set_exception(error)  # a bug, but other threads must not wait for ever
                raise
        tile = waiting.result()
        if isinstance(tile, DamagedTileError):
            raise DamagedTileError(str(tile))
        return tile

    def release(self, level: int, span: Span) -> None:
        """Release the tiles of a patch; tiles that no other patch needs are dropped."""
        top, left, bottom, right = span
        with self._lock:
            left_over = self._uses[level][top:bottom, left:right]
            left_over -= 1
            for row, column in zip(*np.nonzero(left_over == 0), strict=True):
                self._tiles.pop((level, top + int(row), left + int(column)), None)
