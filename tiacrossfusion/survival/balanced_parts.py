"""Divide patients into parts with the events spread evenly."""

from __future__ import annotations

import numpy as np


def balanced_parts(events: np.ndarray, parts: int, random: np.random.Generator) -> np.ndarray:
    """Return the part (N,), 0 to `parts` - 1, of each patient, dealt by chance.

    Args:
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        parts: how many.
        random: source of chance.
    """
    number = np.empty(len(events), int)
    for state in (1, 0):
        mine = random.permutation(np.flatnonzero(np.asarray(events) == state))
        number[mine] = np.arange(len(mine)) % parts
    return number
