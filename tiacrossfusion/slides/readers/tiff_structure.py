"""Whether a TIFF can be what it says it is, before any library makes room for it.

OpenSlide, libtiff and tifffile believe what the tags say. A few wrong bytes make a small file a slide of
billions of pixels, whose missing tiles are painted one after another, or give it tiles for which no machine
has memory: there OpenSlide ends the process. So the directories are looked through first, which takes
milliseconds. What lies in the tiles is left to those who decode them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
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
#: Those that hold whole numbers; the ones that are looked at are not negative in any type.
_WHOLE = (1, 3, 4, 6, 8, 9, 13, 16, 17, 18)

_WIDTH, _HEIGHT, _SAMPLES, _PLANES, _SUB_DIRECTORIES = 256, 257, 277, 284, 330
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_NDPI = 65420
#: Tags that are looked at: the first value, or all of them.
_FIRST = (_WIDTH, _HEIGHT, _SAMPLES, _PLANES, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT)
_ALL = (_SUB_DIRECTORIES, _STRIP_SIZES, _TILE_SIZES)

#: Directories of a file; a slide has ten or so, a stack of many planes and channels some thousands.
_MOST_DIRECTORIES = 20_000

#: Pixels along a side of a tile, which take 256 MiB of memory once they are decoded; scanners write 4,096
#: at most.
_LARGEST_TILE = 8192


class _BrokenError(Exception):
    """What is wrong with a file."""


@dataclass(frozen=True)
class _Layout:
    """How a TIFF is laid out: byte order, and struct's letters for the numbers of its directories."""

    order: str
    count: str
    word: str

    @property
    def entry(self) -> str:
        """Of a tag: code, type, number of values, and their place."""
        return f"{self.order}HH{self.word}{struct.calcsize(self.word)}s"


def check_tiff(path: Path) -> None:
    """Refuse a TIFF whose directories lead in circles or declare more than the file can hold.

    A file that is no TIFF passes, and so does Hamamatsu's NDPI, whose directories are laid out otherwise.

    Raises:
        TiacfError: it is damaged.
        OSError: it cannot be read.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        header = file.read(16)
        layout = _layout(header)
        size = path.stat().st_size
        if layout is None or _is_ndpi(file, header, size):
            return
        place = 4 if layout.word == "I" else 8
        try:
            (first,) = struct.unpack_from(layout.order + layout.word, header, place)
            for tags in _directories(file, layout, first, size):
                _check_size(tags, size)
        except (_BrokenError, struct.error) as error:
            reason = str(error) if isinstance(error, _BrokenError) else "it ends in its tags"
            raise TiacfError(f"{path}: damaged, {reason}; copy it again") from error


def _layout(header: bytes) -> _Layout | None:
    """The layout of a TIFF or a BigTIFF; None of another file."""
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 4:
        return None
    (version,) = struct.unpack_from(f"{order}H", header, 2)
    return {42: _Layout(order, "H", "I"), 43: _Layout(order, "Q", "Q")}.get(version)


def _is_ndpi(file: BinaryIO, header: bytes, size: int) -> bool:
    """Whether OpenSlide will take a file for Hamamatsu's, which has places of 8 bytes in a TIFF of 4.

    It goes by a tag of theirs, whatever the suffix. Their pictures are in strips.
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
    return _NDPI in codes and _TILE_WIDTH not in codes


#: Number of values of each tag, and the values of those that are looked at.
_Tags = tuple[dict[int, int], dict[int, np.ndarray]]


def _directories(file: BinaryIO, layout: _Layout, first: int, size: int) -> Iterator[_Tags]:
    """Read all directories, those below others included."""
    waiting, seen, read = [first], set(), 0
    while waiting:
        offset = waiting.pop()
        if offset in seen:
            raise _BrokenError("its directories of tags lead in a circle")
        seen.add(offset)
        if len(seen) > _MOST_DIRECTORIES:
            raise _BrokenError(f"it has more than {_MOST_DIRECTORIES} directories of tags")
        tags, following = _directory(file, layout, offset, size)
        read += sum(values.nbytes for values in tags[1].values())
        if read > 2 * size + 2**20:  # some writers let directories share what is the same
            raise _BrokenError("its directories hold more values than the file has room for")
        yield tags
        below = tags[1].get(_SUB_DIRECTORIES, np.empty(0, int)).tolist()
        waiting += [place for place in (*below, following) if place]


def _directory(file: BinaryIO, layout: _Layout, offset: int, size: int) -> tuple[_Tags, int]:
    """Read one directory, and where the next one lies (0: nowhere)."""
    if offset >= size:
        raise _BrokenError(f"it ends at byte {size} and a directory of tags lies at {offset}")
    file.seek(offset)
    counter, entry = layout.order + layout.count, layout.entry
    (number,) = struct.unpack(counter, file.read(struct.calcsize(counter)))
    if number * struct.calcsize(entry) > size - offset:
        raise _BrokenError(f"it ends before the {number} tags of a directory")
    table = file.read(number * struct.calcsize(entry))
    word = layout.order + layout.word
    (following,) = struct.unpack(word, file.read(struct.calcsize(word)))
    counts: dict[int, int] = {}
    values: dict[int, np.ndarray] = {}
    for code, kind, count, place in struct.iter_unpack(entry, table):
        if code in counts and code in (*_FIRST, *_ALL):
            raise _BrokenError(f"its tag {code} stands twice in a directory")
        width = _TYPE_BYTES.get(kind, 1)
        if count * width > size:
            raise _BrokenError(
                f"its tag {code} is said to hold {count * width} bytes, the file has {size}"
            )
        counts[code] = count
        if count and kind in _WHOLE and code in (*_FIRST, *_ALL):
            taken, stored = count if code in _ALL else 1, place
            if count * width > len(place):
                (start,) = struct.unpack(word, place)
                stored = b""
                if start < size:
                    file.seek(start)
                    stored = file.read(taken * width)
            if len(stored) < taken * width:
                raise _BrokenError(f"it ends before the values of its tag {code}")
            values[code] = np.frombuffer(stored, f"{layout.order}u{width}", taken)
    return (counts, values), following


def _check_size(tags: _Tags, size: int) -> None:
    """Compare the size of a picture with the number and size of its tiles or strips."""
    counts, values = tags

    def value(code: int, otherwise: int) -> int:
        return int(values[code][0]) if code in values else otherwise

    width, height = value(_WIDTH, 0), value(_HEIGHT, 0)
    planes = value(_SAMPLES, 1) if value(_PLANES, 1) == 2 else 1
    tiled = _TILE_OFFSETS in counts or _TILE_WIDTH in counts
    if tiled:
        segment = value(_TILE_WIDTH, 0), value(_TILE_HEIGHT, 0)
        offsets, sizes = counts.get(_TILE_OFFSETS, 0), counts.get(_TILE_SIZES, 0)
    else:
        segment = width, min(value(_ROWS_PER_STRIP, height), height)
        offsets = counts.get(_STRIP_OFFSETS, 0)
        sizes = counts.get(_STRIP_SIZES, offsets)  # old writers leave them out
    what = "tiles" if tiled else "strips"
    bytes_of = values.get(_TILE_SIZES if tiled else _STRIP_SIZES)
    if bytes_of is not None and bytes_of.max() > size:
        raise _BrokenError(f"one of its {what} is said to have {bytes_of.max()} bytes of {size}")
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
