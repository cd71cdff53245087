"""Feature files in HDF5: those of TRIDENT, CLAM, STAMP and the like, and this package's own.

What the programs write (names and meanings of datasets and attributes, nothing else, is taken from
them):

- TRIDENT: `features` (N, E), `coords` (N, 2) with the attributes `patch_size`, `patch_size_level0`,
  `level0_magnification`, `target_magnification`, `overlap`, `name`, and since 0.2 `level0_width`,
  `level0_height`; `features` has `name` and, in later versions, `encoder`.
- CLAM: `features`, `coords`, mostly without attributes; where those of its patch files were kept,
  `patch_size` is in pixels of `patch_level`, whose reduction is `downsample`.
- STAMP: `feats`, `coords` in microns, attributes of the file `unit`, `tile_size_um`, `tile_size_px`,
  `extractor`. Its forerunners wrote `feats` and `coords` alone, in pixels of the tiles.
- TCGA-UT: `features` and names of tiles in `metadata`, such as `0_0_1_506.jpg`: class of size (0 to 5,
  128 to 256 microns), region, number in the region, side in level-0 pixels. No positions.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiacrossfusion.bags.bag import OWN_FORMAT
from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.interop.h5_datasets import check_links, check_written
from tiacrossfusion.interop.own_h5 import own_record
from tiacrossfusion.interop.scale_file import FileFacts, ScaleFile, as_features

#: Upper limit of sizes and coordinates; larger values are ignored, as zeros are.
_LARGEST = 2.0**40

_TILE_NAME = re.compile(r"\d+_\d+_\d+_(\d+)\.\w+")


def read_h5(path: Path) -> ScaleFile:
    """Read a feature file.

    Raises:
        TiacfError: the file is damaged or not one of features.
    """
    try:
        with h5py.File(path) as file:
            return _read(file, path)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        number = getattr(
            error, "errno", None
        )  # HDF5's own text on it is long and has the path again
        if number in (errno.EAGAIN, errno.EWOULDBLOCK):
            raise TiacfError(
                f"{path}: another program has locked it; wait until it is done, or set "
                "HDF5_USE_FILE_LOCKING=FALSE if none is writing to it"
            ) from error
        reason = os.strerror(number) if number else one_line(error)
        raise TiacfError(f"{path}: cannot be read as HDF5 ({reason}); make it again") from error


def _read(file: h5py.File, path: Path) -> ScaleFile:
    label = str(path)
    check_links(file, label)
    key = next((name for name in ("features", "feats") if name in file), None)
    if key is None or not isinstance(file[key], h5py.Dataset):
        have = ", ".join(file) or "nothing"
        raise TiacfError(f"{label}: holds {have}, no features or feats; give patch features")
    dataset = file[key]
    check_written(dataset, label)
    stacked = dataset.ndim == 3

    def rows(start: int, stop: int) -> np.ndarray:
        return np.asarray(dataset[0, start:stop] if stacked else dataset[start:stop])

    features = as_features(dataset.shape, rows, label)
    coords = _coords(file, len(features), label)
    facts = _facts(file, key)
    if coords is None:
        side = _side_from_names(file, len(features), label)
        facts = facts if side is None else replace(facts, side=side)
    provenance, bounds, grid = own_record(file, coords, label)
    name = _format(file, facts) if provenance is None else OWN_FORMAT
    return ScaleFile(path, name, features, coords, facts, provenance, bounds, grid)


def _coords(file: h5py.File, count: int, label: str) -> np.ndarray | None:
    """Return the coordinates (N, 2) as in the file."""
    if "coords" not in file:
        return None
    if not isinstance(file["coords"], h5py.Dataset):
        raise TiacfError(f"{label}: coords are no dataset; make it again")
    check_written(file["coords"], label)
    coords = np.asarray(file["coords"][()])
    if coords.ndim == 3 and len(coords) == 1:
        coords = coords[0]
    if coords.dtype.kind not in "iuf":
        raise TiacfError(f"{label}: coords are {coords.dtype}, not numbers; make it again")
    if coords.shape != (count, 2):
        raise TiacfError(
            f"{label}: coords have the shape {coords.shape}, not ({count}, 2), one for each patch; "
            "make it again"
        )
    coords = coords.astype(np.float64)
    if not (np.isfinite(coords).all() and (np.abs(coords) < _LARGEST).all()):
        raise TiacfError(f"{label}: coords are not all numbers of pixels; make it again")
    return coords


def _side_from_names(file: h5py.File, count: int, label: str) -> float | None:
    """Side of the patches in level-0 pixels from names of tiles such as `0_0_1_506.jpg`."""
    if "metadata" not in file or not isinstance(file["metadata"], h5py.Dataset):
        return None
    if file["metadata"].shape != (count,):
        return None
    check_written(file["metadata"], label)
    names = [
        n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in file["metadata"]
    ]
    matches = [_TILE_NAME.fullmatch(name) for name in names]
    sides = sorted({int(match[1]) for match in matches if match})
    if len(sides) > 1:
        raise TiacfError(
            f"{label}: its tile names state {len(sides)} patch sizes, {sides[0]} to {sides[-1]} px; "
            "a file must hold one scale, split it by size"
        )
    return float(sides[0]) if sides and all(matches) else None


def _facts(file: h5py.File, key: str) -> FileFacts:
    """Return the metadata; attributes of the coordinates have precedence over those of features and file."""
    said: dict[str, Any] = {**file.attrs, **file[key].attrs}
    if "coords" in file:
        said |= dict(file["coords"].attrs)
    patch_size = _number(said, "patch_size") or _number(said, "tile_size_px")
    side = _number(said, "patch_size_level0")
    downsample = _number(said, "downsample")
    if side is None and patch_size and downsample and "patch_level" in said:
        side = patch_size * downsample  # CLAM counts it in pixels of its level
        patch_size = None
    width, height = _number(said, "level0_width"), _number(said, "level0_height")
    microns = _text(said, "unit") == "um" or "tile_size_um" in said
    return FileFacts(
        name=_text(said, "name"),
        encoder=_text(said, "encoder") or _text(said, "extractor"),
        patch_size=round(patch_size) if patch_size else None,
        side=side,
        side_microns=_number(said, "tile_size_um"),
        power=_number(said, "level0_magnification"),
        magnification=_number(said, "target_magnification"),
        dimensions=(round(width), round(height)) if width and height else None,
        # CLAM and TRIDENT write level-0 pixels; programs that write `feats` do not.
        unit="micron" if microns else "level0" if key == "features" or side else None,
    )


def _number(said: dict[str, Any], name: str) -> float | None:
    """A number above 0, not absurdly large; of a pair such as CLAM's `downsample` the first."""
    try:
        value = float(np.ravel(said[name])[0])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return value if 0 < value < _LARGEST else None


def _text(said: dict[str, Any], name: str) -> str | None:
    value = said.get(name)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) and value else None


def _format(file: h5py.File, facts: FileFacts) -> str:
    """Return the name of the format, for messages."""
    if facts.unit == "micron":
        return "STAMP h5"
    if facts.magnification or facts.power:
        return "TRIDENT h5"
    datasets = ", ".join(
        name for name in ("features", "feats", "coords", "metadata") if name in file
    )
    return "CLAM h5" if datasets == "features, coords" else f"h5 ({datasets})"
