"""What the tasks on slides share: their options, and parts of the cache key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from tiacrossfusion.inference.extraction import mask_identity
from tiacrossfusion.io.paths import absolute
from tiacrossfusion.slides.files import OwnOptions, own_key, slide_identity
from tiacrossfusion.slides.mask_files import find_mask
from tiacrossfusion.slides.options import Mask, ReadOptions, Scale


@dataclass(frozen=True)
class RunOptions:
    """How slides are read, and which results are made again.

    Attributes:
        read: how slides are read; its mask may be a folder with one file a slide.
        overwrite: make finished results again.
        retry_failed: try again what failed before with the same cache key.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    overwrite: bool = False
    retry_failed: bool = False

    def with_mask(self, masks: Sequence[Mask | None] | None, index: int) -> Self:
        """Return the options of one slide; its own mask, where there are some, replaces that of all."""
        return self if masks is None else self._masked(masks[index])

    def with_own(self, own: Mapping[str, OwnOptions]) -> Self:
        """Return the options with those of single slides added."""
        return replace(self, read=replace(self.read, own={**self.read.own, **own}))

    def absolute(self) -> Self:
        """Return the options with an absolute path of the mask, for processes elsewhere."""
        return self._masked(absolute(self.read.mask))

    def _masked(self, mask: Mask | None) -> Self:
        return replace(self, read=replace(self.read, mask=mask))


def of_slide(read: ReadOptions, slide: Path) -> ReadOptions:
    """Return the options with the slide's own scale and mask, from a list or a folder of masks.

    Raises:
        TiacfError: the folder has no mask for the slide, or more than one.
    """
    own = read.own.get(own_key(slide), OwnOptions())
    if own.mpp is not None:
        read = replace(read, scale=Scale(own.mpp))
    if own.mask is not None:
        return replace(read, mask=own.mask)
    if not isinstance(read.mask, str | Path):
        return read
    return replace(read, mask=find_mask(Path(read.mask), slide))


def slide_key(slide: Path, read: ReadOptions) -> dict[str, str]:
    """Return the parts of the cache key that are of the slide: its file, its scale as given, its mask.

    Raises:
        TiacfError: the mask cannot be read.
    """
    return {
        "slide file": file_content(slide),
        "scale": f"mpp={read.scale.mpp} power={read.scale.power} series={read.series}",
        "mask": "" if read.mask is None else mask_identity(read.mask, read.mask_classes),
    }


def file_content(slide: Path) -> str:
    """Return what identifies a slide's file wherever it lies; empty if it cannot be read."""
    try:
        size, digest = slide_identity(slide)
    except OSError:  # opening the slide tells why
        return ""
    return f"{size} {digest}"
