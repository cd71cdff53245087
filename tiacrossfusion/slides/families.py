"""Parents and children in nested grids: a cell lies in its parent of the next coarser grid."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from tiacrossfusion.slides.grid import PatchGrid
from tiacrossfusion.slides.spec import SCALES


def parents_of(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Return the parent of each cell: the cell at (column // 2, row // 2) of the next coarser grid.

    Args:
        fine: (N, 2) column and row on a grid.
        coarse: (M, 2) column and row on the next coarser grid, in any order.

    Returns:
        (N,) int64 index of the parent of each cell; -1 where it is not on the coarser grid.
    """
    wanted, there = fine.astype(np.int64) // 2, coarse.astype(np.int64)
    if len(there) == 0:
        return np.full(len(wanted), -1)
    width = max(int(cells[:, 0].max(initial=0)) for cells in (wanted, there)) + 1
    keys, wanted_keys = (cells[:, 1] * width + cells[:, 0] for cells in (there, wanted))
    order = np.argsort(keys)
    place = np.searchsorted(keys, wanted_keys, sorter=order)
    found = order[np.minimum(place, len(keys) - 1)]
    return np.where(keys[found] == wanted_keys, found, -1)


def whole_families(
    grids: Mapping[str, PatchGrid], readable: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Choose the cells to keep when some patches cannot be read.

    A 20x cell is kept when it and its ancestors can be read, a coarser cell when it can be read and a 20x
    cell in it is kept. So every kept cell has its ancestors, as on an undamaged slide.

    Args:
        grids: the cells of each scale.
        readable: (N,) bool for each scale.

    Returns:
        (N,) bool for each scale.
    """
    parents = {
        fine: parents_of(grids[fine].grid, grids[coarse].grid) for coarse, fine in pairwise(SCALES)
    }
    kept = {SCALES[0]: readable[SCALES[0]].copy()}
    for coarse, fine in pairwise(SCALES):  # nothing without its ancestors
        kept[fine] = readable[fine] & kept[coarse][parents[fine]]
    for coarse, fine in list(pairwise(SCALES))[::-1]:  # nor without children
        kept[coarse] &= np.bincount(parents[fine][kept[fine]], minlength=len(kept[coarse])) > 0
    return kept
