"""Which reader a slide gets.

Every slide can be read through the WSIReader that TIAToolbox opened. Where the file is a tiled TIFF of a
known layout, its tiles are decoded directly instead, which gives the same pixels several times faster.
"""

from __future__ import annotations

import logging

from tiacrossfusion.slides.readers.base import PatchReader
from tiacrossfusion.slides.readers.toolbox_reader import ToolboxReader
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SamplingSpec

_log = logging.getLogger(__name__)


def choose_reader(slide: Slide, spec: SamplingSpec) -> PatchReader:
    """Choose the fastest reader that gives the pixels of TIAToolbox's, and log which it is."""
    # These import tifffile and imagecodecs, which slides of other formats can do without.
    from tiacrossfusion.slides.readers.tiff_tiles import UnknownLayoutError
    from tiacrossfusion.slides.readers.tile_reader import TileReader

    reader: PatchReader
    try:
        reader = TileReader(slide, spec)
    except UnknownLayoutError as why:
        reader = ToolboxReader(slide, spec, str(why))
    _log.info("%s: patches are read by %s", slide.name, reader.name)
    return reader
