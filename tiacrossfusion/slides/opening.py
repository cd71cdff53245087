"""Which picture of a file is the slide, and which reader opens it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.slides.files import is_dicom_folder
from tiacrossfusion.slides.readers.tiff_directory import Tiff

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader
    from tifffile import TiffFile, TiffPageSeries

#: Another picture is named when it has at least this share of the slide's pixels; labels have less.
SIMILAR = 0.2

#: Largest picture that is decoded at once, in pixels.
MOST_AT_ONCE = 100_000_000

#: Suffixes of pictures that their readers decode at once.
_FLAT = (".png", ".jpg", ".jpeg", ".npy")

#: OpenSlide's name of a TIFF without a vendor; it reads the first page and what is smaller.
_GENERIC = "generic-tiff"

#: Version of OME-Zarr and number of axes that TIAToolbox reads.
_NGFF, _NGFF_AXES = "0.4", 3

_PYRAMID = "convert it to a tiled pyramid (vips tiffsave --tile --pyramid)"


@dataclass(frozen=True)
class Picture:
    """A series of a TIFF.

    Attributes:
        number: as tifffile counts them, and `--series` takes.
        size: width and height in pixels.
        in_colour: its samples are red, green and blue with 8 bits.
        at_once: pixels of its largest tile or strip.
    """

    number: int
    size: tuple[int, int]
    in_colour: bool
    at_once: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.size[0] * self.size[1]

    def __str__(self) -> str:
        """Return number and size in words."""
        return f"series {self.number} ({self.size[0]} x {self.size[1]})"


def open_reader(path: Path, tiff: Tiff | None, series: int | None) -> tuple[WSIReader, str]:
    """Open a slide with the reader that fits it.

    Formats that OpenSlide knows by their vendor are read by OpenSlide, DICOM, OME-Zarr, JPEG 2000 and flat
    pictures as TIAToolbox does. Of any other TIFF the slide is the largest pyramid in colour, read by
    OpenSlide where it is the first, else by TIAToolbox's TIFF reader.

    Args:
        path: of the file or DICOM folder.
        tiff: directories of the file; None where it is no TIFF.
        series: number of the picture, over that choice.

    Returns:
        The reader, whose `info` may lack the scale, and a warning that the file holds other pictures of
        similar size; empty without them.

    Raises:
        UsageError: there is no series of that number.
        TiacfError: the picture can only be decoded at once, and is too large for that.
        Exception: whatever the libraries raise on damaged files.
    """
    from openslide import OpenSlide
    from tiatoolbox.wsicore.wsireader import DICOMWSIReader, OpenSlideWSIReader, WSIReader

    vendor = OpenSlide.detect_format(str(path)) if path.is_file() else None
    if series is not None and (tiff is None or vendor not in (None, _GENERIC)):
        raise UsageError(
            f"{path}: has one picture to read, {vendor or path.suffix}; leave out --series"
        )
    if is_dicom_folder(path) or path.suffix.lower() == ".dcm":
        reader = DICOMWSIReader(path.absolute())
        first = reader.wsi.levels.base_level.datasets[0]
        if "Manufacturer" not in first:  # which TIAToolbox reads without asking
            first.Manufacturer = "unknown"
        return reader, ""
    if vendor not in (None, _GENERIC):
        return OpenSlideWSIReader(path), ""
    if tiff is not None:
        return _open_tiff(path, tiff, series, vendor)
    if path.suffix.lower() == ".zarr":
        _check_ngff(path)
    _check_flat(path)
    return WSIReader.open(path), ""


def _open_tiff(
    path: Path, tiff: Tiff, series: int | None, vendor: str | None
) -> tuple[WSIReader, str]:
    import tifffile
    from tiatoolbox.wsicore.wsireader import OpenSlideWSIReader

    from tiacrossfusion.slides.readers.series_reader import SeriesReader

    with tifffile.TiffFile(path) as file:
        firsts = [series.keyframe.index == 0 for series in file.series]
        found = pictures(file)
        is_ome = file.is_ome
    chosen = _choose(path, found, series)
    others = [
        str(one)
        for one in found
        if one.number != chosen.number and one.in_colour and one.pixels >= SIMILAR * chosen.pixels
    ]
    remark = ""
    if others and series is None:
        remark = (
            f"the file holds {len(others) + 1} large pictures: {chosen} is read, not {', '.join(others)}; "
            "choose with --series"
        )
    # OpenSlide opens no file that was cut off.
    if vendor == _GENERIC and firsts[chosen.number] and not is_ome and not tiff.cut_off:
        return OpenSlideWSIReader(path), remark
    if chosen.at_once > MOST_AT_ONCE:
        raise TiacfError(
            f"{path}: {chosen} lies in one piece of {chosen.at_once / 1e6:.0f} million pixels, which "
            f"would be decoded at once; {_PYRAMID}"
        )
    return SeriesReader(path, chosen.number), remark


def pictures(file: TiffFile) -> list[Picture]:
    """Return the series of a TIFF that are pictures, as tifffile counts them."""
    found = [_picture(number, series) for number, series in enumerate(file.series)]
    return [picture for picture in found if picture is not None]


def _picture(number: int, series: TiffPageSeries) -> Picture | None:
    page = series.keyframe
    sides = dict(zip(series.axes, series.shape, strict=False))
    if "X" not in sides or "Y" not in sides:
        return None
    samples = sides.get("S", sides.get("C", 1))
    size = (int(sides["X"]), int(sides["Y"]))
    segment = (
        page.tilewidth * page.tilelength if page.is_tiled else page.rowsperstrip * page.imagewidth
    )
    return Picture(
        number,
        size,
        series.dtype == "uint8" and samples in (3, 4) and len(sides) == 3,
        min(int(segment), size[0] * size[1]),
    )


def _choose(path: Path, found: list[Picture], series: int | None) -> Picture:
    """Return the slide: the series that was asked for, else the largest in colour.

    Beside a much larger picture that is not in colour, one in colour is a label or an overview: the large one
    is returned, and refused for its samples later.
    """
    if series is not None:
        for picture in found:
            if picture.number == series:
                return picture
        raise UsageError(
            f"{path}: has no series {series}; give one of {', '.join(map(str, found))} with --series"
        )
    if not found:
        raise TiacfError(f"{path}: holds no picture; export the slide again")
    largest = max(found, key=lambda picture: picture.pixels)
    coloured = [picture for picture in found if picture.in_colour]
    best = max(coloured, key=lambda picture: picture.pixels, default=largest)
    return best if best.pixels >= SIMILAR * largest.pixels else largest


def _check_ngff(path: Path) -> None:
    """Refuse an OME-Zarr of a version or with axes that TIAToolbox does not read; it is not damaged."""
    try:
        new, old = path / "zarr.json", path / ".zattrs"
        said = json.loads((new if new.is_file() else old).read_text(encoding="utf-8"))
        said = said.get("attributes", said)
        ome = said.get("ome", said)
        scales = ome["multiscales"][0]
        version = str(ome.get("version") or scales.get("version"))
        axes = [
            axis if isinstance(axis, str) else str(axis["name"]) for axis in scales.get("axes", ())
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return  # TIAToolbox says what is wrong with it
    if version != _NGFF:
        raise TiacfError(
            f"{path}: OME-Zarr of version {version}, and TIAToolbox reads {_NGFF}; write it as {_NGFF}, "
            f"or {_PYRAMID}"
        )
    if axes and len(axes) > _NGFF_AXES:
        raise TiacfError(
            f"{path}: OME-Zarr with the axes {', '.join(axes)}, and TIAToolbox reads three; write it without "
            f"{' and '.join(a for a in axes if a not in ('c', 'y', 'x'))}, or {_PYRAMID}"
        )


def _check_flat(path: Path) -> None:
    """Refuse a large picture that its reader decodes at once."""
    if path.suffix.lower() not in _FLAT:
        return
    if path.suffix.lower() == ".npy":
        import numpy as np

        sides = np.load(path, mmap_mode="r", allow_pickle=False).shape[:2]
    else:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS, most = None, Image.MAX_IMAGE_PIXELS
        try:
            with Image.open(path) as image:
                sides = image.size
        finally:
            Image.MAX_IMAGE_PIXELS = most
    if math.prod(sides) > MOST_AT_ONCE:
        raise TiacfError(
            f"{path}: a picture of {math.prod(sides) / 1e6:.0f} million pixels would be decoded at once; "
            f"{_PYRAMID}"
        )
