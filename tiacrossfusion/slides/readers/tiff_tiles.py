"""Tiles of one page of a TIFF: where they lie in the file, and their pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from tifffile import TiffPage

_RGB, _YCBCR = 2, 6  # TIFF 6.0, PhotometricInterpretation
_NONE, _LZW, _JPEG, _DEFLATES = 1, 5, 7, (8, 32946)  # Compression
_APERIO_YCBCR, _APERIO_RGB = 33003, 33005  # JPEG 2000 codestreams, Aperio's private numbers
_HORIZONTAL = 2  # Predictor

#: A coded tile may be larger than its pixels, where these are noise, but never this many times.
_LARGEST_RATIO = 4
#: Bytes of headers and tables, and of what scanners write into them.
_HEADERS = 2**16


class UnknownLayoutError(Exception):
    """A page that is laid out in a way that this module does not read; the text says in which."""


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

        Args:
            file: descriptor of the open file.
            row: of the tile.
            column: of the tile.

        Returns:
            (tile_height, tile_width, 3) uint8 RGB.

        Raises:
            DamagedTileError: its bytes are not there or are damaged.
        """
        size = int(self.sizes[row, column])
        if size > _LARGEST_RATIO * self.tile_width * self.tile_height * 3 + _HEADERS:
            raise DamagedTileError(f"a tile of {size} bytes")
        try:
            # Not through a memory map: that ends the process where a file is shorter than it says.
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


def tiled_page(page: TiffPage) -> TiledPage:
    """Find out how the tiles of a page are read.

    Args:
        page: a page of an open file.

    Raises:
        UnknownLayoutError: it is not certain that its pixels would be those of the reference reader.
    """
    if not page.is_tiled:
        raise UnknownLayoutError("strips, not tiles")
    for known, otherwise in (
        (page.samplesperpixel == 3 and not page.extrasamples, "not three samples a pixel"),
        (page.dtype == np.uint8 and page.bitspersample == 8, "not 8 bits a sample"),
        (page.planarconfig == 1, "separate colour planes"),
        (page.imagedepth == 1 and page.tiledepth == 1, "a stack of planes"),
        (page.fillorder == 1, "bits in reverse order"),
        (_orientation(page) == 1, "not stored from the top left corner"),
    ):
        if not known:
            raise UnknownLayoutError(otherwise)
    rows, columns = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    offsets = np.asarray(page.dataoffsets, np.int64)
    sizes = np.asarray(page.databytecounts, np.int64)
    if offsets.size != rows * columns or sizes.size != rows * columns:
        raise UnknownLayoutError(f"{offsets.size} tiles where {rows} x {columns} are due")
    if not (sizes.all() and offsets.all()):
        # OpenSlide paints missing tiles from another level, tifffile black.
        raise UnknownLayoutError("some tiles are missing")
    return TiledPage(
        page.imagewidth,
        page.imagelength,
        page.tilewidth,
        page.tilelength,
        offsets.reshape(rows, columns),
        sizes.reshape(rows, columns),
        _decoder(page),
    )


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get("Orientation")
    return 1 if tag is None else int(tag.value)


def _decoder(page: TiffPage) -> Callable[[bytes], np.ndarray]:
    """Choose the decoder by compression and colour."""
    compression, photometric = int(page.compression), int(page.photometric)
    if compression == _JPEG and photometric in (_RGB, _YCBCR):
        if photometric == _RGB and page.is_jfif:
            raise UnknownLayoutError("JPEG tiles in JFIF, which is YCbCr, said to be RGB")
        return _jpeg_decoder(page, photometric)
    if compression in (_APERIO_RGB, _APERIO_YCBCR):
        return _jpeg2000_decoder(page, ycbcr=compression == _APERIO_YCBCR)
    if photometric == _RGB and page.predictor in (1, _HORIZONTAL):
        if compression == _NONE and page.predictor == 1:
            return _plain_decoder(page, lambda data, *, out: data[:out])
        if compression == _LZW:
            return _plain_decoder(page, imagecodecs.lzw_decode)
        if compression in _DEFLATES:
            return _plain_decoder(page, imagecodecs.zlib_decode)
    raise UnknownLayoutError(f"compression {compression} with photometric {photometric}")


def _jpeg_decoder(page: TiffPage, photometric: int) -> Callable[[bytes], np.ndarray]:
    tables = page.jpegtables
    width, height = page.tilewidth, page.tilelength
    # Aperio writes RGB components without a marker that says so.
    colour = _RGB if photometric == _RGB else None

    def pixels(data: bytes) -> np.ndarray:
        return imagecodecs.jpeg8_decode(data, tables=tables, colorspace=colour, outcolorspace=_RGB)

    def decode(data: bytes) -> np.ndarray:
        check_jpeg(data, width, height)
        tile = pixels(data)
        # What libjpeg paints where the data ran out is flat, but so is glass.
        corner = tile[-8:, -8:]
        if (corner == corner[0, 0]).all() and not np.array_equal(tile, pixels(with_filler(data))):
            raise DamagedTileError("JPEG data that ends before the tile is full")
        return tile

    return decode


def _jpeg2000_decoder(page: TiffPage, *, ycbcr: bool) -> Callable[[bytes], np.ndarray]:
    width, height = page.tilewidth, page.tilelength

    def decode(data: bytes) -> np.ndarray:
        check_jpeg2000(data, width, height)
        tile = imagecodecs.jpeg2k_decode(data)
        if not ycbcr:
            return tile
        y, cb, cr = cv2.split(tile)
        return cv2.cvtColor(cv2.merge([y, cr, cb]), cv2.COLOR_YCrCb2RGB)

    return decode


def _plain_decoder(
    page: TiffPage, unpack: Callable[..., bytes | bytearray]
) -> Callable[[bytes], np.ndarray]:
    shape = (page.tilelength, page.tilewidth, 3)
    due = math.prod(shape)
    differences = page.predictor == _HORIZONTAL

    def decode(data: bytes) -> np.ndarray:
        # Some bytes can be unpacked to a thousand times as many: one too many tells enough.
        samples = np.frombuffer(unpack(data, out=due + 1), np.uint8)
        if samples.size != due:
            raise DamagedTileError(f"not the {due} bytes of a tile, {samples.size} or more")
        tile = samples.reshape(shape)
        return imagecodecs.delta_decode(tile, axis=1) if differences else tile

    return decode
