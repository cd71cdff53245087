"""Bags of features: what a slide is once it has been encoded.

A store is written whole to a temporary name and moved into place. Bags hold numbers and JSON only; nothing
in them is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tiacrossfusion.bags.stores import store_of
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError, first_fault, one_line
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.io.paths import missing
from tiacrossfusion.slides.spec import SCALES, SamplingSpec

#: What `Provenance.imported` begins with of files that this package wrote for other programs.
OWN_FORMAT = "tiacrossfusion h5"

#: Remedy for a bag that a model does not accept.
EXTRACT_AGAIN = "extract the slide again for this model"

#: Upper limit of level-0 pixels; sums and products below it are exact.
_FARTHEST = 2**40

#: Most columns and rows of a grid: a slide one metre long has fewer, and maps fit in memory.
_MOST_CELLS = 2**14

_Size = Annotated[int, Field(gt=0, lt=_FARTHEST)]
_Position = Annotated[int, Field(gt=-_FARTHEST, lt=_FARTHEST)]
_Scale = Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)]


class Provenance(BaseModel):
    """Where a bag comes from: enough to check whether a model accepts it, and to make it again.

    Attributes:
        slide: file name of the slide.
        slide_size: size of the file (of all files of a DICOM slide) in bytes; None when another
            program made the features, as with the other fields that may be None.
        slide_hash: hash of parts of its content; None when another program made the features.
        dimensions: width and height in level-0 pixels.
        mpp: microns per level-0 pixel along x and y.
        power: objective power of level 0.
        offset: level-0 position of the scanned area that QuPath counts from.
        mask: "otsu" and so on for TIAToolbox's mask, or the hash of the user's mask.
        sampling: how patches were laid and kept; of features of another program its patch size, and
            how other slides would be sampled for a model that is trained on them.
        encoder: what made the features.
        versions: versions of the packages that made the bag.
        reader: how pixels were read, "tiles" (decoded from the TIFF) or "WSIReader" with the reason.
        precision: of the encoder's arithmetic, "float32", "bfloat16" or "float16".
        dropped: number of patches per scale left out because the slide is damaged there.
        colour: how far red, green and blue lie apart, on average over the patches, in grey levels.
        mask_classes: which classes of areas the user's mask was made of, in words.
        imported: format and files that the features were read from; empty when they were extracted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide: str
    slide_size: int | None
    slide_hash: str | None
    dimensions: tuple[_Size, _Size] | None
    mpp: tuple[_Scale, _Scale] | None
    power: _Scale | None
    offset: tuple[_Position, _Position]
    mask: str | None
    sampling: SamplingSpec
    encoder: EncoderSpec
    versions: dict[str, str]
    reader: str | None = None
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    dropped: dict[str, int] = Field(default_factory=dict)
    colour: float | None = Field(None, ge=0, le=255)
    mask_classes: str = ""
    imported: str = ""


@dataclass(frozen=True)
class ScaleFeatures:
    """The patches of one scale of a slide.

    Attributes:
        features: (N, E) float16; a program that makes bags itself may give float32.
        bounds: (N, 4) int64, level-0 pixels (x0, y0, x1, y1); None when it is not known where the
            patches lie.
        grid: (N, 2) int32, column and row on this scale's grid; the parent of a patch lies at
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
    """The features of one slide at 5x, 10x and 20x or at some of these scales, and where they come from.

    Attributes:
        scales: the patches of each scale, from coarse to fine.
        provenance: where they come from.
    """

    scales: dict[str, ScaleFeatures]
    provenance: Provenance

    def __post_init__(self) -> None:
        """Check shapes, types and values.

        Raises:
            TiacfError: an array is missing, has a wrong shape or type, or holds an impossible value.
        """
        label = f"bag of {self.provenance.slide}"
        known = [scale for scale in SCALES if scale in self.scales]
        if not known or list(self.scales) != known:
            raise TiacfError(
                f"{label}: has the scales {list(self.scales)}, not some of {list(SCALES)} in this order"
            )
        for name, scale in self.scales.items():
            n, width = len(scale.features), self.provenance.encoder.width
            for field, array, shape, types in (
                ("features", scale.features, (n, width), ("float16", "float32")),
                ("bounds", scale.bounds, (n, 4), ("int64",)),
                ("grid", scale.grid, (n, 2), ("int32",)),
            ):
                if array is None and self.provenance.imported:
                    continue  # features of other programs may lack positions
                if array is None or array.shape != shape:
                    have = "no array" if array is None else f"the shape {array.shape}"
                    raise TiacfError(
                        f"{label}: {name} {field} has {have}, not {shape}; extract it again"
                    )
                if array.dtype not in types:
                    raise TiacfError(
                        f"{label}: {name} {field} are {array.dtype}, not {' or '.join(types)}; "
                        "extract it again"
                    )
            wrong = _wrong_values(scale)
            if wrong:
                raise TiacfError(f"{label}: {name} {wrong}; extract it again")

    @property
    def finest(self) -> str:
        """The finest scale of the bag."""
        return list(self.scales)[-1]

    def counts(self) -> dict[str, int]:
        """Return the number of patches per scale."""
        return {name: len(scale) for name, scale in self.scales.items()}

    def save(self, path: Path) -> None:
        """Write the bag into a store of the kind that the suffix names; an older one is replaced in one step.

        Raises:
            UsageError: the suffix names no kind of store.
            OSError: it cannot be written.
        """
        path = Path(path)
        store = store_of(path)
        with replacing(path) as part:
            store.save(self, part)

    @classmethod
    def load(cls, path: Path) -> FeatureBag:
        """Read a bag from a store of any kind.

        Raises:
            TiacfError: there is no store, it is damaged or of another version, or there is not enough
                memory.
        """
        path = Path(path)
        try:
            if not path.exists():
                raise TiacfError(f"{path}: not a feature bag, {missing(path)}; check the path")
            return store_of(path).load(path)
        except TiacfError as error:
            if str(error).startswith(f"{path}: "):
                raise
            raise TiacfError(f"{path}: {error}") from error
        except PermissionError as error:
            raise TiacfError(
                f"{path}: cannot be read ({error.strerror}); check its rights"
            ) from error
        except ValidationError as error:
            field, reason = first_fault(error)
            raise TiacfError(
                f"{path}: damaged, its provenance cannot be ({field}: {reason}); extract it again"
            ) from error
        except MemoryError as error:
            raise TiacfError(
                f"{path}: needs more memory than there is; take a machine with more"
            ) from error
        except Exception as error:  # libraries raise many kinds on a damaged store
            raise TiacfError(
                f"{path}: not a feature bag, or a damaged one ({one_line(error)}); extract it again"
            ) from error


def _wrong_values(scale: ScaleFeatures) -> str:
    """Return which values of a scale are impossible; empty where all are valid."""
    not_finite = scale.features.size - int(np.isfinite(scale.features).sum())
    if not_finite:
        return f"features are not finite, {not_finite} of {scale.features.size}"
    if scale.bounds is not None:
        bounds = scale.bounds
        wrong = (bounds[:, :2] >= bounds[:, 2:]) | (bounds[:, :2] < -_FARTHEST)
        count = int((wrong | (bounds[:, 2:] > _FARTHEST)).any(axis=1).sum())
        if count:
            return f"bounds of {count} of {len(scale)} patches are no rectangles of a slide"
    if scale.grid is not None and ((scale.grid < 0) | (scale.grid >= _MOST_CELLS)).any():
        return f"grid has columns or rows below 0, or {_MOST_CELLS} and above"
    return ""


def check_same(
    wanted: BaseModel, found: BaseModel, what: str, label: str, remedy: str = EXTRACT_AGAIN
) -> None:
    """Refuse a bag that was made in another way than a model needs, and name the field that differs.

    Raises:
        TiacfError: a field differs; None means unknown and matches any value.
    """
    for field in type(wanted).model_fields:
        if field == "package":  # which an encoder comes from does not change its features
            continue
        want, have = getattr(wanted, field), getattr(found, field)
        if want is not None and have is not None and want != have:
            raise TiacfError(
                f"{label}: made with {what} {field} = {have}, the model needs {want}; {remedy}"
            )
