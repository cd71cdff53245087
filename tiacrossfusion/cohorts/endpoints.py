"""Several endpoints of one table, such as overall survival and progression."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.atomic import write_text

#: Table of the figures of all endpoints.
ENDPOINTS = "endpoints.csv"


def read_endpoints(options: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Read endpoints written as `OS=OS.time,OS`: columns of time and event by name.

    Raises:
        UsageError: one is written otherwise, or a name is given twice.
    """
    found: dict[str, tuple[str, str]] = {}
    for option in options:
        name, sign, text = option.partition("=")
        columns = [column.strip() for column in text.split(",")]
        if (
            not sign
            or not re.fullmatch(r"\w[\w.-]*", name)
            or len(columns) != 2
            or not all(columns)
        ):
            raise UsageError(
                f"--endpoint {option}: write a name and the columns of time and event, such as OS=OS.time,OS"
            )
        if name in found:
            raise UsageError(f"--endpoint {name}: is given twice")
        found[name] = (columns[0], columns[1])
    return found


def columns_of_endpoint(columns: Columns, endpoint: tuple[str, str]) -> Columns:
    """Return columns with the time and event of an endpoint.

    Raises:
        UsageError: a column of time, event or censorship is given besides.
    """
    own = Columns()
    for name in ("time", "event", "censorship"):
        if getattr(columns, name) != getattr(own, name):
            raise UsageError(f"--{name}-column with --endpoint: leave one of them out")
    return columns.model_copy(update=dict(zip(("time", "event"), endpoint, strict=True)))


def write_endpoints(folder: Path, tables: Sequence[tuple[str, pd.DataFrame]]) -> None:
    """Write the figures of all endpoints as one table, the endpoint in the first column.

    Raises:
        TiacfError: the folder cannot be written.
    """
    if tables:
        rows = pd.concat(dict(tables), names=["endpoint"]).reset_index("endpoint")
        write_text(folder / ENDPOINTS, rows.to_csv(index=False, lineterminator="\n"))
