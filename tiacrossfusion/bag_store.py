"""The arrays of a bag on disk, in zarr, of which every part must be there and whole.

zarr reads a chunk that is missing as zeros, waits on a pipe, makes room for whatever size the metadata
declare, and decodes with any codec that is installed. None of that is for files that others send: what
is declared is compared with what lies there before anything is decoded.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from tiacrossfusion.errors import TiacfError

if TYPE_CHECKING:
    import zarr

_METADATA = "zarr.json"

#: Codecs of the zarr 3 specification, which only move, compress or check bytes.
_CODECS = {"blosc", "bytes", "crc32c", "gzip", "transpose", "zstd"}

#: Arrays of up to this many bytes are read whatever they were compressed to. Larger ones, of features
#: mostly, take about as much room on disk as in memory.
_ANY_RATIO = 64 * 2**20
_LARGEST_RATIO = 1000


def open_store(store: Path) -> zarr.Group:
    """Open a store for reading.

    Raises:
        Exception: of whatever kind zarr has for stores that it cannot open.
    """
    import zarr

    _check_file(store / _METADATA, store)
    return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)


def write_array(group: zarr.Group, name: str, array: np.ndarray) -> None:
    """Write an array so that a missing chunk and changed bytes are noticed when it is read."""
    from zarr.codecs import ZstdCodec

    group.create_array(
        name,
        data=array,
        compressors=ZstdCodec(level=0, checksum=True),
        config={"write_empty_chunks": True},
    )


def read_array(group: zarr.Group, store: Path, name: str) -> np.ndarray | None:
    """Read an array.

    Args:
        group: the store, opened.
        store: its path.
        name: of the scale and the array in it, such as "20x/features".

    Returns:
        The array; None when there is none.

    Raises:
        TiacfError: part of it is missing, it holds no numbers, or it is packed in an unknown way or much
            larger than its files can be.
        Exception: of whatever kind zarr has for chunks that it cannot decode.
    """
    import zarr

    folder = store / name
    if not folder.is_dir():
        return None
    _check_file(folder.parent / _METADATA, store)
    _check_file(folder / _METADATA, store)
    array = group[folder.parent.name][folder.name]  # both are looked at
    if not isinstance(array, zarr.Array):
        raise TiacfError(f"{store}: {name} is no array; extract it again")
    unknown = {str(codec.to_dict()["name"]) for codec in array.metadata.codecs} - _CODECS
    if array.dtype.kind not in "biufc" or unknown:
        what = f"is packed with {', '.join(sorted(unknown))}" if unknown else "holds no numbers"
        raise TiacfError(f"{store}: {name} {what}; extract it again")
    if array.size:
        _check_chunks(array, folder, store)
    return np.asarray(array[:])


def _check_chunks(array: zarr.Array, folder: Path, store: Path) -> None:
    """Check that all chunks are there, and that they may hold what is declared."""
    sizes = [
        (Path(place) / file).stat().st_size
        for place, _, files in os.walk(folder, onerror=_cannot_list)
        for file in files
        if file != _METADATA
    ]
    counts = [
        -(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)
    ]  # exact, however large
    total = math.prod(counts)
    if len(sizes) < total:  # else there may be very many to look for
        absent = total - len(sizes)
    else:
        keys = map(array.metadata.encode_chunk_key, np.ndindex(*counts))
        absent = sum(not (folder / key).is_file() for key in keys)
    name = folder.relative_to(store).as_posix()
    if absent:
        raise TiacfError(
            f"{store}: damaged, {absent} of {total} chunks of {name} are missing; extract it again"
        )
    if array.nbytes > max(_ANY_RATIO, _LARGEST_RATIO * sum(sizes)):
        raise TiacfError(
            f"{store}: damaged, {name} is said to hold {array.nbytes:.1g} bytes and its files have "
            f"{sum(sizes)}; extract it again"
        )


def _cannot_list(error: OSError) -> NoReturn:
    """Let nothing pass for missing that may only not be looked at."""
    raise error


def _check_file(path: Path, store: Path) -> None:
    """Refuse a store without one of its files, or with something else in its place."""
    if not path.is_file():
        name = path.relative_to(store).as_posix()
        raise TiacfError(
            f"{store}: not a feature bag, or a damaged one (no {name}); extract it again"
        )
