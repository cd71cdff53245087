"""Write a pyramidal slide as an Aperio scanner does."""

import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.simulation.checks import check_seed, require

Pixels = npt.NDArray[np.uint8]
Paint = Callable[[int, int, int, int], Pixels]

TILE = 256
BLOCK = 4 * TILE
_REDUCTION = 4
_QUALITY = 80
_SMALLEST_SIDE = 300
_LARGEST_SIDE = 100_000
_THUMBNAIL_SIDE = 1024
# Offsets in a classic TIFF have 32 bits; at this quality a pixel takes well below half a byte.
_PIXELS_OF_CLASSIC_TIFF = 8_000_000_000


def check_slide(path: Path, size: tuple[int, int], mpp: float, seed: int) -> None:
    """Raise if a slide cannot be written to `path`, or see :func:`check_numbers`.

    Raises:
        UsageError: the folder is missing, the suffix is not .svs, or a number is out of range.
    """
    if path.suffix.lower() != ".svs":
        raise UsageError(
            f"{path}: a simulated slide is an Aperio file; give a name that ends in .svs."
        )
    if not path.parent.is_dir():
        raise UsageError(f"{path}: its folder {path.parent} does not exist; create it first.")
    check_numbers(size, mpp, seed)


def check_numbers(size: tuple[int, int], mpp: float, seed: int) -> None:
    """Raise if no slide can have this size (pixels of level 0), mpp or seed.

    Raises:
        UsageError: a number is out of range.
    """
    sides = "a width and a height of"
    require(min(size) >= _SMALLEST_SIDE, "size", size, f"{sides} at least {_SMALLEST_SIDE} px")
    require(max(size) <= _LARGEST_SIDE, "size", size, f"{sides} at most {_LARGEST_SIDE} px")
    require(0.1 <= mpp <= 1.0, "mpp", mpp, "0.1 to 1.0 µm per pixel (0.25 for 40x, 0.5 for 20x)")
    check_seed(seed)


def write_slide(
    path: Path, size: tuple[int, int], mpp: float, paint: Paint, *, progress: bool
) -> None:
    """Paint a slide block by block and write it with its pyramid.

    Level 0 is followed by a striped thumbnail, as readers of Aperio files expect, and by levels
    reduced 4 and 16 times; all levels have JPEG tiles of 256 px. The file gets its name once it is
    complete.

    Args:
        path: the slide to write.
        size: width and height of level 0, in pixels.
        mpp: micrometres per pixel of level 0.
        paint: called as `paint(x, y, width, height)`, in level-0 pixels, from several threads; returns
            the (height, width, 3) uint8 RGB pixels of that block. Width and height are multiples of
            256, so the last blocks extend beyond the slide.
        progress: show a progress bar.
    """
    width, height = size
    quarter = np.empty((height // _REDUCTION, width // _REDUCTION, 3), np.uint8)
    scale = f"AppMag = {10 / mpp:.4g}|MPP = {mpp:.4f}"
    header = "Aperio Image Library v12.0.15 \r\n"
    extent = f"{width}x{height} [0,0 {width}x{height}] (256x256)"
    per_centimetre = 1e4 / mpp
    common: dict[str, Any] = {
        "photometric": "ycbcr",
        "compression": "jpeg",
        "subsampling": (2, 1),
        "software": False,
        "metadata": None,
    }
    bigtiff = width * height > _PIXELS_OF_CLASSIC_TIFF
    with replacing(path) as part, tifffile.TiffWriter(part, bigtiff=bigtiff) as tiff:

        def write_level(tiles: Iterator[bytes], shape: tuple[int, ...], factor: int) -> None:
            reduced = "" if factor == 1 else f" -> {shape[1]}x{shape[0]}"
            tiff.write(
                tiles,
                shape=shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                description=f"{header}{extent}{reduced} JPEG/RGB Q={_QUALITY}|{scale}",
                resolution=(per_centimetre / factor, per_centimetre / factor),
                resolutionunit="CENTIMETER",
                **common,
            )

        # After an error tifffile leaves the generator to the garbage collector, which may run in a
        # thread of the generator's own pool.
        with closing(_painted_tiles(size, paint, quarter, progress=progress)) as painted:
            write_level(painted, (height, width, 3), 1)
        thumbnail = _thumbnail(quarter)
        shown = f"{width}x{height} -> {thumbnail.shape[1]}x{thumbnail.shape[0]}"
        tiff.write(
            thumbnail,
            rowsperstrip=16,
            compressionargs={"level": _QUALITY},
            description=f"{header}{shown} - |{scale}",
            **common,
        )
        write_level(_tiles(quarter), quarter.shape, _REDUCTION)
        sixteenth = _reduce(quarter)
        write_level(_tiles(sixteenth), sixteenth.shape, _REDUCTION**2)


def _painted_tiles(
    size: tuple[int, int], paint: Paint, quarter: Pixels, *, progress: bool
) -> Generator[bytes]:
    """Yield the JPEG tiles of level 0 in file order, and fill `quarter`."""
    width, height = (-(-length // TILE) * TILE for length in size)
    blocks = [
        (x, y, min(BLOCK, width - x), min(BLOCK, height - y))
        for y in range(0, height, BLOCK)
        for x in range(0, width, BLOCK)
    ]

    def finish(block: tuple[int, int, int, int]) -> list[list[bytes]]:
        x, y, _, _ = block
        pixels = paint(*block)
        inside = pixels[: size[1] - y, : size[0] - x]
        if min(inside.shape[:2]) >= _REDUCTION:
            reduced = _reduce(inside)
            top, left = y // _REDUCTION, x // _REDUCTION
            quarter[top : top + reduced.shape[0], left : left + reduced.shape[1]] = reduced
        return list(_rows_of_tiles(pixels))

    # Drawing holds the GIL part of the time: more threads than this gain nothing.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        painted = pool.map(finish, blocks)
        if progress:
            from tqdm import tqdm

            painted = iter(tqdm(painted, total=len(blocks), unit="block", desc="Painting"))
        try:
            for _ in range(0, height, BLOCK):
                band = [next(painted) for _ in range(0, width, BLOCK)]
                for rows in zip(*band, strict=True):
                    yield from chain.from_iterable(rows)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _tiles(pixels: Pixels) -> Iterator[bytes]:
    """JPEG tiles of an image in file order; its edges are repeated to fill the last ones."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, -height % TILE), (0, -width % TILE), (0, 0)), mode="edge")
    return chain.from_iterable(_rows_of_tiles(padded))


def _rows_of_tiles(pixels: Pixels) -> Iterator[list[bytes]]:
    """Yield the JPEG tiles of an image whose sides are multiples of 256, row by row."""
    height, width, _ = pixels.shape
    for y in range(0, height, TILE):
        yield [_encode(pixels[y : y + TILE, x : x + TILE]) for x in range(0, width, TILE)]


def _encode(tile: Pixels) -> bytes:
    encoded = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile),
        level=_QUALITY,
        colorspace="rgb",
        outcolorspace="ycbcr",
        subsampling="422",
    )
    return bytes(encoded)


def _reduce(pixels: Pixels) -> Pixels:
    height, width = (length // _REDUCTION for length in pixels.shape[:2])
    whole = pixels[: height * _REDUCTION, : width * _REDUCTION]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def _thumbnail(quarter: Pixels) -> Pixels:
    height, width, _ = quarter.shape
    factor = min(1.0, _THUMBNAIL_SIDE / max(height, width))
    shape = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(quarter, shape, interpolation=cv2.INTER_AREA)
