"""Make large slides in seconds by repeating the encoded JPEG tiles of a simulated slide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import render_slide

#: Side of a block in level-0 pixels; one tile of the level that is reduced 16 times.
BLOCK = 4096
TILE = 256
MPP = 0.25
#: The value of a cell of a layout where there is nothing but glass.
GLASS = -1
#: Blocks of a source: 2 x 2, numbered row by row.
SOURCE_BLOCKS = 4


def simulate_source(path: Path) -> None:
    """Simulate the slide of 8,192 x 8,192 px whose four blocks mosaics are made of."""
    render_slide(path, TissueParameters(0.5, 0.5, 0.5), size=(2 * BLOCK, 2 * BLOCK), mpp=MPP)


def write_mosaic(path: Path, source: Path, layout: np.ndarray, *, pyramid: bool = True) -> None:
    """Write an Aperio file of blocks of a source.

    Args:
        path: the slide to write; 40x, 0.25 mpp, JPEG tiles of 256 px.
        source: a slide made by `simulate_source`.
        layout: (rows, columns) number of the block of the source at each place, or `GLASS`.
        pyramid: whether levels reduced 4 and 16 times follow, or level 0 is all there is.
    """
    height, width = (BLOCK * n for n in layout.shape)
    scale = f"AppMag = {10 / MPP:.4g}|MPP = {MPP:.4f}"
    header = "Aperio Image Library v12.0.15 \r\n"
    with tifffile.TiffFile(source) as tiff, tifffile.TiffWriter(path, bigtiff=False) as writer:
        levels = tiff.series[0].levels
        overview = levels[-1].asarray()
        glass = np.percentile(overview, 95, axis=(0, 1)).astype(np.uint8)
        empty = imagecodecs.jpeg8_encode(
            np.full((TILE, TILE, 3), glass),
            level=80,
            colorspace="rgb",
            outcolorspace="ycbcr",
            subsampling="422",
            optimize=True,
        )
        for number, level in enumerate(levels if pyramid else levels[:1]):
            factor = 4**number
            reduced = "" if number == 0 else f" -> {width // factor}x{height // factor}"
            writer.write(
                _tiles(tiff, level.pages[0], layout, bytes(empty)),
                shape=(height // factor, width // factor, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 1),
                description=f"{header}{width}x{height} (256x256){reduced} JPEG/RGB Q=80|{scale}",
                software=False,
                metadata=None,
            )
            if number == 0 and pyramid:  # readers of Aperio files take the second page for it
                writer.write(
                    cv2.resize(overview, (256, 256)),
                    rowsperstrip=16,
                    description=f"{header}{width}x{height} -> 256x256 - |{scale}",
                    software=False,
                    metadata=None,
                )


def _tiles(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage, layout: np.ndarray, empty: bytes
) -> Iterator[bytes]:
    """Encoded tiles of a level of the mosaic in file order."""
    across = page.imagewidth // TILE  # tiles in a row of the source
    per_block = across // 2
    encoded = []
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        encoded.append(tiff.filehandle.read(count))
    for blocks in layout:
        for y in range(per_block):
            for block in blocks:
                if block == GLASS:
                    yield from [empty] * per_block
                    continue
                first = (block // 2 * per_block + y) * across + block % 2 * per_block
                yield from encoded[first : first + per_block]
