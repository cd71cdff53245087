"""What the tags of a TIFF say of its pictures, before its pixels are trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tifffile import TiffPage

#: How classic TIFF and BigTIFF begin, in either byte order.
_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class TiffTags:
    """What is known of a TIFF without decoding it.

    Attributes:
        bits: of a sample of its largest picture.
        colour: how the samples of that are to be understood, such as "RGB" or "MINISBLACK".
        compression: of that, such as "JPEG".
        empty: width, height and number of tiles of a picture of which no tile holds data; None where
            there is no such picture.
        cut_off: the file ends before some of its tiles or strips do.
    """

    bits: int
    colour: str
    compression: str
    empty: tuple[int, int, int] | None
    cut_off: bool


def read_tiff_tags(path: Path) -> TiffTags | None:
    """Read the tags of a file; None where it is no TIFF, or one whose tags cannot be read."""
    if not path.is_file():
        return None
    from tifffile import TiffFile, TiffPage

    try:
        with path.open("rb") as file:
            if file.read(4) not in _BEGINNINGS:
                return None
        with TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, TiffPage)]
            largest = max(pages, key=lambda page: page.imagewidth * page.imagelength)
            size = path.stat().st_size
            return TiffTags(
                bits=int(np.max(largest.bitspersample)),
                colour=_name(largest.photometric),
                compression=_name(largest.compression),
                empty=next((_extent(page) for page in pages if _is_empty(page)), None),
                cut_off=any(_end(page) > size for page in pages),
            )
    except Exception:  # what is wrong with the file is for the slide's reader to say
        return None


def _name(value: object) -> str:
    """Name of a tag's value; its number where the value has none."""
    return str(getattr(value, "name", value))


def _is_empty(page: TiffPage) -> bool:
    return page.is_tiled and not np.any(page.databytecounts)


def _extent(page: TiffPage) -> tuple[int, int, int]:
    return page.imagewidth, page.imagelength, len(page.databytecounts)


def _end(page: TiffPage) -> int:
    """Where the last byte of a picture should lie in the file."""
    ends = (
        offset + size for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False)
    )
    return max(ends, default=0)
