"""The tiles of one picture of a TIFF: where they are in the file, and how they are decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import imagecodecs
import numpy as np

from tiacrossfusion.errors import one_line
from tiacrossfusion.slides.readers.jpeg_stream import (
    DamagedTileError,
    check_jpeg,
    check_jpeg2000,
    with_filler,
)
from tiacrossfusion.slides.readers.tiff_directory import Tag, TiffPicture

_RGB, _YCBCR = 2, 6  # TIFF 6.0, PhotometricInterpretation
_NONE, _LZW, _JPEG, _DEFLATES = 1, 5, 7, (8, 32946)  # Compression
_APERIO_YCBCR, _APERIO_RGB = 33003, 33005  # JPEG 2000 codestreams, Aperio's private numbers
_HORIZONTAL = 2  # Predictor

#: A coded tile of noise may be larger than its pixels, but never this many times.
_LARGEST_RATIO = 4
#: Bytes allowed for headers and tables.
_HEADERS = 2**16


class UnknownLayoutError(Exception):
    """A layout that is not supported here; the message says which."""


@dataclass(frozen=True)
class TiledPage:
    """The tiles of one level of a slide.

    Attributes:
        width: of the level, in pixels.
        height: of the level.
        tile_width: of every tile, also of those that reach beyond the level's edge.
        tile_height: of every tile.
        offsets: (rows, columns) int64, where the tiles begin in the file.
        sizes: (rows, columns) int64, how many bytes they have.
        decode: turns the bytes of a tile into (tile_height, tile_width, 3) uint8 RGB.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    decode: Callable[[bytes], np.ndarray]

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and columns of tiles."""
        return self.offsets.shape[0], self.offsets.shape[1]

    def read(self, file: int, row: int, column: int) -> np.ndarray:
        """Read and decode one tile; threads may share the file.

        Returns:
            (tile_height, tile_width, 3) uint8 RGB.

        Raises:
            DamagedTileError: its bytes are not there or are damaged.
        """
        size = int(self.sizes[row, column])
        if size > _LARGEST_RATIO * self.tile_width * self.tile_height * 3 + _HEADERS:
            raise DamagedTileError(f"a tile of {size} bytes")
        try:
            # Not through a memory map, which ends the process where the file is shorter than declared.
            data = os.pread(file, size, int(self.offsets[row, column]))
            if len(data) != size:
                raise DamagedTileError("the file ends before the tile does")
            tile = self.decode(data)
        except DamagedTileError:
            raise
        except Exception as error:  # imagecodecs has an exception for each codec
            raise DamagedTileError(one_line(error)) from error
        if tile.shape != (self.tile_height, self.tile_width, 3) or tile.dtype != np.uint8:
            raise DamagedTileError(f"a tile of the shape {tile.shape}")
        return tile


def tiled_page(picture: TiffPicture, file: int) -> TiledPage:
    """Return the tiles of a picture.

    Raises:
        UnknownLayoutError: it is not certain that its pixels would equal those of TIAToolbox's reader.
    """
    if not picture.is_tiled:
        raise UnknownLayoutError("strips, not tiles")
    value = picture.value
    eight_bits = (picture.all_values(Tag.BITS) == 8).all() and Tag.BITS in picture.values
    three = value(Tag.SAMPLES, 1) == 3 and Tag.EXTRA_SAMPLES not in picture.counts
    for known, otherwise in (
        (three, "not three samples a pixel"),
        (eight_bits and (picture.all_values(Tag.SAMPLE_FORMAT) == 1).all(), "not 8 bits a sample"),
        (value(Tag.PLANES, 1) == 1, "separate colour planes"),
        (value(Tag.IMAGE_DEPTH, 1) == value(Tag.TILE_DEPTH, 1) == 1, "a stack of planes"),
        (value(Tag.FILL_ORDER, 1) == 1, "bits in reverse order"),
        (value(Tag.ORIENTATION, 1) == 1, "not stored from the top left corner"),
    ):
        if not known:
            raise UnknownLayoutError(otherwise)
    (width, height), (tile_width, tile_height) = picture.size, picture.tile_size
    grid = rows, columns = -(-height // tile_height), -(-width // tile_width)
    offsets, sizes = picture.offsets, picture.sizes
    if offsets.size != rows * columns or sizes.size != rows * columns:
        raise UnknownLayoutError(f"{offsets.size} tiles instead of {rows} x {columns}")
    if not (sizes.all() and offsets.all()):
        # OpenSlide paints missing tiles from another level, tifffile black.
        raise UnknownLayoutError("some tiles are missing")
    places = offsets.reshape(grid), sizes.reshape(grid)
    return TiledPage(*picture.size, *picture.tile_size, *places, _decoder(picture, file))


def _decoder(picture: TiffPicture, file: int) -> Callable[[bytes], np.ndarray]:
    """Choose the decoder by compression and colour."""
    compression, predictor = picture.value(Tag.COMPRESSION, 1), picture.value(Tag.PREDICTOR, 1)
    photometric = picture.value(Tag.PHOTOMETRIC, 0)
    if compression == _JPEG and photometric in (_RGB, _YCBCR):
        if photometric == _RGB and os.pread(file, 4, int(picture.offsets[0]) + 6) == b"JFIF":
            raise UnknownLayoutError("JPEG tiles in JFIF, which is YCbCr, said to be RGB")
        return _jpeg_decoder(picture, photometric)
    if compression in (_APERIO_RGB, _APERIO_YCBCR):
        return _jpeg2000_decoder(picture, ycbcr=compression == _APERIO_YCBCR)
    if photometric == _RGB and predictor in (1, _HORIZONTAL):
        if compression == _NONE and predictor == 1:
            return _plain_decoder(picture, lambda data, *, out: data[:out])
        if compression == _LZW:
            return _plain_decoder(picture, imagecodecs.lzw_decode)
        if compression in _DEFLATES:
            return _plain_decoder(picture, imagecodecs.zlib_decode)
    raise UnknownLayoutError(f"compression {compression} with photometric {photometric}")


def _jpeg_decoder(picture: TiffPicture, photometric: int) -> Callable[[bytes], np.ndarray]:
    found = picture.values.get(Tag.JPEG_TABLES)
    tables = None if found is None else found.tobytes()
    width, height = picture.tile_size
    # Aperio writes RGB components without a marker that says so.
    colour = _RGB if photometric == _RGB else None

    def pixels(data: bytes) -> np.ndarray:
        return imagecodecs.jpeg8_decode(data, tables=tables, colorspace=colour, outcolorspace=_RGB)

    def decode(data: bytes) -> np.ndarray:
        check_jpeg(data, width, height)
        tile = pixels(data)
        # libjpeg paints missing blocks in one colour, but glass looks so too.
        corner = tile[-8:, -8:]
        if (corner == corner[0, 0]).all() and not np.array_equal(tile, pixels(with_filler(data))):
            raise DamagedTileError("JPEG data that ends before the tile is full")
        return tile

    return decode


def _jpeg2000_decoder(picture: TiffPicture, *, ycbcr: bool) -> Callable[[bytes], np.ndarray]:
    width, height = picture.tile_size

    def decode(data: bytes) -> np.ndarray:
        check_jpeg2000(data, width, height)
        tile = imagecodecs.jpeg2k_decode(data)
        if not ycbcr:
            return tile
        y, cb, cr = cv2.split(tile)
        return cv2.cvtColor(cv2.merge([y, cr, cb]), cv2.COLOR_YCrCb2RGB)

    return decode


def _plain_decoder(
    picture: TiffPicture, unpack: Callable[..., bytes | bytearray]
) -> Callable[[bytes], np.ndarray]:
    shape = (*picture.tile_size[::-1], 3)
    due = math.prod(shape)
    differences = picture.value(Tag.PREDICTOR, 1) == _HORIZONTAL

    def decode(data: bytes) -> np.ndarray:
        # A small tile may unpack to a thousand times its size: one byte too many is enough to refuse it.
        samples = np.frombuffer(unpack(data, out=due + 1), np.uint8)
        if samples.size != due:
            raise DamagedTileError(f"not the {due} bytes of a tile, {samples.size} or more")
        tile = samples.reshape(shape)
        return imagecodecs.delta_decode(tile, axis=1) if differences else tile

    return decode
