"""Reading patches: pixels in batches, read ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tiacrossfusion.sampling.grid import PatchGrid
from tiacrossfusion.sampling.slide import Slide
from tiacrossfusion.sampling.spec import SamplingSpec

#: Patches enlarged by more than this are remarked on: scanners of one power differ by 10 % or so.
MAX_ENLARGEMENT = 1.2


@dataclass(frozen=True)
class PatchBatch:
    """Patches of one scale that follow each other on its grid.

    Attributes:
        scale: "5x", "10x" or "20x".
        start: index of the first patch on the grid.
        images: (B, patch_size, patch_size, 3) uint8 RGB.
    """

    scale: str
    start: int
    images: np.ndarray


def read_patch(slide: Slide, bounds: np.ndarray, scale: str, spec: SamplingSpec) -> np.ndarray:
    """Read one patch at its scale; what lies beyond the slide is white.

    Args:
        slide: an open slide.
        bounds: (4,) level-0 pixels (x0, y0, x1, y1) of the cell.
        scale: "5x", "10x" or "20x".
        spec: the sampling of the model.

    Returns:
        (patch_size, patch_size, 3) uint8 RGB.

    Raises:
        TiacfError: the region cannot be decoded.
    """
    x, y = int(bounds[0]), int(bounds[1])
    with slide.reading(f"the region at x={x}, y={y}"):
        patch = slide.reader.read_rect(
            location=(x, y),
            size=(spec.patch_size, spec.patch_size),
            resolution=spec.resolution(scale),
            units=spec.units,
            pad_mode="constant",
            pad_constant_values=255,  # the readers' own default differs: OpenSlide white, TIFF black
        )
    return np.ascontiguousarray(patch[..., :3])


def read_overview(slide: Slide, side: int) -> np.ndarray:
    """Read the whole slide, (h, w, 3) uint8, with its longer side at most `side` pixels.

    Raises:
        TiacfError: it cannot be decoded.
    """
    longest = max(d * mpp for d, mpp in zip(slide.dimensions, slide.mpp, strict=True))
    with slide.reading("the overview"):
        overview = slide.reader.slide_thumbnail(max(longest / side, *slide.mpp), "mpp")
    return np.ascontiguousarray(overview[..., :3])


def coarse_base(slide: Slide, spec: SamplingSpec) -> str:
    """Say that a slide was scanned too coarsely for 20x patches; empty when it was not."""
    wanted = spec.resolution("20x")
    base = max(slide.mpp) if spec.units == "mpp" else slide.power
    ratio = base / wanted if spec.units == "mpp" else wanted / base
    if ratio <= MAX_ENLARGEMENT:
        return ""
    return (
        f"scanned at {base:g} {spec.units}, so its 20x patches ({wanted:g} {spec.units}) are enlarged "
        f"{ratio:.1f} times and lack the detail that the model was trained on"
    )


def read_batches(
    slide: Slide,
    grids: dict[str, PatchGrid],
    spec: SamplingSpec,
    *,
    batch_size: int,
    num_workers: int,
) -> Iterator[PatchBatch]:
    """Read all patches of all scales in order, ahead of the one who uses them.

    Threads serve here, not processes: OpenSlide and the TIFF decoders release the interpreter's lock
    and two threads on one handle read twice as fast as one, without copies of the reader. At most
    `2 * num_workers` batches wait in memory.

    Args:
        slide: an open slide.
        grids: the cells to read, per scale.
        spec: the sampling of the model.
        batch_size: patches in a batch; the last one of a scale may be smaller.
        num_workers: reading threads; 0 reads in the calling thread.
    """

    def read(scale: str, start: int) -> PatchBatch:
        cells = grids[scale].bounds[start : start + batch_size]
        return PatchBatch(
            scale, start, np.stack([read_patch(slide, cell, scale, spec) for cell in cells])
        )

    work = [
        (scale, start) for scale, grid in grids.items() for start in range(0, len(grid), batch_size)
    ]
    if num_workers == 0:
        for scale, start in work:
            yield read(scale, start)
        return
    waiting: deque[Future[PatchBatch]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for scale, start in work:
                waiting.append(pool.submit(read, scale, start))
                if len(waiting) >= 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # on an error or when the reader of this stream stops early
            for future in waiting:
                future.cancel()
