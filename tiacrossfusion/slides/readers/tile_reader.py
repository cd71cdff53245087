"""Read patches from the tiles of a TIFF, each of which is decoded once.

Level, region size and resampling of each scale are those of TIAToolbox's reader, so that the patches equal
those of its `read_rect`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.slides.grid import PatchGrid
from tiacrossfusion.slides.readers.base import PatchReader, ReadPatch, UnreadableError
from tiacrossfusion.slides.readers.jpeg_stream import DamagedTileError
from tiacrossfusion.slides.readers.scale_source import scale_source
from tiacrossfusion.slides.readers.tiff_directory import TiffPicture
from tiacrossfusion.slides.readers.tiff_tiles import TiledPage, UnknownLayoutError, tiled_page
from tiacrossfusion.slides.readers.tile_cache import Span, TileCache, count_uses
from tiacrossfusion.slides.readers.toolbox_reader import ToolboxReader
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

#: OpenSlide's names of vendors whose tiles lie side by side and are shown unchanged.
_PLAIN_VENDORS = ("aperio", "generic-tiff")

#: Largest size in bytes of two rows of tiles, which are kept in memory for the next row of 5x cells.
MOST_WAITING = 400 * 2**20

#: Largest mean difference in grey levels between patches of the two readers.
TOLERANCE = 1.0


class TileReader(PatchReader):
    """Reads patches from tiles, which it decodes itself.

    Attributes:
        tiles_decoded: number of tiles decoded for the patches read so far.

    Raises:
        UnknownLayoutError: the layout of the file is not supported, or its patches differ from those of
            TIAToolbox's reader.
    """

    name = "tiles"

    def __init__(self, slide: Slide, spec: SamplingSpec) -> None:
        """Find the tiles, and compare some patches with those of TIAToolbox's reader."""
        reader = slide.reader
        openslide = _is_openslide(reader)
        if not hasattr(os, "pread"):
            raise UnknownLayoutError("no reads that threads can share on this system")
        self.sources = {
            scale: scale_source(reader, spec, scale, between_pixels=openslide) for scale in SCALES
        }
        self._counting = threading.Lock()
        self._file = os.open(reader.input_path, os.O_RDONLY)
        try:
            levels = sorted({source.level for source in self.sources.values()})
            self._pages = {level: self._tiled_page(slide, level) for level in levels}
            self._compare(slide, spec)
        except BaseException:
            self.close()
            raise
        self.tiles_decoded = 0

    def reading(self, grids: dict[str, PatchGrid]) -> ReadPatch:
        """See `PatchReader.reading`."""
        return _Reading(self, grids).read

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def page(self, level: int) -> TiledPage:
        """Return the tiles of a level that patches are read from."""
        return self._pages[level]

    def decode(self, level: int, row: int, column: int) -> np.ndarray | DamagedTileError:
        """Decode a tile; of a damaged one return the error, for all patches that overlap it."""
        with self._counting:
            self.tiles_decoded += 1
        try:
            return self._pages[level].read(self._file, row, column)
        except DamagedTileError as error:
            return error

    def _tiled_page(self, slide: Slide, level: int) -> TiledPage:
        """Find the tiles of a level."""
        page = tiled_page(_picture(slide, level), self._file)
        waiting = 2 * page.grid[1] * page.tile_height * page.tile_width * 3
        if waiting > MOST_WAITING:
            raise UnknownLayoutError(f"two rows of tiles take {waiting / 2**20:.0f} MiB")
        return page

    def _compare(self, slide: Slide, spec: SamplingSpec) -> None:
        """Compare three patches of each level with those of TIAToolbox's reader."""
        self.tiles_decoded = 0
        along = np.array([[0.25], [0.5], [0.75]]) * slide.dimensions
        bounds = np.tile(along.astype(np.int64), 2)  # only the corner is used
        reference = ToolboxReader(slide, spec, "for comparison")
        for scale in {source.level: scale for scale, source in self.sources.items()}.values():
            read = self.reading({scale: PatchGrid(scale, bounds, np.zeros((3, 2), np.int32))})
            same, failed = 0, ""
            for index in range(len(bounds)):
                try:
                    expected = reference.read(bounds[index], scale)
                except UnreadableError:
                    continue
                try:
                    difference = np.abs(read(scale, index) - expected.astype(np.int16)).mean()
                except UnreadableError as error:
                    failed = str(error)
                    continue
                if difference > TOLERANCE:
                    raise UnknownLayoutError(
                        f"at {scale} its tiles differ from it by {difference:.1f} grey levels"
                    )
                same += 1
            if failed and not same:
                raise UnknownLayoutError(failed)


class _Reading:
    """Reads the patches of some grids from cached tiles."""

    def __init__(self, reader: TileReader, grids: dict[str, PatchGrid]) -> None:
        """Compute which tiles each patch overlaps."""
        self._reader = reader
        self._corners, self._shifts, self._spans = {}, {}, {}
        uses: dict[int, np.ndarray] = {}
        for scale, grid in grids.items():
            source = reader.sources[scale]
            page = reader.page(source.level)
            corners, shifts = source.corners(grid.bounds)
            spans = _spans(corners, source.region_size, page)
            self._corners[scale], self._shifts[scale], self._spans[scale] = corners, shifts, spans
            uses[source.level] = uses.get(source.level, 0) + count_uses(spans, page.grid)
        self._tiles = TileCache(reader.decode, uses)

    def read(self, scale: str, index: int) -> np.ndarray:
        """Read a patch, (patch_size, patch_size, 3) uint8 RGB; each may be read once.

        Raises:
            UnreadableError: it overlaps a damaged tile.
        """
        source, corner = self._reader.sources[scale], self._corners[scale][index]
        top, left, bottom, right = (int(edge) for edge in self._spans[scale][index])
        span = (top, left, bottom, right)
        try:
            region = self._region(source.level, corner, source.region_size, span)
        except DamagedTileError as error:
            raise UnreadableError(str(error)) from error
        finally:
            self._tiles.release(source.level, span)
        return source.patch(region, corner, self._shifts[scale][index])

    def _region(
        self, level: int, corner: np.ndarray, size: tuple[int, int], span: Span
    ) -> np.ndarray:
        """Assemble the tiles of a span: (h, w, 3) uint8 from `corner` on, white beyond the slide."""
        page = self._reader.page(level)
        x0, y0 = int(corner[0]), int(corner[1])
        region = np.empty((size[1], size[0], 3), np.uint8)
        # Pixels of an edge tile beyond the level are not part of the image.
        x1, y1 = min(x0 + size[0], page.width), min(y0 + size[1], page.height)
        region[max(y1 - y0, 0) :] = 255
        region[:, max(x1 - x0, 0) :] = 255
        top, left, bottom, right = span
        for row in range(top, bottom):
            y = row * page.tile_height
            upper, lower = max(y, y0), min(y + page.tile_height, y1)
            for column in range(left, right):
                x = column * page.tile_width
                first, end = max(x, x0), min(x + page.tile_width, x1)
                tile = self._tiles.get(level, row, column)
                region[upper - y0 : lower - y0, first - x0 : end - x0] = tile[
                    upper - y : lower - y, first - x : end - x
                ]
        return region


def _spans(corners: np.ndarray, size: tuple[int, int], page: TiledPage) -> np.ndarray:
    """Return the spans of tiles, (N, 4), of regions that begin at `corners`, (N, 2)."""
    tile, level = (page.tile_width, page.tile_height), (page.width, page.height)
    ends = np.minimum(corners + size, level)
    first, end = corners // tile, -(-ends // tile)
    # A patch may begin beyond the level, whose size was rounded.
    first = np.minimum(first, page.grid[::-1])
    return np.concatenate([first[:, ::-1], np.maximum(first, end)[:, ::-1]], axis=1)


def _is_openslide(reader: WSIReader) -> bool:
    """Return whether the reader is OpenSlide's; else it is TIAToolbox's TIFF reader."""
    from tiatoolbox.utils.postproc_defs import MultichannelToRGB
    from tiatoolbox.wsicore.wsireader import OpenSlideWSIReader, TIFFWSIReader

    from tiacrossfusion.slides.readers.series_reader import SeriesReader

    if type(reader) not in (OpenSlideWSIReader, TIFFWSIReader, SeriesReader):
        raise UnknownLayoutError(f"a slide for {type(reader).__name__}")
    # MultichannelToRGB does not change images of three channels.
    if not (reader.post_proc is None or type(reader.post_proc) is MultichannelToRGB):
        raise UnknownLayoutError("the reader post-processes what it reads")
    if type(reader) is not OpenSlideWSIReader:
        return False
    vendor = reader.openslide_wsi.properties.get("openslide.vendor")
    if vendor not in _PLAIN_VENDORS:
        raise UnknownLayoutError(f"a slide of the vendor {vendor}")
    return True


def _picture(slide: Slide, level: int) -> TiffPicture:
    """Find the directory of a level by its size."""
    from tifffile import TiffPage

    reader = slide.reader
    if slide.tiff is None:
        raise UnknownLayoutError("no TIFF whose directories can be read")
    candidates: Iterable[TiffPicture] = slide.tiff.main
    if hasattr(reader, "openslide_wsi"):
        candidates = [picture for picture in candidates if picture.is_tiled]
    else:
        levels = reader.tiff.series[reader.series_n].levels
        pages = [page for one in levels for page in one.pages]
        offsets = [page.offset for page in pages if isinstance(page, TiffPage)]
        candidates = [picture for picture in slide.tiff.pictures if picture.offset in offsets]
    width, height = (int(side) for side in reader.info.level_dimensions[level])
    found = [picture for picture in candidates if picture.size == (width, height)]
    if len(found) != 1:
        strips = any(picture.size == (width, height) for picture in slide.tiff.main)
        reason = "strips, not tiles" if strips and not found else f"{len(found)} pages in tiles"
        raise UnknownLayoutError(f"level {level}: {reason} of {width} x {height} pixels")
    return found[0]
