"""Parents and children of tokens on nested grids, as indices for `index_select` and `index_add`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tiacrossfusion.networks.tokens import SlideTokens

#: Families of the bags that are in use, by their 20x grid. Every epoch passes the same tensors again.
_FOUND: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@dataclass(frozen=True, eq=False)
class Families:
    """Who lies in whom among the tokens of B slides, whose rows are counted through the batch.

    The parent of a token is the one at (column // 2, row // 2) of the next coarser grid.

    Attributes:
        parent10: (B * N10,) int64, row of the 5x parent of each 10x token; -1 where there is none.
        parent20: (B * N20,) int64, row of the 10x parent of each 20x token; -1 where there is none.
        children10: (B * N10,) int64, number of 20x children of each 10x token.
    """

    parent10: Tensor
    parent20: Tensor
    children10: Tensor

    @classmethod
    def of(cls, grid5: Tensor, grid10: Tensor, grid20: Tensor) -> Families:
        """Find the families of the tokens at columns and rows (B, N, 2); once for the same tensors."""
        kept = _FOUND.get(grid20)
        if kept is not None and kept[0] is grid5 and kept[1] is grid10:
            return kept[2]
        parent20 = parents(grid20, grid10)
        found = cls(
            parent10=parents(grid10, grid5),
            parent20=parent20,
            children10=torch.bincount(
                parent20[parent20 >= 0], minlength=grid10.shape[0] * grid10.shape[1]
            ),
        )
        _FOUND[grid20] = (grid5, grid10, found)
        return found


def parents(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return the rows of the parents of tokens, counted through the batch.

    Args:
        fine: (B, N, 2) int64 column and row.
        coarse: (B, M, 2) column and row on the next coarser grid, in any order.

    Returns:
        (B * N,) int64 in 0 to B * M - 1; -1 where the parent is not among the coarse tokens.
    """
    return rows_at(torch.div(fine, 2, rounding_mode="floor"), coarse)


def neighbours(grid: Tensor) -> Tensor:
    """Return the rows (B * N, 8) of the cells around each of (B, N, 2); -1 where there is none."""
    steps = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if (x, y) != (0, 0)]
    around = [rows_at(grid + torch.tensor(step, device=grid.device), grid) for step in steps]
    return torch.stack(around, dim=1)


def rows_at(wanted: Tensor, cells: Tensor) -> Tensor:
    """Return which of the cells (B, M, 2) each wanted one (B, N, 2) is, counted through the batch.

    Returns:
        (B * N,) int64 in 0 to B * M - 1; -1 where it is not among them.
    """
    if not wanted.numel() or not cells.numel():
        return wanted.new_full((wanted.shape[0] * wanted.shape[1],), -1)
    # One more column and row on each side, so that a step beyond the first or last is no other cell.
    width, height = (
        int(max(each[..., axis].max() for each in (wanted, cells))) + 3 for axis in (0, 1)
    )

    def keys(places: Tensor) -> Tensor:
        slide = torch.arange(len(places), device=places.device)[:, None]
        return ((slide * height + places[..., 1] + 1) * width + places[..., 0] + 1).flatten()

    there, order = keys(cells).sort()
    sought = keys(wanted)
    place = torch.searchsorted(there, sought).clamp(max=len(there) - 1)
    return torch.where(there[place] == sought, order[place], -1)


def nesting_fault(tokens: SlideTokens, scales: Sequence[str]) -> str | None:
    """Return what is wrong with the families of one slide's tokens, in a few words; None if nothing is.

    Of the scales, from coarse to fine, every token needs a parent at the next coarser one, and a child at the
    next finer one.
    """
    for coarse, fine in pairwise(scales):
        parent = parents(tokens.grid[fine], tokens.grid[coarse])
        orphans = int((parent < 0).sum())
        if orphans:
            return f"{orphans} of {len(parent)} patches at {fine} lie in no {coarse} patch"
        cells = tokens.grid[coarse].shape[1]
        empty = cells - len(parent.unique())
        if empty:
            return f"{empty} of {cells} patches at {coarse} hold no {fine} patch"
    return None
