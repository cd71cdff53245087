"""Open slides with TIAToolbox; what it cannot read is refused with one clear line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.paths import is_endless, is_there, missing
from tiacrossfusion.slides.files import SLIDE_SUFFIXES, is_dicom_folder
from tiacrossfusion.slides.opening import open_reader
from tiacrossfusion.slides.readers.tiff_directory import Tiff, read_tiff
from tiacrossfusion.slides.scale import settle, stated_scale, stated_scale_of_info
from tiacrossfusion.slides.slide_checks import (
    cannot_open,
    check_levels,
    check_samples,
    check_sizes,
    cut_off,
)
from tiacrossfusion.text import is_written

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

#: Suffixes of slides. TIAToolbox knows others, which are not of slides: annotations (.db), and lists of
#: addresses (.json) that it would download.
_SUFFIXES = (
    *SLIDE_SUFFIXES,
    *(".dcm", ".zarr", ".png", ".jpg", ".jpeg", ".npy"),
)

#: Plausible microns per pixel: from finer than any objective resolves (a 5x patch would be a region of more
#: than 10,000 pixels along a side) to coarser than an overview.
MPP_RANGE = (0.05, 100.0)

#: Longest side of a slide in millimetres; the largest slides, of whole brains, measure 200 x 150.
LARGEST_SIDE = 250.0


@dataclass(frozen=True)
class Slide:
    """An open slide whose scale is known.

    Attributes:
        reader: TIAToolbox reader.
        path: the file or DICOM folder; None for a reader made from an array.
        dimensions: width and height in level-0 pixels.
        mpp: microns per level-0 pixel along x and y.
        power: objective power of level 0.
        offset: level-0 position (x, y) of the scanned area where the file states one
            (`openslide.bounds-x/-y`: MIRAX, Leica SCN). QuPath counts its coordinates from there.
        caveat: warnings about its scale, size or samples; empty without any.
        tiff: directories of the file; None where it is no TIFF.
        at_close: called at the end of a `with` block.
    """

    reader: WSIReader
    path: Path | None
    dimensions: tuple[int, int]
    mpp: tuple[float, float]
    power: float
    offset: tuple[int, int] = (0, 0)
    caveat: str = ""
    tiff: Tiff | None = field(default=None, repr=False, compare=False)
    at_close: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def __enter__(self) -> Slide:
        """Return self."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file, or restore the user's reader."""
        self.at_close()

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Turn the errors that readers raise on damaged files into one line.

        Raises:
            TiacfError: instead of the reader's error.
        """
        try:
            yield
        except Exception as error:  # format libraries have no common exception
            raise TiacfError(
                f"{self.path or self.name}: {what} cannot be read ({one_line(error)}); "
                "the file is damaged, copy it again"
            ) from error

    def reopen(self) -> None:
        """Open an OpenSlide file again: after one decode error its handle fails on every later read.

        No other thread may be reading.
        """
        old = getattr(self.reader, "openslide_wsi", None)
        if old is not None:
            with self.reading("the file"):
                self.reader.openslide_wsi = type(old)(str(self.reader.input_path))
            old.close()

    @property
    def name(self) -> str:
        """File name of the slide; "array" for a reader without a file."""
        return self.path.name if self.path is not None else "array"


def open_slide(
    image: str | Path | WSIReader,
    *,
    mpp: float | None = None,
    power: float | None = None,
    series: int | None = None,
) -> Slide:
    """Open a slide with the reader that fits it and determine its scale.

    Args:
        image: path of the slide, or a TIAToolbox reader.
        mpp: microns per level-0 pixel, over what the file says.
        power: objective power, over what the file says.
        series: number of the picture of a TIFF to read; None takes the largest in colour.

    Raises:
        TiacfError: the file is missing, empty, damaged, or of a format that TIAToolbox does not read or
            reads in wrong colours; it states no credible scale, or an implausible one; a level is
            empty or of another shape than the first; or the slide is larger than slides can be.
        UsageError: the file has no such series.
    """
    from tiatoolbox.wsicore.wsireader import WSIReader

    if isinstance(image, WSIReader):
        path = Path(image.input_path) if image.input_path is not None else None
    else:
        path = Path(image)
        _check_file(path)
    label = path or "array"
    tiff, other_pictures = None, ""
    try:
        if path is not None:
            tiff = read_tiff(path)
            check_levels(label, tiff)
        if isinstance(image, WSIReader):
            reader, info = image, image.info
            stated = stated_scale_of_info(info)
        else:
            reader, other_pictures = open_reader(Path(image), tiff, series)
            _leave_scale(reader)
            info = reader.info
            stated = stated_scale(reader)
    except TiacfError:
        raise
    except Exception as error:  # readers pass on the errors of their format libraries
        is_dicom = path is not None and (is_dicom_folder(path) or path.suffix.lower() == ".dcm")
        raise TiacfError(cannot_open(label, error, tiff, is_dicom=is_dicom)) from error
    caveats = [other_pictures, check_sizes(reader, label), check_samples(reader, label, tiff)]
    scale = settle(stated, mpp, power)
    if isinstance(scale, str):
        raise TiacfError(
            f"{label}: {scale}; give one with --mpp (such as 0.25) or --power (such as 40)"
        )
    slide_mpp = scale.mpp
    if not all(MPP_RANGE[0] <= value <= MPP_RANGE[1] for value in slide_mpp):
        raise TiacfError(
            f"{label}: {slide_mpp[0]:g} x {slide_mpp[1]:g} microns per pixel is no plausible scale; "
            "give the right one with --mpp"
        )
    pixels = [int(side) for side in info.slide_dimensions]
    millimetres = [side * mpp_side / 1000 for side, mpp_side in zip(pixels, slide_mpp, strict=True)]
    if max(millimetres) > LARGEST_SIDE:
        raise TiacfError(
            f"{label}: {pixels[0]} x {pixels[1]} pixels at {slide_mpp[0]:g} microns per pixel are a slide "
            f"of {millimetres[0]:.0f} x {millimetres[1]:.0f} mm, larger than any; give the right "
            "scale with --mpp, or copy the file again"
        )
    caveats += [cut_off(tiff), scale.caveat]
    # Readers look up the scale in their info at every read. The info of a reader that belongs to the user is
    # restored at the end.
    settled = copy(info)
    settled.mpp, settled.objective_power = np.array(slide_mpp), scale.power
    reader.info = settled
    raw = info.raw if isinstance(info.raw, dict) else {}
    return Slide(
        reader=reader,
        path=path,
        dimensions=(pixels[0], pixels[1]),
        mpp=slide_mpp,
        power=scale.power,
        offset=(int(raw.get("openslide.bounds-x", 0)), int(raw.get("openslide.bounds-y", 0))),
        caveat="; ".join(filter(None, caveats)),
        tiff=tiff,
        at_close=partial(setattr, reader, "info", info)
        if reader is image
        else partial(_close, reader),
    )


def _leave_scale(reader: WSIReader) -> None:
    """Keep an OpenSlide reader from estimating the scale, which is settled afterwards.

    TIAToolbox gives up on a file with a resolution of 0 or without a unit, also where it states the objective
    power.
    """
    if hasattr(reader, "openslide_wsi"):
        reader._estimate_mpp = lambda properties: None  # noqa: ARG005


def _close(reader: WSIReader) -> None:
    """Close the files of a reader; TIAToolbox's readers have no method for it."""
    for name in ("openslide_wsi", "tiff"):
        file = getattr(reader, name, None)
        if file is not None:
            file.close()


def _check_file(path: Path) -> None:
    if not is_there(path):
        raise TiacfError(f"{path}: {missing(path)}; check the path")
    if is_endless(path):
        raise TiacfError(f"{path}: a pipe or a device is no slide; give a slide file")
    if not is_written(path.name):
        raise TiacfError(
            f"{path}: its name is no UTF-8 text or has a carriage return, so that no result can name it; "
            "rename it"
        )
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except PermissionError as error:
        raise TiacfError(
            f"{path}: may not be read (permission denied); ask for the right to"
        ) from error
    except OSError as error:
        raise TiacfError(f"{path}: cannot be read ({error.strerror}); check its disk") from error
    if path.is_file() and path.stat().st_size == 0:
        raise TiacfError(f"{path}: the file is empty; copy it again from the scanner or archive")
    if path.is_dir() and path.suffix.lower() != ".zarr" and not is_dicom_folder(path):
        raise TiacfError(f"{path}: a folder without DICOM files is no slide; give a slide file")
    if path.is_file() and path.suffix.lower() not in _SUFFIXES:
        raise TiacfError(
            f'{path}: not a slide by its suffix "{path.suffix}"; give a slide '
            f"({', '.join(_SUFFIXES)}), or the file the suffix of its format"
        )
