"""Patches through the WSIReader that TIAToolbox opened."""

from __future__ import annotations

import threading
from copy import copy
from dataclasses import replace

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.slides.grid import PatchGrid
from tiacrossfusion.slides.patches import cut_patch
from tiacrossfusion.slides.readers.base import PatchReader, ReadPatch, UnreadableError
from tiacrossfusion.slides.readers.scale_source import scale_source
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec


class ToolboxReader(PatchReader):
    """Reads patches through the WSIReader of the slide.

    After one decode error an OpenSlide handle fails on every later read. So a patch that fails is read
    again with a new handle: the error may have been that of another thread's patch.
    """

    def __init__(self, slide: Slide, spec: SamplingSpec, why: str) -> None:
        """Start with the handle of the slide."""
        self.name = f"WSIReader: {why}"
        self._original, self._slide = slide, slide
        self._sources = {
            scale: scale_source(slide.reader, spec, scale, between_pixels=False) for scale in SCALES
        }
        self._reopening = threading.Lock()

    def reading(self, grids: dict[str, PatchGrid]) -> ReadPatch:
        """See `PatchReader.reading`."""
        return lambda scale, index: self.read(grids[scale].bounds[index], scale)

    def read(self, bounds: np.ndarray, scale: str) -> np.ndarray:
        """Read the patch at some level-0 bounds (4,).

        Raises:
            UnreadableError: it cannot be decoded.
        """
        slide = self._slide
        try:
            return cut_patch(slide, bounds, self._sources[scale])
        except TiacfError as error:
            if not hasattr(slide.reader, "openslide_wsi"):
                raise UnreadableError(_reason(error)) from error
        with self._reopening:
            fresh = _reopened(slide)
            try:
                patch = cut_patch(fresh, bounds, self._sources[scale])
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
    """Return the slide with a copy of its reader that has a new OpenSlide handle.

    The failed handle is closed when no thread reads from it any more.
    """
    from openslide import OpenSlide

    reader = copy(slide.reader)
    with slide.reading("the file"):
        reader.openslide_wsi = OpenSlide(str(reader.input_path))
    return replace(slide, reader=reader)


def _reason(error: TiacfError) -> str:
    """Return the error of the reader itself."""
    return one_line(error.__cause__ or error)
