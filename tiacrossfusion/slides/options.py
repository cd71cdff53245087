"""How slides are read: one set of options instead of the same parameters at every function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tiacrossfusion.io.arguments import at_least, one_scale
from tiacrossfusion.slides.files import OwnOptions

if TYPE_CHECKING:
    import numpy as np


class WholeSlide:
    """A mask that covers the whole slide, glass included."""


#: A tissue mask: an image or GeoJSON file, a folder with one file a slide, an array (H, W), or all of it.
Mask: TypeAlias = "str | Path | np.ndarray | WholeSlide"


#: Makes other pixels of images (B, h, w, 3) uint8 at so many microns per pixel.
PixelChange: TypeAlias = "Callable[[np.ndarray, float], np.ndarray]"


@dataclass(frozen=True)
class Scale:
    """The scale of level 0, where a slide does not state it or states it wrongly.

    Attributes:
        mpp: microns per pixel; None takes what the file says.
        power: objective power; None takes what the file says.

    Raises:
        UsageError: a value is not above 0, or the two contradict each other.
    """

    mpp: float | None = None
    power: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        one_scale(self.mpp, self.power)


@dataclass(frozen=True)
class ReadOptions:
    """How the pixels of a slide are read.

    Attributes:
        scale: of level 0, over what the file says.
        mask: tissue mask; None finds the tissue.
        mask_classes: take the areas of a GeoJSON mask that have these classes only.
        series: number of the picture of a TIFF to read; None takes the largest in colour.
        allow_enlarged: read slides whose 20x patches are enlarged more than twice, too.
        own: scale and mask of single slides, over those of all, see `slides.files.own_key`.
        batch_size: patches in a batch; results do not depend on it.
        num_workers: reading threads; results do not depend on it.

    Raises:
        UsageError: a count is out of range.
    """

    scale: Scale = field(default_factory=Scale)
    mask: Mask | None = None
    mask_classes: tuple[str, ...] = ()
    series: int | None = None
    allow_enlarged: bool = False
    own: Mapping[str, OwnOptions] = field(default_factory=dict)
    batch_size: int = 32
    num_workers: int = 2

    def __post_init__(self) -> None:
        """Check the counts."""
        at_least("batch_size", self.batch_size, 1)
        at_least("num_workers", self.num_workers, 0)
        if self.series is not None:
            at_least("series", self.series, 0)
