"""Bags in zarr, of which every part must be there and whole.

zarr reads a missing chunk as zeros, waits on a pipe, allocates any size that the metadata declare, and
decodes with any installed codec. For files of others that is unsafe, so the metadata are compared with the
files before anything is decoded.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.bags.foreign import foreign_store
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    import zarr

STORE_VERSION = 1

_METADATA = "zarr.json"

#: Codecs that are written, with which each chunk declares how many bytes it holds.
_CODECS = ["bytes", "zstd"]

#: Start of a zstd frame, and bytes of its size by the first two bits after it (RFC 8878, 3.1.1.1).
_ZSTD = b"\x28\xb5\x2f\xfd"
_SIZE_BYTES = (0, 2, 4, 8)

#: Arrays of up to this many bytes are read at any compression ratio. Larger ones are mostly features, which
#: hardly compress.
_ANY_RATIO = 64 * 2**20
_LARGEST_RATIO = 1000


class ZarrStore:
    """A zarr group with a group a scale, in which `features`, `bounds` and `grid` are arrays.

    The attribute `tiacrossfusion` of the group holds `store_version`, `provenance` and the names of the
    `scales`.
    """

    def save(self, bag: FeatureBag, path: Path) -> None:
        """See `BagStore.save`."""
        import zarr
        from zarr.codecs import ZstdCodec

        group = zarr.create_group(path, zarr_format=3)
        group.attrs["tiacrossfusion"] = {
            "store_version": STORE_VERSION,
            "provenance": bag.provenance.model_dump(mode="json"),
            "scales": list(bag.scales),
        }
        for name, scale in bag.scales.items():
            for field, array in vars(scale).items():
                if array is not None:
                    group.create_array(
                        f"{name}/{field}",
                        data=array,
                        # So that missing chunks and changed bytes are detected when it is read.
                        compressors=ZstdCodec(level=0, checksum=True),
                        config={"write_empty_chunks": True},
                    )

    def load(self, path: Path) -> FeatureBag:
        """See `BagStore.load`."""
        import zarr

        _check_file(path / _METADATA, path)
        group = zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
        record: Any = group.attrs["tiacrossfusion"]
        json.dumps(record, ensure_ascii=False).encode()  # fails on text that cannot be written
        version = int(record["store_version"])
        if version != STORE_VERSION:
            raise TiacfError(
                f"{path}: bag of store version {version}, this program reads {STORE_VERSION}; "
                "update tiacrossfusion or extract it again"
            )
        provenance = Provenance.model_validate(record["provenance"])
        scale_group = cache(group.__getitem__)  # opened once: it takes as long as an array
        scales = {}
        for name in SCALES:
            if name not in record["scales"]:
                continue
            features = _read_array(scale_group, path, f"{name}/features")
            if features is None:
                raise TiacfError(f"{path}: damaged, has no {name} features; extract it again")
            scales[name] = ScaleFeatures(
                features,
                _read_array(scale_group, path, f"{name}/bounds"),
                _read_array(scale_group, path, f"{name}/grid"),
            )
        return FeatureBag(scales, provenance)


def _read_array(scale_group: Callable[[str], Any], store: Path, name: str) -> np.ndarray | None:
    """Read an array, such as "20x/features"; None where it does not exist."""
    import zarr

    folder = store / name
    if not folder.is_dir():
        return None
    _check_file(folder.parent / _METADATA, store)
    _check_file(folder / _METADATA, store)
    array = scale_group(folder.parent.name)[folder.name]  # both are looked at
    if not isinstance(array, zarr.Array):
        raise TiacfError(f"{store}: {name} is no array; extract it again")
    codecs = [str(codec.to_dict()["name"]) for codec in array.metadata.codecs]
    if array.dtype.kind not in "biufc" or codecs != _CODECS:
        odd = codecs != _CODECS
        what = f"is packed with {printable(', '.join(codecs))[:80]}" if odd else "holds no numbers"
        raise TiacfError(f"{store}: {name} {what}; extract it again")
    if array.size:
        _check_chunks(array, folder, store)
    return np.asarray(array[:])


def _check_chunks(array: zarr.Array, folder: Path, store: Path) -> None:
    """Check that all chunks exist, and that they have the declared sizes."""
    sizes = [
        (Path(place) / file).stat().st_size
        for place, _, files in os.walk(folder, onerror=_cannot_list)
        for file in files
        if file != _METADATA
    ]
    pairs = zip(array.shape, array.chunks, strict=True)
    counts = [-(-size // chunk) for size, chunk in pairs]  # exact, however large
    total = math.prod(counts)
    if len(sizes) < total:  # otherwise the metadata may declare a huge number
        absent = total - len(sizes)
    else:
        keys = map(array.metadata.encode_chunk_key, np.ndindex(*counts))
        chunks = [folder / key for key in keys]
        absent = sum(not chunk.is_file() for chunk in chunks)
    name = folder.relative_to(store).as_posix()
    if absent:
        raise TiacfError(
            f"{store}: damaged, {absent} of {total} chunks of {name} are missing; extract it again"
        )
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if total * chunk_bytes > max(_ANY_RATIO, _LARGEST_RATIO * sum(sizes)):
        raise TiacfError(
            f"{store}: damaged, {name} is said to hold {float(total * chunk_bytes):.1g} bytes and its "
            f"files have {sum(sizes)}; extract it again"
        )
    wrong = sum(_unpacked_size(chunk) != chunk_bytes for chunk in chunks)
    if wrong:
        raise TiacfError(
            f"{store}: damaged, {wrong} of {total} chunks of {name} are of another size than "
            f"{chunk_bytes} bytes; extract it again"
        )


def _unpacked_size(chunk: Path) -> int | None:
    """Return the unpacked size that a chunk declares; None where it declares none."""
    with chunk.open("rb") as file:
        head = file.read(18)
    if len(head) < 6 or not head.startswith(_ZSTD):
        return None
    kind, single, dictionary = head[4] >> 6, head[4] >> 5 & 1, head[4] & 3
    width = _SIZE_BYTES[kind] or single
    start = 5 + (not single) + (0, 1, 2, 4)[dictionary]
    size = int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)
    return size if width else None


def _cannot_list(error: OSError) -> NoReturn:
    """Raise instead of treating an unreadable folder as empty."""
    raise error


def _check_file(path: Path, store: Path) -> None:
    """Refuse a store in which a file is missing or is not a regular file."""
    if not path.is_file():
        name = path.relative_to(store).as_posix()
        if known := foreign_store(store):
            raise TiacfError(f"{store}: {known}, and convert them with tiacf convert")
        raise TiacfError(
            f"{store}: not a feature bag, or a damaged one (no {name}); extract it again"
        )
