"""Detect damaged JPEG streams, and JPEG 2000 codestreams of the wrong size.

After most damage libjpeg continues with a warning and paints the missing part grey. OpenSlide treats its
warnings as errors, but imagecodecs does not report them. These checks find the same damage, as far as that
is possible without decoding the entropy-coded data a second time.
"""

from __future__ import annotations

import re
import struct

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA
#: Start of frame: baseline and extended sequential, progressive (ITU-T T.81, table B.1).
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
#: In entropy-coded data 0xFF is followed by a stuffed zero, a restart marker or another fill byte
#: (ITU-T T.81, B.1.1.2 and B.1.1.5); anything else is damage.
_STRAY_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
#: How a JPEG 2000 codestream begins: its start, and the segment of its size (ITU-T T.800, table A.2).
_CODESTREAM = b"\xff\x4f\xff\x51"
#: Tiles of a codestream; a decoder allocates some kilobytes for each, also for missing ones.
_MOST_PARTS = 4096
#: Bytes that decode to something else than flat blocks in any Huffman code.
_FILLER = bytes(range(1, 65))


class DamagedTileError(Exception):
    """A tile whose bytes are not those that the scanner wrote."""


def check_jpeg(data: bytes, width: int, height: int) -> None:
    """Check a stream, with or without its tables, for damage that libjpeg ignores.

    Raises:
        DamagedTileError: the stream is cut off, overwritten or of another size.
    """
    if not data.startswith(_START):
        raise DamagedTileError("no JPEG data")
    # Writers may fill up to an even or a round number of bytes.
    end = len(data) if data.endswith(_END) else len(data.rstrip(b"\0"))
    if not data.endswith(_END, 0, end):
        raise DamagedTileError("JPEG data without its end")
    frame, size, scan, interleaved = _headers(data)
    if size != (height, width):
        raise DamagedTileError(f"JPEG data of {size[1]} x {size[0]} pixels")
    if frame in _SEQUENTIAL and interleaved and _STRAY_MARKER.search(data, scan, end - 2):
        raise DamagedTileError("JPEG data with bytes that belong to something else")
    # The densest code there is has a bit for the level of a flat block and one for the rest of it,
    # and three blocks code 8 x 8 pixels: more zeros than that are a hole in the file.
    most_zeros = 3 * -(-width // 8) * -(-height // 8) * 2 // 8
    if data.find(bytes(most_zeros + 1), scan, end) >= 0:
        raise DamagedTileError("JPEG data with a hole of zeros")


def check_jpeg2000(data: bytes, width: int, height: int) -> None:
    """Compare the size of a raw JPEG 2000 codestream with that of its tile, before it is decoded.

    Raises:
        DamagedTileError: it holds an image of another size or of other than three samples a pixel, or
            one cut into very many parts.
    """
    if not data.startswith(_CODESTREAM) or len(data) < 42:
        raise DamagedTileError("no JPEG 2000 data")
    # Image and tile size: width, height and corner of the reference grid, and the same of its tiles
    # (ITU-T T.800, A.5.1). The number of components comes after them.
    right, bottom, left, top, across, down = struct.unpack_from(">6I", data, 8)
    if (right - left, bottom - top) != (width, height):
        raise DamagedTileError(f"JPEG 2000 data of {right - left} x {bottom - top} pixels")
    if not across or not down or (right // across + 1) * (bottom // down + 1) > _MOST_PARTS:
        raise DamagedTileError(f"JPEG 2000 data in parts of {across} x {down} pixels")
    (samples,) = struct.unpack_from(">H", data, 40)
    if samples != 3:
        raise DamagedTileError(f"JPEG 2000 data of {samples} samples a pixel")


def with_filler(data: bytes) -> bytes:
    """Add meaningless bytes at the end of the entropy-coded data.

    They do not change a complete stream, whose blocks are all decoded before. In a stream that ends early
    they are decoded as the missing blocks.
    """
    end = data.rindex(_END)
    return data[:end] + _FILLER + data[end:]


def _headers(data: bytes) -> tuple[int, tuple[int, int], int, bool]:
    """Return frame type, (height, width), start of the scan and whether it holds all components."""
    frame, size, components = 0, (0, 0), 0
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack_from(">xBH", data, position)
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        body = position + 4
        if marker in (*_SEQUENTIAL, _PROGRESSIVE) and body + 6 <= len(data):
            frame = marker
            size, components = struct.unpack_from(">HH", data, body + 1), data[body + 5]
        if marker == _SCAN and body < len(data):
            return frame, (size[0], size[1]), position + 2 + length, data[body] == components
        position += 2 + length
    raise DamagedTileError("JPEG data without a picture")
