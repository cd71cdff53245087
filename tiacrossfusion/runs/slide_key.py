"""Parts of the cache key of a slide, and its mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tiacrossfusion.inference.extraction import mask_identity
from tiacrossfusion.io.paths import is_there
from tiacrossfusion.slides.files import slide_identity
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.tissue import find_mask


def with_own_mask(read: ReadOptions, slide: Path) -> ReadOptions:
    """Return the options with the slide's own mask, where a folder of masks is given.

    Raises:
        TiacfError: the folder has no mask for the slide, or more than one.
    """
    if not isinstance(read.mask, str | Path):
        return read
    return replace(read, mask=find_mask(Path(read.mask), slide))


def file_key(slide: Path) -> str:
    """Return size and time of modification of a slide's files."""
    size, mtime = slide_identity(slide) if is_there(slide) else (0, 0)
    return f"{size} {mtime}"


def scale_key(read: ReadOptions) -> str:
    """Return the scale that the user gave."""
    return f"mpp={read.scale.mpp} power={read.scale.power}"


def mask_key(read: ReadOptions) -> str:
    """Return a hash of the mask; empty where there is none.

    Raises:
        TiacfError: it cannot be read.
    """
    return "" if read.mask is None else mask_identity(read.mask)
