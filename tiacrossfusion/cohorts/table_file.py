"""The file of a cohort table, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.csv_table import read_csv
from tiacrossfusion.io.paths import missing

_CSV_ENDINGS = (".csv", ".csv.zip", ".csv.gz")
_PARQUET_ENDINGS = (".parquet", ".pq")


def table_columns(path: Path) -> list[str]:
    """Return the names of the columns of a file.

    Raises:
        TiacfError: it cannot be read.
    """
    return [str(name) for name in read_table_file(path, ()).columns]


def read_table_file(path: Path, text_columns: Sequence[str]) -> pd.DataFrame:
    """Read a file whole, with the given columns as text: the patient "007" keeps its zeros."""
    name = path.name.lower()
    if not name.endswith(_CSV_ENDINGS + _PARQUET_ENDINGS):
        endings = ", ".join(_CSV_ENDINGS + _PARQUET_ENDINGS)
        raise TiacfError(f"{path}: not a table that can be read; give one of {endings}")
    if not name.endswith(_PARQUET_ENDINGS):
        # Names stay text: "007" keeps its zeros, and "NA" is a name.
        names = dict.fromkeys(text_columns, str)
        return read_csv(
            path, check="check the path of the table", converters=names, low_memory=False
        )
    try:
        raw = pd.read_parquet(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: {missing(path)}; check the path of the table") from error
    except ImportError as error:
        raise TiacfError(
            f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or save the table as CSV"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise TiacfError(f"{path}: cannot be read ({reason}); save it as Parquet") from error
    if raw.index.name is not None:
        raw = raw.reset_index()
    if raw.empty:
        raise TiacfError(f"{path}: has columns and no rows; a table has a row a slide")
    return raw
