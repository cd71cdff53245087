"""Roads from a slide file to the pixels of patches, and which of them a slide takes.

Every slide can be read through the WSIReader that TIAToolbox opened. Where the file is a tiled TIFF of a
known layout, its tiles are decoded directly instead, which gives the same pixels several times faster.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.slides.grid import PatchGrid
from tiacrossfusion.slides.patches import read_patch
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SamplingSpec

if TYPE_CHECKING:
    from typing import Self

_log = logging.getLogger(__name__)

#: Reads the patch at an index of a scale's grid: (patch_size, patch_size, 3) uint8 RGB.
ReadPatch = Callable[[str, int], np.ndarray]


class UnreadableError(Exception):
    """A patch that touches a damaged part of the file; the text says what is wrong with it."""


class Road(ABC):
    """A way to read patches of one slide. Leave its `with` block before the slide is closed.

    Attributes:
        name: "tiles", or "WSIReader: " and why not tiles.
    """

    name: str

    @abstractmethod
    def reading(self, grids: dict[str, PatchGrid]) -> ReadPatch:
        """Prepare to read each patch of some grids once, in any order, from several threads.

        Args:
            grids: the cells to read, per scale.

        Returns:
            A function of scale and index that reads a patch; what lies beyond the slide is white. It
            raises `UnreadableError` where the file is damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the files that the road has opened."""

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self.close()


def choose_road(slide: Slide, spec: SamplingSpec) -> Road:
    """Choose the fastest road that gives the pixels of the slide's reader, and log which it is.

    Args:
        slide: an open slide.
        spec: the sampling of the model.
    """
    # These import tifffile and imagecodecs, which slides of other formats can do without.
    from tiacrossfusion.slides.readers.tiff_tiles import UnknownLayoutError
    from tiacrossfusion.slides.readers.tile_reader import TileRoad

    road: Road
    try:
        road = TileRoad(slide, spec)
    except UnknownLayoutError as why:
        road = ReaderRoad(slide, spec, str(why))
    _log.info("%s: patches are read by %s", slide.name, road.name)
    return road


class ReaderRoad(Road):
    """Patches through the slide's own reader.

    After one decode error an OpenSlide handle fails on every later read, whatever is read. So a patch
    that fails is tried again on a handle of its own before it is given up: the error may have been
    that of another thread's patch.

    Args:
        slide: an open slide.
        spec: the sampling of the model.
        why: why the slide does not take the road of tiles.
    """

    def __init__(self, slide: Slide, spec: SamplingSpec, why: str) -> None:
        """Begin with the handle that the slide has."""
        self.name = f"WSIReader: {why}"
        self._original, self._slide, self._spec = slide, slide, spec
        self._reopening = threading.Lock()

    def reading(self, grids: dict[str, PatchGrid]) -> ReadPatch:
        """See `Road.reading`."""

        def read(scale: str, index: int) -> np.ndarray:
            return self.read(grids[scale].bounds[index], scale)

        return read

    def read(self, bounds: np.ndarray, scale: str) -> np.ndarray:
        """Read the patch at some level-0 bounds (4,).

        Raises:
            UnreadableError: it cannot be decoded.
        """
        slide = self._slide
        try:
            return read_patch(slide, bounds, scale, self._spec)
        except TiacfError as error:
            if not hasattr(slide.reader, "openslide_wsi"):
                raise UnreadableError(_reason(error)) from error
        with self._reopening:
            fresh = _reopened(slide)
            try:
                patch = read_patch(fresh, bounds, scale, self._spec)
            except TiacfError as error:
                fresh = _reopened(slide)
                raise UnreadableError(_reason(error)) from error
            finally:
                if self._slide is slide:  # no other thread has replaced the failed handle
                    self._slide = fresh
                    # The overview is read later, and the slide closes this handle at its end.
                    self._original.reader.openslide_wsi = fresh.reader.openslide_wsi
        return patch

    def close(self) -> None:
        """Do nothing: the slide closes its reader."""


def _reopened(slide: Slide) -> Slide:
    """Return the slide with a copy of its reader that has an OpenSlide handle of its own.

    The failed handle is closed when the last thread that reads from it lets go of it.
    """
    from openslide import OpenSlide

    reader = copy(slide.reader)
    with slide.reading("the file"):
        reader.openslide_wsi = OpenSlide(str(reader.input_path))
    return replace(slide, reader=reader)


def _reason(error: TiacfError) -> str:
    """What the reader itself said."""
    return one_line(error.__cause__ or error)
