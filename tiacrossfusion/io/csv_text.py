"""The text of a CSV file, whichever way it is packed."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from pathlib import Path

from tiacrossfusion.io.paths import is_endless

#: Larger tables are none; a packed file of some kilobytes could hold any number of them.
_LARGEST = 2**30


def read_table_text(path: Path) -> str:
    """Read a CSV file, as it is or packed as `.gz` or `.zip`.

    Args:
        path: the file.

    Returns:
        Its text, without the mark that spreadsheet programs begin UTF-8 with.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
        ValueError: it is packed in another way, damaged or too large, or has NUL bytes, at which pandas
            would cut values off without a word.
    """
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
    if "\0" in text:
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
