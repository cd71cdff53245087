"""Writing a pyramidal slide the way an Aperio scanner does."""

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from tiacrossfusion.errors import UsageError

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
    """Refuse a slide that could not be written or read back.

    Args:
        path: The slide to write.
        size: Width and height of level 0, in pixels.
        mpp: Micrometres per pixel of level 0.
        seed: Seed of the slide.

    Raises:
        TiacfError: the folder is missing, the suffix is not .svs, or a number is out of its range.
    """
    if path.suffix.lower() != ".svs":
        raise UsageError(
            f"{path}: a simulated slide is an Aperio file; give a name that ends in .svs."
        )
    if not path.parent.is_dir():
        raise UsageError(f"{path}: its folder {path.parent} does not exist; create it first.")
    check_numbers(size, mpp, seed)


def check_numbers(size: tuple[int, int], mpp: float, seed: int) -> None:
    """Refuse a size, a resolution or a seed that no slide can have.

    Args:
        size: Width and height of level 0, in pixels.
        mpp: Micrometres per pixel of level 0.
        seed: Seed of the slide.

    Raises:
        TiacfError: a number is out of its range.
    """
    if min(size) < _SMALLEST_SIDE:
        raise UsageError(
            f"size is {size}; give a width and a height of at least {_SMALLEST_SIDE} px."
        )
    if max(size) > _LARGEST_SIDE:
        raise UsageError(
            f"size is {size}; give a width and a height of at most {_LARGEST_SIDE} px."
        )
    if not 0.1 <= mpp <= 1.0:
        raise UsageError(f"mpp is {mpp}; give 0.1 to 1.0 µm per pixel (0.25 for 40x, 0.5 for 20x).")
    if seed < 0:
        raise UsageError(f"seed is {seed}; give 0 or a positive whole number.")


def write_slide(
    path: Path, size: tuple[int, int], mpp: float, paint: Paint, *, progress: bool
) -> None:
    """Paint a slide block by block and write it with its pyramid.

    Level 0 is followed by a striped thumbnail, as readers of Aperio files expect, and by levels
    reduced 4 and 16 times; all levels have JPEG tiles of 256 px. The file appears under its name
    only once it is complete.

    Args:
        path: The slide to write.
        size: Width and height of level 0, in pixels.
        mpp: Micrometres per pixel of level 0.
        paint: Called as `paint(x, y, width, height)`, in level-0 pixels, from several threads;
            returns the (height, width, 3) uint8 RGB pixels of that block. Its sides are multiples
            of 256, so that the last blocks reach beyond the slide.
        progress: Whether to show a progress bar.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        _write_pages(partial, size, mpp, paint, progress=progress)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write_pages(
    path: Path, size: tuple[int, int], mpp: float, paint: Paint, *, progress: bool
) -> None:
    width, height = size
    quarter = np.empty((height // _REDUCTION, width // _REDUCTION, 3), np.uint8)
    scale = f"AppMag = {10 / mpp:.4g}|MPP = {mpp:.4f}"
    header = "Aperio Image Library v12.0.15 \r\n"
    extent = f"{width}x{height} [0,0 {width}x{height}] (256x256)"
    per_centimetre = 1e4 / mpp

    with tifffile.TiffWriter(path, bigtiff=width * height > _PIXELS_OF_CLASSIC_TIFF) as tiff:

        def write_level(tiles: Iterator[bytes], shape: tuple[int, ...], factor: int) -> None:
            reduced = "" if factor == 1 else f" -> {shape[1]}x{shape[0]}"
            tiff.write(
                tiles,
                shape=shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 1),
                description=f"{header}{extent}{reduced} JPEG/RGB Q={_QUALITY}|{scale}",
                resolution=(per_centimetre / factor, per_centimetre / factor),
                resolutionunit="CENTIMETER",
                software=False,
                metadata=None,
            )

        # On an error tifffile leaves them to the collector, which may run in a thread of their pool.
        with closing(_painted_tiles(size, paint, quarter, progress=progress)) as painted:
            write_level(painted, (height, width, 3), 1)
        thumbnail = _thumbnail(quarter)
        tiff.write(
            thumbnail,
            rowsperstrip=16,
            photometric="ycbcr",
            compression="jpeg",
            compressionargs={"level": _QUALITY},
            subsampling=(2, 1),
            description=(
                f"{header}{width}x{height} -> {thumbnail.shape[1]}x{thumbnail.shape[0]} - |{scale}"
            ),
            software=False,
            metadata=None,
        )
        write_level(_tiles(quarter), quarter.shape, _REDUCTION)
        sixteenth = _reduce(quarter)
        write_level(_tiles(sixteenth), sixteenth.shape, _REDUCTION**2)


def _painted_tiles(
    size: tuple[int, int], paint: Paint, quarter: Pixels, *, progress: bool
) -> Generator[bytes]:
    """JPEG tiles of level 0 in file order; fills `quarter` on the way."""
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
        return [
            [_encode(pixels[row : row + TILE, column : column + TILE]) for column in columns]
            for row in range(0, pixels.shape[0], TILE)
            for columns in [range(0, pixels.shape[1], TILE)]
        ]

    # Drawing holds the interpreter part of the time: more threads than this gain nothing.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        painted = pool.map(finish, blocks)
        if progress:
            from tqdm import tqdm

            painted = iter(tqdm(painted, total=len(blocks), unit="block", desc="Painting"))
        try:
            per_row = -(-width // BLOCK)
            for _ in range(0, height, BLOCK):
                band = [next(painted) for _ in range(per_row)]
                for rows in zip(*band, strict=True):
                    for tiles in rows:
                        yield from tiles
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _tiles(pixels: Pixels) -> Iterator[bytes]:
    height, width, _ = pixels.shape
    padding = ((0, -height % TILE), (0, -width % TILE), (0, 0))
    padded = np.pad(pixels, padding, mode="edge")
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            yield _encode(padded[y : y + TILE, x : x + TILE])


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
