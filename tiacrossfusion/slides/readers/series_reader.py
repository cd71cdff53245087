"""One picture of a TIFF, read by its levels."""

from __future__ import annotations

from pathlib import Path

import tifffile
import zarr
from tiatoolbox.wsicore.wsimeta import WSIMeta
from tiatoolbox.wsicore.wsireader import ArrayView, TIFFWSIReader, TIFFWSIReaderDelegate, WSIReader
from zarr.experimental.cache_store import CacheStore
from zarr.storage import MemoryStore

#: Bytes of decoded tiles that are kept, as in TIAToolbox's reader.
_CACHE = 2**28


class SeriesReader(TIFFWSIReader):
    """TIAToolbox's TIFF reader for a series of one's choice.

    TIAToolbox's own refuses a classic TIFF with more than one page, which it then opens as one flat picture
    of the first page, and takes axes and scale from the first page. Here they are those of the series. The
    scale is not set: `slides.scale` reads it from `page`.

    Args:
        path: of the TIFF.
        number: of the series, as tifffile counts them.

    Attributes:
        page: the first page of the series, with its tags.
    """

    def __init__(self, path: Path, number: int) -> None:
        """Open the levels of the series."""
        WSIReader.__init__(self, path, post_proc="auto")
        self.tiff = tifffile.TiffFile(path)
        self.series_n = number
        series = self._tiff_series = self.tiff.series[number]
        self.page: tifffile.TiffPage = series.keyframe
        self._axes = series.axes
        self._zarr_store = series.aszarr()
        cached = CacheStore(store=self._zarr_store, cache_store=MemoryStore(), max_size=_CACHE)
        opened = zarr.open(cached, mode="r")
        arrays = (
            {int(name): array for name, array in opened.members()}
            if isinstance(opened, zarr.Group)
            else {0: opened}
        )
        self.level_arrays = {
            level: ArrayView(array, axes=self._axes) for level, array in sorted(arrays.items())
        }
        self.tiff_reader_delegate = TIFFWSIReaderDelegate(self, self.level_arrays)

    def _info(self) -> WSIMeta:
        sizes = [
            tuple(
                int(n)
                for n in TIFFWSIReaderDelegate.canonical_shape(self._axes, view.array.shape)[1::-1]
            )
            for view in self.level_arrays.values()
        ]
        return WSIMeta(
            file_path=self.input_path,
            slide_dimensions=sizes[0],
            axes=self._axes,
            level_count=len(sizes),
            level_dimensions=sizes,
            level_downsamples=[sizes[0][0] / width for width, _ in sizes],
            vendor="Generic",
            raw={"Description": self.page.description},
        )
