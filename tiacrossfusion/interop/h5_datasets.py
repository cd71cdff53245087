"""Whether an HDF5 file itself holds what its datasets declare."""

from __future__ import annotations

import math

import h5py

from tiacrossfusion.errors import TiacfError


def check_links(file: h5py.File, label: str) -> None:
    """Refuse a file that takes a dataset from somewhere else, before it is followed there.

    Args:
        file: opened.
        label: names it.

    Raises:
        TiacfError: it does.
    """
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise TiacfError(f"{label}: {name} is a link, which is not followed; make it again")


def check_written(dataset: h5py.Dataset, label: str) -> None:
    """Refuse a dataset of which parts were never written; HDF5 reads zeros for them, of any number.

    Nor is one read whose numbers lie in other files.

    Args:
        dataset: of the file.
        label: names the file.

    Raises:
        TiacfError: parts are missing.
    """
    if dataset.external or dataset.is_virtual:
        raise TiacfError(
            f"{label}: {dataset.name} lies in other files, which are not read; make it again"
        )
    if not dataset.size:
        return
    if dataset.chunks is None:
        wanted, stored = 1, int(dataset.id.get_storage_size() > 0)
    else:
        pairs = zip(dataset.shape, dataset.chunks, strict=True)
        wanted = math.prod(-(-size // chunk) for size, chunk in pairs)
        stored = dataset.id.get_num_chunks()
    if stored < wanted:
        raise TiacfError(
            f"{label}: {wanted - stored} of {wanted} parts of {dataset.name} were never written; make "
            "the file again"
        )
