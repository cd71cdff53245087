"""The directories of a TIFF, read once, before any library makes room for what they declare.

OpenSlide, libtiff and tifffile trust the tags. A few wrong bytes turn a small file into a slide of billions
of pixels, whose missing tiles are painted one after another, or give it tiles that do not fit in memory, and
OpenSlide then ends the process. So the directories are checked first, which takes milliseconds. The content
of tiles is checked when they are decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tiacrossfusion.errors import TiacfError

#: Bytes of a value of each type (TIFF 6.0, section 2; 13 and 16 to 18 are from supplement 1 and BigTIFF).
_TYPE_BYTES = {
    kind: size
    for size, kinds in (
        (1, (1, 2, 6, 7)),
        (2, (3, 8)),
        (4, (4, 9, 11, 13)),
        (8, (5, 10, 12, 16, 17, 18)),
    )
    for kind in kinds
}
#: Those that hold whole numbers or bytes; the numbers that are read are not negative in any type.
_WHOLE = (1, 3, 4, 6, 7, 8, 9, 13, 16, 17, 18)


class Tag(IntEnum):
    """Tags that are read (TIFF 6.0, and SGI's for depths)."""

    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_SIZES = 279
    PLANES = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_SIZES = 325
    SUB_DIRECTORIES = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    IMAGE_DEPTH = 32997
    TILE_DEPTH = 32998


_READ = frozenset(Tag)
#: Tags of which all values are read; of the others it is the first.
_LISTS = (
    *(Tag.BITS, Tag.SAMPLE_FORMAT, Tag.JPEG_TABLES, Tag.SUB_DIRECTORIES),
    *(Tag.STRIP_OFFSETS, Tag.STRIP_SIZES, Tag.TILE_OFFSETS, Tag.TILE_SIZES),
)
#: Tags that may not occur twice in a directory: libraries differ in which one they take.
_ONCE = (
    *(Tag.WIDTH, Tag.HEIGHT, Tag.SAMPLES, Tag.PLANES, Tag.ROWS_PER_STRIP, Tag.STRIP_SIZES),
    *(Tag.TILE_WIDTH, Tag.TILE_HEIGHT, Tag.TILE_SIZES, Tag.SUB_DIRECTORIES),
)

#: A tag of Hamamatsu's NDPI, by which OpenSlide knows their files.
_NDPI = 65420

#: Names of colour spaces (PhotometricInterpretation).
_COLOURS = {
    0: "MINISWHITE",
    1: "MINISBLACK",
    2: "RGB",
    3: "PALETTE",
    4: "MASK",
    5: "SEPARATED",
    6: "YCBCR",
    8: "CIELAB",
}
_RGB, _OLD_JPEG = 2, 6

#: Most directories of a file; a slide has about ten, a stack of many planes and channels some thousands.
_MOST_DIRECTORIES = 20_000

#: Longest side of a tile in pixels; decoded, such a tile takes 256 MiB. Scanners write at most 4,096.
_LARGEST_TILE = 8192


class _BrokenError(Exception):
    """The message says what is wrong with a file."""


@dataclass(frozen=True)
class TiffPicture:
    """The directory of one picture, with its tags as they are in the file.

    Attributes:
        offset: where the directory lies in the file.
        is_main: it is in the chain of the file, not below another directory.
        counts: number of values of each tag.
        values: values of the tags that are read.
    """

    offset: int
    is_main: bool
    counts: dict[int, int]
    values: dict[int, np.ndarray]

    def value(self, tag: Tag, otherwise: int) -> int:
        """Return the first value of a tag, or what holds without the tag."""
        return int(self.values[tag][0]) if tag in self.values else otherwise

    def all_values(self, tag: Tag) -> np.ndarray:
        """Return all values of a tag, (n,) int64."""
        return self.values.get(tag, np.empty(0)).astype(np.int64)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.value(Tag.WIDTH, 0), self.value(Tag.HEIGHT, 0)

    @property
    def tile_size(self) -> tuple[int, int]:
        """Width and height of a tile."""
        return self.value(Tag.TILE_WIDTH, 0), self.value(Tag.TILE_HEIGHT, 0)

    @property
    def is_tiled(self) -> bool:
        """Whether the picture lies in tiles, not in strips."""
        return Tag.TILE_OFFSETS in self.counts or Tag.TILE_WIDTH in self.counts

    @property
    def offsets(self) -> np.ndarray:
        """Where the tiles or strips begin in the file, (n,) int64."""
        return self.all_values(Tag.TILE_OFFSETS if self.is_tiled else Tag.STRIP_OFFSETS)

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of the tiles or strips, (n,) int64."""
        return self.all_values(Tag.TILE_SIZES if self.is_tiled else Tag.STRIP_SIZES)

    @property
    def is_empty(self) -> bool:
        """Whether none of its tiles holds data."""
        return self.is_tiled and not self.sizes.any()

    @property
    def end(self) -> int:
        """Offset in the file at which its last tile or strip ends."""
        number = min(len(self.offsets), len(self.sizes))
        return int((self.offsets[:number] + self.sizes[:number]).max(initial=0))


@dataclass(frozen=True)
class Tiff:
    """What is known of a TIFF without decoding it.

    Attributes:
        pictures: those in the chain of the file and those below them.
        file_size: in bytes.
    """

    pictures: tuple[TiffPicture, ...]
    file_size: int

    @cached_property
    def main(self) -> tuple[TiffPicture, ...]:
        """The pictures in the chain of the file."""
        return tuple(picture for picture in self.pictures if picture.is_main)

    @cached_property
    def largest(self) -> TiffPicture:
        """The largest of them."""
        return max(self.main, key=lambda picture: picture.size[0] * picture.size[1])

    @property
    def bits(self) -> int:
        """Bits of a sample of the largest picture."""
        return int(self.largest.all_values(Tag.BITS).max(initial=1))

    @property
    def compression(self) -> int:
        """Compression of the largest picture."""
        return self.largest.value(Tag.COMPRESSION, 1)

    @property
    def colour(self) -> str:
        """How the samples of the largest picture are to be understood, such as "RGB" or "MINISBLACK"."""
        number = self.largest.value(Tag.PHOTOMETRIC, _RGB)
        if self.compression == _OLD_JPEG and number == _RGB:
            return "YCBCR"  # as libtiff has it
        return _COLOURS.get(number, str(number))

    @property
    def empty(self) -> TiffPicture | None:
        """A picture of which no tile holds data; None where there is no such picture."""
        return next((picture for picture in self.main if picture.is_empty), None)

    @property
    def cut_off(self) -> bool:
        """Whether the file ends before some of its tiles or strips do."""
        return any(picture.end > self.file_size for picture in self.main)


@dataclass(frozen=True)
class _Layout:
    """How a TIFF is laid out: byte order, and struct's letters for the numbers of its directories.

    Hamamatsu's NDPI is a classic TIFF with offsets of 8 bytes, whose upper halves follow after a directory.
    """

    order: str
    count: str
    word: str
    is_ndpi: bool = False

    @property
    def entry(self) -> str:
        """Of a tag: code, type, number of values, and their place."""
        return f"{self.order}HH{self.word}{struct.calcsize(self.word)}s"

    @property
    def link(self) -> str:
        """Place of another directory."""
        return self.order + ("Q" if self.is_ndpi else self.word)


def read_tiff(path: Path) -> Tiff | None:
    """Read the directories of a TIFF, and refuse one that declares more than the file can hold.

    Returns:
        What the directories say; None where it is no TIFF, or an NDPI file that cannot be read so.

    Raises:
        TiacfError: the directories lead in circles, or declare more than the file can hold. NDPI is left
            to OpenSlide.
        OSError: it cannot be read.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        header = file.read(16)
        layout = _layout(header)
        size = path.stat().st_size
        if layout is None:
            return None
        if _is_ndpi(file, header, size):
            layout = _Layout("<", "H", "I", is_ndpi=True)
        try:
            (first,) = struct.unpack_from(layout.link, header, 8 if layout.word == "Q" else 4)
            pictures = []
            for picture in _pictures(file, layout, first, size):
                if not layout.is_ndpi:
                    _check_size(picture, size)
                pictures.append(picture)
        except (_BrokenError, struct.error) as error:
            if layout.is_ndpi:
                return None
            reason = str(error) if isinstance(error, _BrokenError) else "it ends in its tags"
            raise TiacfError(f"{path}: damaged, {reason}; copy it again") from error
    return Tiff(tuple(pictures), size)


def _layout(header: bytes) -> _Layout | None:
    """Return the layout of a TIFF or BigTIFF; None for another file."""
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 4:
        return None
    (version,) = struct.unpack_from(f"{order}H", header, 2)
    return {42: _Layout(order, "H", "I"), 43: _Layout(order, "Q", "Q")}.get(version)


def _is_ndpi(file: BinaryIO, header: bytes, size: int) -> bool:
    """Return whether OpenSlide takes a file for Hamamatsu's, a classic TIFF with offsets of 8 bytes.

    It looks for a tag of theirs, not at the suffix. Their pictures are in strips.
    """
    if not header.startswith(b"II*\0") or len(header) < 12:
        return False
    (first,) = struct.unpack_from("<Q", header, 4)
    if first > size - 2:
        return False
    file.seek(first)
    (number,) = struct.unpack("<H", file.read(2))
    table = file.read(number * 12)
    codes = {code for (code,) in struct.iter_unpack("<H10x", table[: len(table) // 12 * 12])}
    return _NDPI in codes and Tag.TILE_WIDTH not in codes


def _pictures(file: BinaryIO, layout: _Layout, first: int, size: int) -> Iterator[TiffPicture]:
    """Read all directories, those below others included."""
    waiting, seen, read = [(first, True)], set(), 0
    while waiting:
        offset, is_main = waiting.pop()
        if offset in seen and not is_main:
            continue  # directories below another may also be chained to each other
        if offset in seen:
            raise _BrokenError("its directories of tags lead in a circle")
        seen.add(offset)
        if len(seen) > _MOST_DIRECTORIES:
            raise _BrokenError(f"it has more than {_MOST_DIRECTORIES} directories of tags")
        counts, values, following = _directory(file, layout, offset, size)
        read += sum(array.nbytes for array in values.values())
        if read > 2 * size + 2**20:  # some writers let directories share what is the same
            raise _BrokenError("its directories hold more values than the file has room for")
        picture = TiffPicture(offset, is_main, counts, values)
        yield picture
        waiting += [
            (place, False) for place in picture.all_values(Tag.SUB_DIRECTORIES).tolist() if place
        ]
        waiting += [(following, is_main)] if following else []


def _directory(
    file: BinaryIO, layout: _Layout, offset: int, size: int
) -> tuple[dict[int, int], dict[int, np.ndarray], int]:
    """Read one directory: numbers of values, values, and where the next one lies (0: nowhere)."""
    if offset >= size:
        raise _BrokenError(f"it ends at byte {size} and a directory of tags lies at {offset}")
    file.seek(offset)
    counter, entry = layout.order + layout.count, layout.entry
    (number,) = struct.unpack(counter, file.read(struct.calcsize(counter)))
    if number * struct.calcsize(entry) > size - offset:
        raise _BrokenError(f"it ends before the {number} tags of a directory")
    table = list(struct.iter_unpack(entry, file.read(number * struct.calcsize(entry))))
    (following,) = struct.unpack(layout.link, file.read(struct.calcsize(layout.link)))
    if layout.is_ndpi:
        upper = struct.iter_unpack("4s", file.read(number * 4))
        table = [(*tag, place + more) for (*tag, place), (more,) in zip(table, upper, strict=True)]
    counts: dict[int, int] = {}
    values: dict[int, np.ndarray] = {}
    for code, kind, count, place in table:
        if code in counts and code in _ONCE:
            raise _BrokenError(f"its tag {code} stands twice in a directory")
        width = _TYPE_BYTES.get(kind, 1)
        if count * width > size:
            raise _BrokenError(
                f"its tag {code} is said to hold {count * width} bytes, the file has {size}"
            )
        counts[code] = count
        if not count or kind not in _WHOLE or code not in _READ:
            continue
        taken, stored = count if code in _LISTS else 1, place
        if layout.is_ndpi and count == 1 and width == 4:
            width = 8
        elif count * width > struct.calcsize(layout.word):
            (start,) = struct.unpack(layout.link, place)
            stored = b""
            if start < size:
                file.seek(start)
                stored = file.read(taken * width)
        if len(stored) < taken * width:
            raise _BrokenError(f"it ends before the values of its tag {code}")
        values[code] = np.frombuffer(stored, f"{layout.order}u{width}", taken)
    return counts, values, following


def _check_size(picture: TiffPicture, file_size: int) -> None:
    """Compare the size of a picture with the number and size of its tiles or strips."""
    width, height = picture.size
    counts, tiled = picture.counts, picture.is_tiled
    planes = picture.value(Tag.SAMPLES, 1) if picture.value(Tag.PLANES, 1) == 2 else 1
    if tiled:
        segment = picture.tile_size
        offsets, sizes = counts.get(Tag.TILE_OFFSETS, 0), counts.get(Tag.TILE_SIZES, 0)
    else:
        segment = width, min(picture.value(Tag.ROWS_PER_STRIP, height), height)
        offsets = counts.get(Tag.STRIP_OFFSETS, 0)
        sizes = counts.get(Tag.STRIP_SIZES, offsets)  # old writers leave them out
    what = "tiles" if tiled else "strips"
    largest = picture.sizes.max(initial=0)
    if largest > file_size:
        raise _BrokenError(f"one of its {what} is said to have {largest} bytes of {file_size}")
    if not (width and height and all(segment)):
        raise _BrokenError(
            f"a picture of {width} x {height} pixels in {what} of {segment[0]} x {segment[1]}"
        )
    if tiled and max(segment) > _LARGEST_TILE:
        raise _BrokenError(f"its tiles are said to have {segment[0]} x {segment[1]} pixels")
    needed = -(-width // segment[0]) * -(-height // segment[1]) * planes
    if min(offsets, sizes) < needed:
        raise _BrokenError(
            f"a picture of {width} x {height} pixels has {min(offsets, sizes)} of {needed} {what}"
        )
