"""Which families of a slide are read, and in what order."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from tiacrossfusion.errors import UsageError

#: Families that are read at least, for a standard error; slides with fewer are read whole.
LEAST = 16
#: Each round of `--until` reads to this many times the families before.
GROWTH = 1.5
#: Families of a portion: 1,280 patches where all of them is tissue.
_PORTION = 64


def families_for(budget: float, families: int) -> int:
    """Return how many families are read for a share of them: 0, or at least 16.

    Raises:
        UsageError: the budget is not a share.
    """
    if not 0 <= budget <= 1:
        raise UsageError(
            f"budget is {budget}: give a share of the families, 0 (5x alone) to 1 (all)"
        )
    if budget == 0 and families > LEAST:
        return 0
    return min(families, max(LEAST, math.ceil(budget * families - 1e-9)))


def rounds(families: int, most: int) -> list[int]:
    """Return how many families have been read after each round of `--until`, `most` at last."""
    found = [min(LEAST, families)]
    while found[-1] < most:
        found.append(min(most, math.ceil(GROWTH * found[-1])))
    return found


def portions(most: int) -> list[int]:
    """Return how many families have been read after each portion, where nothing asks when to stop.

    After each a slide can be interrupted; opening the slide again takes as long as some patches, and the last
    batch of a portion is not full.
    """
    return [*range(_PORTION, most, _PORTION), most] if most else []


def curve_order(grid: np.ndarray) -> np.ndarray:
    """Return the rows of cells (F, 2) along Hilbert's curve, on which neighbours are neighbours on the slide.

    Source: Hilbert, "Über die stetige Abbildung einer Linie auf ein Flächenstück", Math. Ann. 1891; from
    column and row to the place on the curve one bit after the other.
    """
    x, y = (grid.astype(np.int64) - grid.min(axis=0)).T
    bits = int(max(x.max(), y.max())).bit_length()
    place = np.zeros(len(x), np.int64)
    for side in 1 << np.arange(bits)[::-1]:
        right, low = (x & side) > 0, (y & side) > 0
        place += side * side * ((3 * right) ^ low)
        # Each quadrant has the curve in its own orientation.
        mirrored = right & ~low
        x, y = np.where(mirrored, side - 1 - x, x), np.where(mirrored, side - 1 - y, y)
        x, y = np.where(low, x, y) & (side - 1), np.where(low, y, x) & (side - 1)
    return np.argsort(place, kind="stable")


def balanced_order(curve: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the families in a random order whose every beginning is spread evenly over the slide.

    Along a curve through the slide, from a random start, families are taken at the points of van der Corput's
    sequence (1/2, 1/4, 3/4, 1/8 ...): a systematic sample that can be continued. Every family is equally
    likely to be among the first n, so that means are unbiased.

    Args:
        curve: (F,) families along the curve.
        rng: draws the start.
    """
    families = len(curve)
    bits = max(1, (families - 1).bit_length())
    numbers = np.arange(1 << bits)
    reversed_bits = np.zeros_like(numbers)
    for bit in range(bits):
        reversed_bits |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    places = (reversed_bits * families) >> bits
    _, first = np.unique(places, return_index=True)
    return curve[(places[np.sort(first)] + rng.integers(families)) % families]


def slide_rng(name: str, families: int, seed: int = 0) -> np.random.Generator:
    """Return a source of randomness that is the same for the same slide and seed."""
    digest = hashlib.sha256(f"{name} {families} {seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
