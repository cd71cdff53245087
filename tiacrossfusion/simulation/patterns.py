"""Which tokens of a simulated bag have the pattern of their scale."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tiacrossfusion.errors import UsageError
from tiacrossfusion.simulation.fields import margin_of_share, smooth_field
from tiacrossfusion.simulation.planted import PLACED
from tiacrossfusion.slides.families import parents_of
from tiacrossfusion.slides.spec import CELLS_20X, SCALES

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

# Typical width of a piece of tissue, in 20x cells, as a share of the lattice's side.
_PIECE = 0.35


@dataclass(frozen=True)
class Patterns:
    """The tokens of a bag and what is planted in them.

    Attributes:
        grid: (N, 2) int32 column and row of the tokens of each scale, in row-major order.
        has: (N,) bool by scale, whether a token has the pattern of its scale.
        placed: (N,) bool at the scale of the pattern whose place matters, the tokens that have it where it
            raises the hazard (inside, beside, or at both or neither); None where no place matters.
    """

    grid: dict[str, npt.NDArray[np.int32]]
    has: dict[str, Flags]
    placed: Flags | None


def draw_patterns(
    row: Mapping[Hashable, Any],
    rng: np.random.Generator,
    *,
    scenario: str,
    side: int,
    tissue: float = 1.0,
) -> Patterns:
    """Draw the tissue of a slide and the places of its patterns.

    Args:
        row: a row of a table of `planted.draw_planted_cohort` of the same scenario and `side`.
        rng: source of randomness; with `planted.slide_rng`, the patterns of that slide's bag.
        scenario: what the log-hazard depends on.
        side: side of the 5x lattice.
        tissue: share of the 20x cells that are kept, as irregular pieces with holes; burdens are then
            rounded to the tokens that there are.

    Raises:
        UsageError: the burdens are no whole numbers of tokens: the cohort was drawn with another side.
    """
    grid = _tissue(rng, side, tissue)
    exact = tissue == 1
    has = {scale: np.zeros(len(cells), bool) for scale, cells in grid.items()}
    up10, up20 = parents_of(grid["10x"], grid["5x"]), parents_of(grid["20x"], grid["10x"])

    def choose(tokens: Indices, count: int) -> Indices:
        return rng.choice(tokens, min(count, len(tokens)), replace=False)

    def burden(scale: str, column: str) -> None:
        tokens = np.arange(len(grid[scale]))
        has[scale][choose(tokens, _count(row, column, len(tokens), exact=exact))] = True

    if scenario not in PLACED:
        burden("5x", "coarse_burden")
        burden("20x", "fine_burden")
        if "middle_burden" in row:
            burden("10x", "middle_burden")
        return Patterns(grid, has, None)

    if scenario == "neighbour":
        room = (side**2 - side**2 // 8) // 3  # 5x cells beside and far, at least
        beside, far = _beside(rng, grid["5x"], has["5x"], room)
        inside20, outside20 = beside[up10[up20]], far[up10[up20]]
        # As many fine tokens in every slide of a lattice: those of that many cells.
        count = min(round(16 * room * tissue), inside20.sum(), outside20.sum())
        scale = "20x"
    elif scenario == "colocation" and exact:
        burden("5x", "coarse_burden")
        inside20 = has["5x"][up10[up20]]
        outside20 = ~inside20
        count, scale = _count(row, "fine_burden", len(inside20), exact=True), "20x"
    else:
        cells = np.arange(len(grid["5x"]))
        has["5x"][choose(cells, len(cells) // 2)] = True
        inside20 = has["5x"][up10[up20]]
        if scenario == "three-way":
            for cell in cells:  # in every 5x cell the same share, so that two patterns tell nothing
                within = np.flatnonzero(up10 == cell)
                has["10x"][choose(within, len(within) // 2)] = True
            inside20 = inside20 == has["10x"][up20]
        outside20, scale = ~inside20, "20x"
        if scenario == "middle-inside":
            inside20, scale = has["5x"][up10], "10x"
            outside20 = ~inside20
        count = int(min(inside20.sum(), outside20.sum()))
    n_inside = _count(row, "overlap", count, exact=scenario == "colocation" and exact)
    placed = np.zeros(len(grid[scale]), bool)
    placed[choose(np.flatnonzero(inside20), n_inside)] = True
    has[scale] |= placed
    has[scale][choose(np.flatnonzero(outside20), count - n_inside)] = True
    return Patterns(grid, has, placed)


def lattice(side: int, scale: str) -> npt.NDArray[np.int32]:
    """Return column and row (N, 2) of every cell of a scale, in row-major order."""
    length = side * CELLS_20X["5x"] // CELLS_20X[scale]
    rows, columns = np.mgrid[0:length, 0:length]
    return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.int32)


def _tissue(rng: np.random.Generator, side: int, share: float) -> dict[str, npt.NDArray[np.int32]]:
    """Return the cells of each scale: all, or a share of the 20x cells and the cells around them."""
    if share == 1:
        return {scale: lattice(side, scale) for scale in SCALES}
    length = side * CELLS_20X["5x"]
    shape = (length, length)
    # Large pieces, with small holes and ragged borders.
    field = smooth_field(rng, shape, max(4.0, _PIECE * length)) + 0.4 * smooth_field(
        rng, shape, 4.0
    )
    kept = margin_of_share(field, np.ones(shape, bool), share) > 0
    rows, columns = np.nonzero(kept)
    cells = np.stack([columns, rows], axis=1)
    grid = {}
    for scale in SCALES:
        found = np.unique(cells // CELLS_20X[scale], axis=0)
        grid[scale] = found[np.lexsort((found[:, 0], found[:, 1]))].astype(np.int32)
    return grid


def _beside(
    rng: np.random.Generator, cells: npt.NDArray[np.int32], coarse: Flags, least: int
) -> tuple[Flags, Flags]:
    """Choose the coarse cells; return which other cells (N5,) touch one, and which do not.

    They are an eighth of the cells, drawn until `least` others touch one and as many do not.
    """
    gap = np.abs(cells[:, None] - cells[None]).max(axis=2)  # (N5, N5)
    count = max(1, len(cells) // 8)
    best = None
    for _ in range(100):
        chosen = rng.choice(len(cells), count, replace=False)
        near = (gap[:, chosen] <= 1).any(axis=1)
        near[chosen] = False
        far = ~near
        far[chosen] = False
        room = min(near.sum(), far.sum())
        if best is None or room > best[0]:
            best = (room, chosen, near, far)
        if room >= least:
            break
    assert best is not None  # noqa: S101 - of the first attempt
    coarse[best[1]] = True
    return best[2], best[3]


def _count(row: Mapping[Hashable, Any], column: str, n_tokens: int, *, exact: bool) -> int:
    """Return the number of tokens that the share in a column means."""
    count = row[column] * n_tokens
    # A share that was written to a table and read back is exact up to the last digits.
    if exact and not abs(count - round(count)) < 1e-6:
        raise UsageError(
            f"{row['slide']}: {column} {row[column]:.4f} is not a whole number of {n_tokens} tokens; give "
            "the side that the cohort was drawn with."
        )
    return math.floor(count + 0.5)
