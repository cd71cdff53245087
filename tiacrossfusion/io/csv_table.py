"""CSV files, plain or packed, read and checked in one place."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.paths import is_endless, is_there, missing
from tiacrossfusion.text import examples, shortened

#: Bytes of the largest table; a packed file of some kilobytes could hold any number of them.
_LARGEST = 2**30


def read_csv(
    path: Path,
    *,
    columns: Sequence[str] = (),
    check: str = "check its path",
    remedy: str = "save it as CSV in UTF-8",
    **options: Any,
) -> pd.DataFrame:
    """Read a CSV file, plain or packed as `.gz` or `.zip`.

    Args:
        path: the file.
        columns: names that its header must have.
        check: what to do where there is no such file.
        remedy: what to do about a file that cannot be read.
        options: of `pandas.read_csv`.

    Raises:
        UsageError: there is no such file.
        TiacfError: it cannot be read, is not separated by commas, has no rows, a row with more fields
            than the header, a column twice, or not the columns asked for.
    """
    try:
        text = _text(path)
        header = pd.read_csv(io.StringIO(text), header=None, nrows=1, dtype=str).iloc[0].dropna()
        _check_header(path, header.tolist())
        frame = pd.read_csv(io.StringIO(text), **options)
    except pd.errors.EmptyDataError as error:
        needed = f"the columns {', '.join(columns)}" if columns else "a header and rows"
        raise TiacfError(f"{path}: is empty; it needs {needed}") from error
    except (OSError, ValueError) as error:  # pandas' parser and decoding errors are ValueErrors
        if not is_there(path) and getattr(error, "errno", None) != errno.ELOOP:
            raise UsageError(f"{path}: {missing(path)}; {check}") from error
        longer = re.search(r"Expected \d+ fields in (line \d+)", str(error))
        if longer:
            raise _more_fields(path, f", such as {longer[1]}") from error
        reason = getattr(error, "strerror", None) or one_line(error)
        if isinstance(error, UnicodeDecodeError):
            reason = "not UTF-8 text"
        raise TiacfError(f"{path}: cannot be read as CSV ({reason}); {remedy}") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first fields for an index
        raise _more_fields(path, "")
    lacking = [name for name in columns if name not in frame]
    if lacking:
        raise TiacfError(
            f"{path}: has no column {', '.join(lacking)}; it needs {', '.join(columns)}, and has "
            f"{examples(frame.columns, 8)}"
        )
    if frame.empty:
        raise TiacfError(f"{path}: has a header and no rows; fill it in")
    return frame


def refuse_missing(path: Path, frame: pd.DataFrame, wanted: Mapping[str, str]) -> None:
    """Refuse a table without the columns that options name (`wanted`: column to option), with hints.

    Raises:
        UsageError: a column is not there.
    """
    hints = [
        f"{name!r} ({option}{_nearest(name, frame)})"
        for name, option in wanted.items()
        if name not in frame
    ]
    if hints:
        raise UsageError(
            f"{path}: has no column {', '.join(hints)}; the table has {_column_list(frame)}"
        )


def _text(path: Path) -> str:
    """Text of a file, without the byte order mark that spreadsheet programs begin UTF-8 with."""
    if is_endless(path):
        raise ValueError("a pipe or a device, no file")
    try:
        content = _unpacked(path)
    except (
        *(EOFError, RuntimeError, NotImplementedError),
        *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
    ) as error:
        raise ValueError(str(error) or "damaged") from error
    if len(content) > _LARGEST:
        raise ValueError(f"larger than {_LARGEST >> 30} GiB")
    text = content.decode("utf-8-sig")
    if "\0" in text:  # pandas would silently cut values off there
        raise ValueError("NUL bytes, which text has none of")
    return text


def _unpacked(path: Path) -> bytes:
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as file:
            return file.read(_LARGEST + 1)
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise ValueError(f"{len(names)} files in the archive, not one")
            with archive.open(names[0]) as file:
                return file.read(_LARGEST + 1)
    with path.open("rb") as file:
        return file.read(_LARGEST + 1)


def _check_header(path: Path, header: list[str]) -> None:
    """Refuse other separators than commas, and a column that occurs twice: pandas would rename it."""
    if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
        raise TiacfError(f"{path}: is not separated by commas; save it as CSV with commas")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise TiacfError(
            f"{path}: {len(twice)} columns stand twice, such as {examples(twice)}; keep one of each"
        )


def _more_fields(path: Path, where: str) -> TiacfError:
    return TiacfError(
        f"{path}: rows have more fields than the header{where}; correct the header, or put quotes around "
        "values with commas"
    )


def _nearest(name: str, frame: pd.DataFrame) -> str:
    lowered = {str(column).lower(): str(column) for column in frame.columns}
    close = get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.6)
    return f": is it {' or '.join(lowered[match] for match in close)}?" if close else ""


def _column_list(frame: pd.DataFrame, limit: int = 12) -> str:
    names = [shortened(str(name)) for name in frame.columns if not str(name).startswith("Unnamed:")]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
