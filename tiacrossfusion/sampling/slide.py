"""Opening slides: what TIAToolbox reads, and one clear line when it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.slide_files import is_dicom_folder, missing

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader


#: A scale given by the user that differs by more than this share from the file's is remarked on.
MAX_DEVIATION = 0.1


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
        caveat: why the scale may be wrong; empty when nothing speaks against it.
        at_close: what leaving a `with` block does.
    """

    reader: WSIReader
    path: Path | None
    dimensions: tuple[int, int]
    mpp: tuple[float, float]
    power: float
    offset: tuple[int, int] = (0, 0)
    caveat: str = ""
    at_close: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def __enter__(self) -> Slide:
        """Return self."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file, or give the user's reader back as it was."""
        self.at_close()

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Turn whatever a reader raises on a damaged file into one line on `what` was read.

        Raises:
            TiacfError: instead of the reader's error.
        """
        try:
            yield
        except Exception as error:  # each format library has its own kinds
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
        """Name to show: that of the file, or "array" for a reader without one."""
        return self.path.name if self.path is not None else "array"


def open_slide(
    image: str | Path | WSIReader, *, mpp: float | None = None, power: float | None = None
) -> Slide:
    """Open a slide with TIAToolbox and settle its scale.

    Args:
        image: path of a slide, or a TIAToolbox reader.
        mpp: microns per level-0 pixel; overrides what the file says.
        power: objective power of level 0; overrides what the file says.

    Raises:
        TiacfError: the file is missing, empty, damaged, of a format TIAToolbox does not read, or has
            neither mpp nor objective power.
    """
    from tiatoolbox.wsicore.wsireader import WSIReader

    if isinstance(image, WSIReader):
        reader = image
        path = Path(reader.input_path) if reader.input_path is not None else None
    else:
        path = Path(image)
        _check_file(path)
        try:
            reader = WSIReader.open(path)  # without mpp and power: the file's own are wanted too
        except Exception as error:  # readers raise whatever their file format library raises
            raise TiacfError(_cannot_open(path, error)) from error
    label = path or "array"
    try:
        info = reader.info
    except Exception as error:
        raise TiacfError(_cannot_open(label, error)) from error
    slide_mpp, slide_power = _scale(info.mpp, info.objective_power, mpp, power)
    if slide_mpp is None or slide_power is None:
        raise TiacfError(
            f"{label}: the file states neither microns per pixel nor objective power; "
            "give one with --mpp (such as 0.25) or --power (such as 40)"
        )
    if not all(0.01 <= value <= 100 for value in slide_mpp):
        raise TiacfError(
            f"{label}: {slide_mpp[0]:g} x {slide_mpp[1]:g} microns per pixel is no plausible scale; "
            "give the right one with --mpp"
        )
    caveat = ""
    if info.mpp is not None and (mpp or power):
        stated = float(np.mean(info.mpp))
        if abs(np.mean(slide_mpp) / stated - 1) > MAX_DEVIATION:
            caveat = f"taken as {slide_mpp[0]:g} microns per pixel while the file says {stated:g}"
    # The readers look the scale up in their info at every read, and leave mpp empty when only the
    # power is given. A reader that belongs to the user gets its own info back at the end.
    settled = copy(info)
    settled.mpp, settled.objective_power = np.array(slide_mpp), slide_power
    reader.info = settled
    raw = info.raw if isinstance(info.raw, dict) else {}
    return Slide(
        reader=reader,
        path=path,
        dimensions=(int(info.slide_dimensions[0]), int(info.slide_dimensions[1])),
        mpp=slide_mpp,
        power=slide_power,
        offset=(int(raw.get("openslide.bounds-x", 0)), int(raw.get("openslide.bounds-y", 0))),
        caveat=caveat,
        at_close=partial(_close, reader)
        if reader is not image
        else partial(setattr, reader, "info", info),
    )


def _close(reader: WSIReader) -> None:
    """Close the files of a reader; TIAToolbox's readers have no method for it."""
    for name in ("openslide_wsi", "tiff"):
        file = getattr(reader, name, None)
        if file is not None:
            file.close()


def _scale(
    file_mpp: Iterable[float] | None,
    file_power: float | None,
    mpp: float | None,
    power: float | None,
) -> tuple[tuple[float, float] | None, float | None]:
    """Settle mpp and power from the user's word, then the file's, then each from the other."""
    from tiatoolbox.utils.misc import mpp2common_objective_power, objective_power2mpp

    if mpp is not None:
        file_mpp, file_power = (mpp, mpp), power
    elif power is not None:
        file_mpp, file_power = None, power
    if file_mpp is None and file_power is not None:
        value = float(objective_power2mpp(file_power))
        return (value, value), float(file_power)
    if file_mpp is None:
        return None, None
    mpp_x, mpp_y = (float(value) for value in file_mpp)
    if file_power is None:
        file_power = float(mpp2common_objective_power((mpp_x + mpp_y) / 2))
    return (mpp_x, mpp_y), float(file_power)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise TiacfError(f"{path}: {missing(path)}; check the path")
    if not os.access(path, os.R_OK):
        raise TiacfError(f"{path}: may not be read (permission denied); ask for the right to")
    if path.is_file() and path.stat().st_size == 0:
        raise TiacfError(f"{path}: the file is empty; copy it again from the scanner or archive")
    if path.is_dir() and path.suffix.lower() != ".zarr" and not is_dicom_folder(path):
        raise TiacfError(f"{path}: a folder without DICOM files is no slide; give a slide file")


def _cannot_open(path: Path | str, error: Exception) -> str:
    reason = one_line(error)
    if isinstance(path, Path) and (is_dicom_folder(path) or path.suffix.lower() == ".dcm"):
        return (
            f"{path}: TIAToolbox's DICOM reader cannot open this slide ({reason}); "
            "convert it to a tiled TIFF or SVS"
        )
    return (
        f"{path}: not a slide that TIAToolbox can open, or a damaged one ({reason}); "
        "check that it opens in QuPath, or copy it again"
    )
