"""Bags of features: what a slide is once it has been encoded, and its store on disk.

A store is one zarr group, written whole to a temporary name and moved into place. Bags hold numbers
and JSON only; nothing in them is executed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tiacrossfusion.encoders import EncoderSpec
from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.sampling.spec import SCALES, SamplingSpec

STORE_VERSION = 1


class Provenance(BaseModel):
    """Where a bag comes from: enough to tell whether it serves, and to make it again.

    Attributes:
        slide: file name of the slide.
        slide_size: size of the file (of all files of a DICOM slide) in bytes; None when another
            program made the features, as with the other fields that may be None.
        slide_mtime_ns: time of last change, in nanoseconds.
        dimensions: width and height in level-0 pixels.
        mpp: microns per level-0 pixel along x and y.
        power: objective power of level 0.
        offset: level-0 position of the scanned area that QuPath counts from.
        mask: "otsu" and so on for TIAToolbox's mask, or the hash of the user's mask.
        sampling: how patches were laid and kept; of features of another program its patch size, and
            how other slides would be sampled for a model that is trained on them.
        encoder: what made the features.
        versions: versions of the packages that made the bag.
        road: how pixels were read, "tiles" (decoded from the TIFF) or "WSIReader" with the reason.
        precision: of the encoder's arithmetic, "float32", "bfloat16" or "float16".
        dropped: number of patches per scale left out because the slide is damaged there.
        imported: the other program's format and files; empty when this package made the features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide: str
    slide_size: int | None
    slide_mtime_ns: int | None
    dimensions: tuple[int, int] | None
    mpp: tuple[float, float] | None
    power: float | None
    offset: tuple[int, int]
    mask: str | None
    sampling: SamplingSpec
    encoder: EncoderSpec
    versions: dict[str, str]
    road: str | None = None
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    dropped: dict[str, int] = Field(default_factory=dict)
    imported: str = ""


@dataclass(frozen=True)
class ScaleFeatures:
    """The patches of one scale of a slide.

    Attributes:
        features: (N, E) float16.
        bounds: (N, 4) int64, level-0 pixels (x0, y0, x1, y1); None when it is not known where the
            patches lie.
        grid: (N, 2) int32, column and row on this scale's grid; the parent of a patch stands at
            (column // 2, row // 2) of the next coarser grid. None when the grids of a bag of another
            program do not nest.
    """

    features: np.ndarray
    bounds: np.ndarray | None
    grid: np.ndarray | None

    def __len__(self) -> int:
        """Return the number of patches, N."""
        return len(self.features)


@dataclass(frozen=True)
class FeatureBag:
    """All features of one slide at 5x, 10x and 20x, and where they come from."""

    scales: dict[str, ScaleFeatures]
    provenance: Provenance

    def __post_init__(self) -> None:
        """Check that the arrays belong together.

        Raises:
            TiacfError: an array is missing or its shape does not fit, or a value is not finite.
        """
        label = f"bag of {self.provenance.slide}"
        if tuple(self.scales) != SCALES:
            raise TiacfError(f"{label}: has the scales {list(self.scales)}, needs {list(SCALES)}")
        for name, scale in self.scales.items():
            n, width = len(scale.features), self.provenance.encoder.width
            for field, array, shape in (
                ("features", scale.features, (n, width)),
                ("bounds", scale.bounds, (n, 4)),
                ("grid", scale.grid, (n, 2)),
            ):
                if array is None and self.provenance.imported:
                    continue  # other programs' features may go without
                if array is None or array.shape != shape:
                    have = "no array" if array is None else f"the shape {array.shape}"
                    raise TiacfError(
                        f"{label}: {name} {field} has {have}, not {shape}; extract it again"
                    )
            if not np.isfinite(scale.features).all():
                raise TiacfError(f"{label}: {name} features are not finite; extract it again")

    def counts(self) -> dict[str, int]:
        """Return the number of patches per scale."""
        return {name: len(scale) for name, scale in self.scales.items()}

    def save(self, path: Path) -> None:
        """Write the bag as a zarr group; an existing store at `path` is replaced in one step."""
        import zarr

        path = Path(path)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            group = zarr.create_group(part)
            group.attrs["tiacrossfusion"] = {
                "store_version": STORE_VERSION,
                "provenance": self.provenance.model_dump(mode="json"),
            }
            for name, scale in self.scales.items():
                for field, array in vars(scale).items():
                    if array is not None:
                        group.create_array(f"{name}/{field}", data=array)
            replace_folder(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @classmethod
    def load(cls, path: Path) -> FeatureBag:
        """Read a bag.

        Raises:
            TiacfError: there is no store, or it is damaged or of another version.
        """
        import zarr

        path = Path(path)
        try:
            group = zarr.open_group(path, mode="r")
            record: Any = group.attrs["tiacrossfusion"]
            if record["store_version"] != STORE_VERSION:
                raise TiacfError(
                    f"{path}: bag of store version {record['store_version']}, this program reads "
                    f"{STORE_VERSION}; update tiacrossfusion or extract it again"
                )
            provenance = Provenance.model_validate(record["provenance"])
            scales = {}
            for name in SCALES:
                arrays = {field: np.asarray(array[:]) for field, array in group[name].arrays()}
                scales[name] = ScaleFeatures(
                    arrays["features"], arrays.get("bounds"), arrays.get("grid")
                )
        except TiacfError:
            raise
        except Exception as error:  # zarr raises many kinds on a damaged store
            raise TiacfError(
                f"{path}: not a feature bag, or a damaged one ({one_line(error)}); extract it again"
            ) from error
        return cls(scales, provenance)


def replace_folder(part: Path, path: Path) -> None:
    """Move a finished folder into place, over an older one if there is one.

    Folders cannot be swapped in one step everywhere: the old one is moved aside first, so that at any
    moment either the old or the new one is whole.
    """
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    if path.exists():
        os.replace(path, old)
    os.replace(part, path)
    shutil.rmtree(old, ignore_errors=True)


def slide_identity(path: Path) -> tuple[int, int]:
    """Size in bytes and time of last change (ns) of a slide file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    stats = [file.stat() for file in files if not file.is_dir()]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)


def check_same(wanted: BaseModel, found: BaseModel, what: str, label: str) -> None:
    """Refuse a bag made in another way than a model wants, saying which field differs.

    Args:
        wanted: what the model was trained with.
        found: what the bag was made with.
        what: "encoder" or "sampling", for the message.
        label: names the bag.

    Raises:
        TiacfError: a field differs; one that is None on either side is unknown and matches anything.
    """
    for field in type(wanted).model_fields:
        want, have = getattr(wanted, field), getattr(found, field)
        if want is not None and have is not None and want != have:
            raise TiacfError(
                f"{label}: made with {what} {field} = {have}, the model needs {want}; "
                "extract the slide again for this model"
            )
