"""Follow-up times that cannot be, and rows that are not missing at random."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.text import examples

#: Numbers with separators of thousands, or with a decimal comma.
_OTHER_NOTATION = re.compile(r"[+-]?(\d{1,3}([,.'\u2019\u00a0\u202f ]\d{3})+([.,]\d+)?|\d+,\d+)")

#: Years of a unit of time, by the beginning of its name.
_YEARS = {"day": 1 / 365.25, "week": 7 / 365.25, "month": 1 / 12, "year": 1.0}
_YEARS |= {"d": _YEARS["day"], "w": _YEARS["week"], "m": _YEARS["month"], "y": 1.0}

#: Half of a cohort is never followed for longer, in years.
LONGEST_MEDIAN = 40.0

#: What is left out is not random where a test says so with a smaller p, and enough rows to tell.
_LEAST_P, _LEAST_ROWS = 1e-3, 5

_REMEDY = "mend them, or take them out of the table yourself"


def refuse_other_notation(path: Path, column: str, values: pd.Series, option: str) -> None:
    """Refuse times such as "1,234": where they are taken for no numbers, the longest are lost.

    Raises:
        TiacfError: there are some.
    """
    text = [value.strip() for value in values if isinstance(value, str)]
    other = [value for value in text if _OTHER_NOTATION.fullmatch(value) and not _is_number(value)]
    if other:
        raise TiacfError(
            f"{path}: {len(other)} of {len(values)} values of {column!r} are numbers with separators of "
            f"thousands or decimal commas, such as {examples(other)}; write 1234.5 ({option})"
        )


def _is_number(text: str) -> bool:
    """Return whether a text is a number as it is, such as "1.234"."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def refuse_implausible(path: Path, times: pd.Series, unit: str, option: str) -> None:
    """Refuse times that are too long for their unit; units that are not known are not checked.

    Raises:
        TiacfError: the median is above `LONGEST_MEDIAN` years.
    """
    word = unit.strip().lower()
    known = _YEARS.get(word.rstrip("s")) or _YEARS.get(word)
    median = float(np.nanmedian(times))
    if known is not None and median * known > LONGEST_MEDIAN:
        raise TiacfError(
            f"{path}: the median follow-up is {median:g} {unit}, which is {median * known:.0f} years; give "
            f"the unit that the times have with --time-unit, or check {option}"
        )


def refuse_selective(path: Path, frame: pd.DataFrame, left_out: Mapping[str, np.ndarray]) -> None:
    """Refuse to leave rows out that differ from the rest in follow-up or in events.

    Args:
        path: of the table.
        frame: columns time and event, as numbers, NaN where unknown.
        left_out: (rows,) bool for each reason.

    Raises:
        TiacfError: a test says so with p below 0.001.
    """
    from scipy.stats import fisher_exact, mannwhitneyu

    gone = np.zeros(len(frame), bool)
    for rows in left_out.values():
        gone |= rows
    times, events = frame["time"], frame["event"]
    known = np.isfinite(times) & (times > 0)
    lost, kept = times[gone & known], times[~gone & known]
    if min(len(lost), len(kept)) >= _LEAST_ROWS:
        p = float(mannwhitneyu(lost, kept).pvalue)
        if p < _LEAST_P:
            raise TiacfError(
                f"{path}: the rows to leave out have another follow-up than the rest (median "
                f"{lost.median():g} against {kept.median():g}, p {p:.1g}), so that leaving them out would "
                f"bias every figure ({', '.join(left_out)}); {_REMEDY}"
            )
    counts = [
        [int((events[rows & events.notna()] == value).sum()) for value in (1, 0)]
        for rows in (gone, ~gone)
    ]
    if min(map(sum, counts)) >= _LEAST_ROWS:
        p = float(fisher_exact(counts)[1])
        if p < _LEAST_P:
            shares = [f"{row[0] / sum(row):.0%}" for row in counts]
            raise TiacfError(
                f"{path}: of the rows to leave out {shares[0]} have an event, of the rest {shares[1]} (p "
                f"{p:.1g}), so that leaving them out would bias every figure ({', '.join(left_out)}); "
                f"{_REMEDY}"
            )
