"""Which families of a slide are read, and in what order."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from tiacrossfusion.errors import UsageError

if TYPE_CHECKING:
    from tiacrossfusion.inference.families import FamilyTable
    from tiacrossfusion.models.from_coarse import FromCoarse

#: Families that are read at least, for a standard error; slides with fewer are read whole.
LEAST = 16
#: Each round of `--until` reads to this many times the families before.
GROWTH = 1.5


def families_for(budget: float, families: int) -> int:
    """Return how many families are read for a share of them: 0, or at least 16.

    Raises:
        UsageError: the budget is not a share.
    """
    if not 0 <= budget <= 1:
        raise UsageError(f"budget is {budget}: give a share of the families, 0 (5x alone) to 1 (all)")
    if budget == 0 and families > LEAST:
        return 0
    return min(families, max(LEAST, math.ceil(budget * families - 1e-9)))


def rounds(families: int, most: int) -> list[int]:
    """Return how many families have been read after each round of `--until`, `most` at last."""
    found = [min(LEAST, families)]
    while found[-1] < most:
        found.append(min(most, math.ceil(GROWTH * found[-1])))
    return found


def random_order(families: int, name: str, seed: int = 0) -> np.ndarray:
    """Return the families in random order, the same for the same slide and seed."""
    digest = hashlib.sha256(f"{name} {families} {seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(families)


def focus_order(table: FamilyTable, fitted: FromCoarse) -> np.ndarray:
    """Return the families from the highest to the lowest attribution that 5x tells to expect."""
    phi = table.phi(fitted)
    score = torch.cat([phi, phi[:, 1:] ** 2], dim=1) @ fitted.focus
    return torch.argsort(score, descending=True, stable=True).cpu().numpy()
