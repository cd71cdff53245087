"""The content of one feature file: the patches of a slide at one scale, in any format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tiacrossfusion.errors import TiacfError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiacrossfusion.bags.bag import Provenance

#: Unit of coordinates: pixels of level 0, pixels of the scale, or microns.
CoordsUnit = Literal["level0", "scale", "micron"]

#: Rows that are converted at once, so that a file is never in memory twice.
_BLOCK = 8192
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class FileFacts:
    """Metadata of a file; None where it states nothing.

    Attributes:
        name: the slide.
        encoder: what made the features.
        patch_size: side of a patch in pixels of its scale.
        side: side of a patch in level-0 pixels.
        side_microns: side of a patch in microns.
        power: objective power of level 0.
        magnification: of the patches, such as 20.
        dimensions: width and height in level-0 pixels.
        unit: of the coordinates.
    """

    name: str | None = None
    encoder: str | None = None
    patch_size: int | None = None
    side: float | None = None
    side_microns: float | None = None
    power: float | None = None
    magnification: float | None = None
    dimensions: tuple[int, int] | None = None
    unit: CoordsUnit | None = None


@dataclass(frozen=True)
class ScaleFile:
    """The content of one feature file.

    Attributes:
        path: the file.
        format: name of the format, for messages.
        features: (N, E) float16.
        coords: (N, 2) float64, top left corners as in the file; None without coordinates.
        facts: its metadata.
        provenance: of the bag that this package wrote it from; None for a file of another program.
        bounds: (N, 4) int64, level-0 pixels, of such a file.
        grid: (N, 2) int32, of such a file; None when the bag had none.
    """

    path: Path
    format: str
    features: np.ndarray
    coords: np.ndarray | None = None
    facts: FileFacts = field(default_factory=FileFacts)
    provenance: Provenance | None = None
    bounds: np.ndarray | None = None
    grid: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of patches, N."""
        return len(self.features)


def as_features(
    shape: tuple[int, ...], rows: Callable[[int, int], np.ndarray], label: str
) -> np.ndarray:
    """Convert features to float16, block by block.

    Args:
        shape: (N, E), or (1, N, E) as some writers have it.
        rows: returns the rows from a first to a last one (exclusive), (n, E).
        label: names the file.

    Returns:
        (N, E) float16.

    Raises:
        TiacfError: the shape is wrong, there is no patch, or a value is not finite or larger
            than a float16 can be.
    """
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or not shape[1]:
        raise TiacfError(
            f"{label}: features have the shape {shape}, not (patches, width); give patch features"
        )
    if not shape[0]:
        raise TiacfError(f"{label}: holds no patch; leave this slide out")
    features = np.empty(shape, np.float16)
    not_finite = too_large = 0
    for start in range(0, shape[0], _BLOCK):
        block = np.asarray(rows(start, start + _BLOCK))
        if block.dtype.kind != "f":
            raise TiacfError(
                f"{label}: features are {block.dtype}, not floating-point numbers; make the file again"
            )
        finite = np.isfinite(block)
        not_finite += block.size - int(finite.sum())
        too_large += int((finite & (np.abs(block) > _LARGEST)).sum())
        with np.errstate(over="ignore"):  # counted above
            features[start : start + _BLOCK] = block
    if not_finite:
        raise TiacfError(f"{label}: {not_finite} features are not finite; make the file again")
    if too_large:
        raise TiacfError(
            f"{label}: {too_large} features are beyond {_LARGEST:g}, the largest that a bag can hold; "
            "scale the features down in all slides"
        )
    return features
