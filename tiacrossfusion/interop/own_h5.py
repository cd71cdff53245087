"""TRIDENT-style h5 files of bags, which hold all that is needed to restore the bag."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, Provenance
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.interop.h5_datasets import check_written

#: Attribute with the provenance of the bag; other programs ignore it.
_RECORD = "tiacrossfusion_provenance"


def write_h5(path: Path, bag: FeatureBag, scale: str, name: str) -> None:
    """Write one scale of a bag as TRIDENT writes it, and its bounds and grid beside that.

    Raises:
        TiacfError: the bag does not know where its patches lie.
    """
    data, provenance = bag.scales[scale], bag.provenance
    if data.bounds is None:
        raise TiacfError(
            f"{name}: it is not known where its {scale} patches lie, and h5 files need that; "
            "write pt files"
        )
    attributes = {
        "patch_size": provenance.sampling.patch_size,
        "patch_size_level0": round(float(np.median(data.bounds[:, 2] - data.bounds[:, 0]))),
        "target_magnification": int(scale.removesuffix("x")),
        "overlap": 0,
        "name": name,
    }
    if provenance.power is not None:
        attributes["level0_magnification"] = provenance.power
    if provenance.dimensions is not None:
        attributes["level0_width"], attributes["level0_height"] = provenance.dimensions
    # In memory first: HDF5 may crash the interpreter when the disk is full.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        # Other programs feed them to float32 networks without a cast.
        features = file.create_dataset("features", data=data.features.astype(np.float32))
        features.attrs.update({"name": name, "encoder": provenance.encoder.name})
        coords = file.create_dataset("coords", data=data.bounds[:, :2].astype(np.int64))
        coords.attrs.update(attributes)
        file.create_dataset("bounds", data=data.bounds)
        if data.grid is not None:
            file.create_dataset("grid", data=data.grid)
        file.attrs[_RECORD] = provenance.model_dump_json()
    path.write_bytes(content.getbuffer())


def own_record(
    file: h5py.File, coords: np.ndarray | None, label: str
) -> tuple[Provenance | None, np.ndarray | None, np.ndarray | None]:
    """Return the provenance, bounds and grid that this package wrote; None where another program did.

    Raises:
        TiacfError: the file was changed since, so that its parts no longer belong together.
    """
    if _RECORD not in file.attrs:
        return None, None, None
    try:
        provenance = Provenance.model_validate_json(file.attrs[_RECORD])
        for name in ("bounds", "grid"):
            if name in file:
                check_written(file[name], label)
        bounds = np.asarray(file["bounds"][()], np.int64)
        grid = np.asarray(file["grid"][()], np.int32) if "grid" in file else None
        fits = coords is not None and np.array_equal(bounds[:, :2], coords)
        if not fits or (grid is not None and grid.shape != bounds[:, :2].shape):
            raise ValueError("positions differ")
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise TiacfError(
            f"{label}: was changed after tiacf wrote it; write it again from its bag, or remove its "
            f"attribute {_RECORD} to have it read as another program's"
        ) from error
    return provenance, bounds, grid


def is_own_h5(path: Path) -> bool:
    """Return whether this package wrote an h5 file."""
    try:
        with h5py.File(path) as file:
            return _RECORD in file.attrs
    except OSError:
        return False
