"""Checks of an open slide: its sizes, its samples, its colours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

    from tiacrossfusion.slides.readers.tiff_directory import Tiff

#: A size in the description that Aperio's scanners write, "46000x32914 [0,0 2220x2967]".
_SIZE = re.compile(r"(\d+)x(\d+)")

#: Compression: JPEG, and Aperio's number for JPEG 2000 in YCbCr.
_JPEG, _APERIO_YCBCR = 7, 33003

_REMEDY = "convert it to a tiled TIFF or SVS in RGB with 8 bits a sample"


def check_samples(reader: WSIReader, label: Path | str, tiff: Tiff | None) -> str:
    """Refuse samples that are not 8-bit RGB and that the reader does not convert.

    OpenSlide converts grey-scale, palettes, CMYK, YCbCr and 16 bits. The other readers return the samples
    as they are in the file, which would be taken for RGB.

    Returns:
        A warning about what OpenSlide converted; empty without one.

    Raises:
        TiacfError: the samples are not 8-bit RGB.
    """
    if hasattr(reader, "openslide_wsi"):
        if tiff is not None and tiff.bits > 16:
            raise TiacfError(f"{label}: {tiff.bits} bits a sample, not 8; {_REMEDY}")
        if tiff is not None and tiff.bits > 8:
            return f"{tiff.bits} bits a sample, of which the upper 8 are read"
        return ""
    if tiff is not None and hasattr(reader, "tiff"):
        converted = tiff.colour == "YCBCR" and tiff.compression == _JPEG
        if not (converted or tiff.colour == "RGB") or tiff.compression == _APERIO_YCBCR:
            colour = tiff.colour if tiff.colour != "RGB" else "YCBCR"
            raise TiacfError(
                f"{label}: its colours are {colour}, which TIAToolbox's reader of this format takes "
                f"for RGB; {_REMEDY}"
            )
    array = getattr(reader, "img", None)  # of the reader of arrays, which fails on other types
    if array is not None and array.dtype != np.uint8:
        raise TiacfError(f"{label}: its samples are {array.dtype}, not 8 bits; {_REMEDY}")
    try:
        corner = reader.read_rect((0, 0), (4, 4), resolution=0, units="level")
    except Exception:  # damage is reported by the code that reads the whole slide
        return ""
    if corner.dtype != np.uint8:
        raise TiacfError(f"{label}: its samples are {corner.dtype}, not 8 bits; {_REMEDY}")
    if corner.ndim != 3 or corner.shape[2] not in (3, 4):
        count = 1 if corner.ndim == 2 else corner.shape[-1]
        raise TiacfError(f"{label}: {count} samples a pixel, not red, green and blue; {_REMEDY}")
    return ""


def check_levels(label: Path | str, tiff: Tiff | None) -> None:
    """Refuse a TIFF with an empty level.

    OpenSlide paints missing tiles from the other levels, which may take a minute a tile.

    Raises:
        TiacfError: no tile of a level holds data.
    """
    if tiff is not None and tiff.empty is not None:
        (width, height), count = tiff.empty.size, len(tiff.empty.sizes)
        raise TiacfError(
            f"{label}: a level of {width} x {height} pixels is empty, none of its {count} tiles holds "
            "data; copy the file again, or export the slide again"
        )


def cut_off(tiff: Tiff | None) -> str:
    """Return a warning that the file was cut off; empty where it was not."""
    if tiff is None or not tiff.cut_off:
        return ""
    return "the file ends before its last tiles do, it was not copied to its end"


def check_sizes(reader: WSIReader, label: Path | str) -> str:
    """Check that width and height are not swapped, and that all levels have one shape.

    Some scanners pad their levels, which OpenSlide takes into account; TIAToolbox's TIFF reader assumes that
    each level is a smaller copy of the first.

    Returns:
        A warning about the sizes; empty without one.

    Raises:
        TiacfError: a level of the pyramid lies on its side, or is no smaller copy of the first.
    """
    info = reader.info
    width, height = (int(side) for side in info.slide_dimensions)
    for level in info.level_dimensions:
        across, down = (int(side) for side in level)
        fits = _same_shape((across, down), (width, height))
        if not fits and _same_shape((down, across), (width, height)):
            raise TiacfError(
                f"{label}: width and height are swapped, one level has {width} x {height} pixels and "
                f"another {across} x {down}; export the slide again"
            )
        if not fits and hasattr(reader, "tiff"):
            raise TiacfError(
                f"{label}: a level of {across} x {down} pixels is no smaller copy of the first, which has "
                f"{width} x {height}; the file is damaged, or export the slide again"
            )
    raw = info.raw if isinstance(info.raw, dict) else {}
    said = str(raw.get("tiff.ImageDescription") or raw.get("Description") or "")
    if not said.startswith("Aperio"):
        return ""
    sizes = {(int(across), int(down)) for across, down in _SIZE.findall(said)}
    if (height, width) in sizes and (width, height) not in sizes:
        return (
            f"the header says {height} x {width} pixels while the image has {width} x {height}: "
            "look whether the picture is whole"
        )
    return ""


def cannot_open(label: Path | str, error: Exception, tiff: Tiff | None, *, is_dicom: bool) -> str:
    """Return one line on why a slide could not be opened, and what to do."""
    reason = one_line(error)
    if is_dicom:
        return (
            f"{label}: TIAToolbox's DICOM reader cannot open this slide ({reason}); "
            "convert it to a tiled TIFF or SVS"
        )
    if tiff is not None and tiff.cut_off:
        return f"{label}: {cut_off(tiff)} ({reason}); copy it again"
    if tiff is not None and (tiff.colour not in ("RGB", "YCBCR") or tiff.bits != 8):
        return (
            f"{label}: a picture in {tiff.colour} with {tiff.bits} bits a sample, which TIAToolbox "
            f"cannot open ({reason}); {_REMEDY}"
        )
    if "OpenJPEG" in reason:  # glymur, with which TIAToolbox reads .jp2, finds no library
        return (
            f"{label}: TIAToolbox reads JPEG 2000 with OpenJPEG, which is missing here or too "
            f"old ({reason}); install it (apt-get install libopenjp2-7, conda install openjpeg), or "
            "convert the slide to a tiled TIFF"
        )
    suffix = Path(label).suffix
    if suffix != suffix.lower():
        return (
            f"{label}: TIAToolbox knows the suffixes of slides in lower case only ({reason}); rename it to "
            f"end with {suffix.lower()}"
        )
    return (
        f"{label}: not a slide that TIAToolbox can open, or a damaged one ({reason}); "
        "check that it opens in QuPath, or copy it again"
    )


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two sizes have one aspect ratio, up to two pixels."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= 2 * max(other)
