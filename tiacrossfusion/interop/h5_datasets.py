"""Checks that an HDF5 file holds what its datasets declare."""

from __future__ import annotations

import math

import h5py

from tiacrossfusion.errors import TiacfError

#: Datasets of up to this many bytes are read at any compression ratio. Larger ones are mostly features,
#: which hardly compress.
_ANY_RATIO = 64 * 2**20
_LARGEST_RATIO = 1000


def check_links(file: h5py.File, label: str) -> None:
    """Refuse links to other datasets and files, before they are followed.

    Raises:
        TiacfError: an entry is a link.
    """
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise TiacfError(f"{label}: {name} is a link, which is not followed; make it again")


def check_written(dataset: h5py.Dataset, label: str) -> None:
    """Refuse a dataset of which parts were never written, which HDF5 reads as zeros.

    Datasets in other files, and small ones that unpack to fill the memory, are refused too.

    Raises:
        TiacfError: parts are missing, or it declares more than its bytes can hold.
    """
    if dataset.external or dataset.is_virtual:
        raise TiacfError(
            f"{label}: {dataset.name} lies in other files, which are not read; make it again"
        )
    if not dataset.size:
        return
    held = dataset.id.get_storage_size()
    if dataset.chunks is None:
        wanted, stored, declared = 1, int(held > 0), dataset.nbytes
    else:
        pairs = zip(dataset.shape, dataset.chunks, strict=True)
        wanted = math.prod(-(-size // chunk) for size, chunk in pairs)
        stored = dataset.id.get_num_chunks()
        declared = wanted * math.prod(dataset.chunks) * dataset.dtype.itemsize
    if stored < wanted:
        raise TiacfError(
            f"{label}: {wanted - stored} of {wanted} parts of {dataset.name} were never written; make "
            "the file again"
        )
    layout = dataset.id.get_create_plist()
    filters = [layout.get_filter(number)[0] for number in range(layout.get_nfilters())]
    if declared > max(_ANY_RATIO, _LARGEST_RATIO * held) or len(set(filters)) < len(filters):
        raise TiacfError(
            f"{label}: {dataset.name} is said to hold {declared:,} bytes and has {held} in the file; "
            "make it again"
        )
