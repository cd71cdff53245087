"""Covariates with ordered levels, such as stage and grade."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.text import examples

#: Text in brackets is how TCGA's tables write that there is no value, and why.
_BRACKETS = re.compile(r"\s*\[.*\]\s*")

#: What other tables write where there is no value, in lower case.
NO_VALUE = frozenset(
    {
        "unknown",
        "not available",
        "na",
        "n/a",
        "nan",
        "none",
        "",
    }
)


def read_levels(options: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read levels written as `stage=I,II|IIA|IIB,III`, for each covariate.

    Raises:
        UsageError: one is written otherwise, or has fewer than two levels.
    """
    found = {}
    for option in options:
        name, sign, text = option.partition("=")
        levels = tuple(level.strip() for level in text.split(","))
        if not sign or len(levels) < 2 or not all(levels):
            raise UsageError(
                f"--ordinal {option}: write a covariate and its levels from low to high, such as "
                "stage=I,II,III,IV"
            )
        found[name.strip()] = levels
    return found


def without_placeholders(values: pd.Series) -> pd.Series:
    """Values (N,) with NaN for text in brackets, such as "[Not Available]"."""
    bracketed = values.map(
        lambda value: isinstance(value, str) and bool(_BRACKETS.fullmatch(value))
    )
    return values.mask(bracketed.astype(bool)) if bracketed.any() else values


def level_numbers(path: Path, values: pd.Series, levels: Sequence[str]) -> pd.Series:
    """Numbers (N,) of levels, 0 for the lowest; NaN where there is no value.

    Args:
        path: of the table, for messages.
        values: text or numbers.
        levels: from low to high; names of one level separated by "|".

    Raises:
        TiacfError: a value is not among the levels, or a level is named twice.
    """
    number: dict[str, int] = {}
    for place, level in enumerate(levels):
        for name in level.split("|"):
            if name.strip().casefold() in number:
                raise UsageError(f"--ordinal {values.name}: the level {name} is named twice")
            number[name.strip().casefold()] = place
    values = without_placeholders(values)
    text = values.map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
    text = text.str.strip()
    plain = text.str.casefold()
    odd = ~plain.isin([*number, *NO_VALUE]) & values.notna()
    if odd.any():
        near = get_close_matches(plain[odd].iloc[0], number, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise TiacfError(
            f"{path}: {int(odd.sum())} of {len(values)} values of {values.name!r} are not among its levels "
            f"{', '.join(levels)}, such as {examples(text[odd].unique())}{hint}; mend them, or name all "
            'levels with --ordinal (names of one level separated by "|")'
        )
    return plain.map(number).astype(float)
