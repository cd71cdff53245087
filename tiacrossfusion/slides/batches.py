"""Read patches of all scales in batches, ahead and in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.grid import PatchGrid
from tiacrossfusion.slides.readers.base import PatchReader, ReadPatch, UnreadableError
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

#: Reading stops when this many patches from the beginning on are all unreadable.
GIVE_UP_AFTER = 1000


@dataclass(frozen=True)
class Unreadable:
    """A patch that overlaps a damaged part of the file, and the error of the decoder.

    `index` is that on the grid of its scale; `bounds` are level-0 pixels (x0, y0, x1, y1).
    """

    scale: str
    index: int
    bounds: tuple[int, int, int, int]
    reason: str


@dataclass(frozen=True)
class PatchBatch:
    """Consecutive patches of a slide; scales are mixed.

    Attributes:
        scales: (B,) int8, index into `SCALES`.
        indices: (B,) int64, index on the grid of that scale.
        images: (B, patch_size, patch_size, 3) uint8 RGB.
        unreadable: patches in between that could not be decoded; they are not in the images.
    """

    scales: np.ndarray
    indices: np.ndarray
    images: np.ndarray
    unreadable: tuple[Unreadable, ...]


#: Index into SCALES, index on the grid, and the image or the error.
_Patch = tuple[int, int, np.ndarray | str]


def read_batches(
    slide: Slide,
    grids: dict[str, PatchGrid],
    spec: SamplingSpec,
    reader: PatchReader,
    *,
    batch_size: int,
    num_workers: int,
) -> Iterator[PatchBatch]:
    """Read all patches of all scales, ahead of their use.

    The 5x cells are read row by row; in each comes the 5x patch, then the 10x and 20x patches in it, so
    that a tile of the file that all three need is decoded once. The order does not depend on batch size,
    workers and reader.

    Threads are enough, as decoders release the GIL. At most `num_workers + 2` cells and a batch are in
    memory.

    The last batch may be smaller than `batch_size`, and is empty only where no patch of the slide can be
    read. Without workers the calling thread reads.

    Raises:
        TiacfError: the first `GIVE_UP_AFTER` patches are all unreadable.
    """
    read = reader.reading(grids)

    def read_cell(cell: np.ndarray) -> list[_Patch]:
        return [(int(scale), int(index), _read(read, scale, index)) for scale, index in cell]

    side = (spec.patch_size, spec.patch_size, 3)
    waiting: list[_Patch] = []
    unreadable: list[Unreadable] = []
    n_read = n_unreadable = 0
    for scale, index, image in _in_order(read_cell, _cells(grids), num_workers):
        if isinstance(image, str):
            n_unreadable += 1
            bounds = tuple(int(edge) for edge in grids[SCALES[scale]].bounds[index])
            unreadable.append(Unreadable(SCALES[scale], index, bounds, image))  # type: ignore[arg-type]
            if n_read == 0 and n_unreadable == GIVE_UP_AFTER:
                raise TiacfError(
                    f"{slide.path or slide.name}: the first {GIVE_UP_AFTER} patches cannot be decoded "
                    f"({image}); the file is damaged, copy it again"
                )
            continue
        # Not earlier, so that unreadable patches at the end go with the last batch.
        if len(waiting) == batch_size:
            yield _batch(waiting, unreadable, side)
            waiting, unreadable = [], []
        n_read += 1
        waiting.append((scale, index, image))
    if waiting or unreadable:
        yield _batch(waiting, unreadable, side)


def _read(read: ReadPatch, scale: int, index: int) -> np.ndarray | str:
    try:
        return read(SCALES[scale], int(index))
    except UnreadableError as error:
        return str(error)


def _batch(
    patches: Sequence[_Patch], unreadable: Sequence[Unreadable], side: tuple[int, int, int]
) -> PatchBatch:
    images = np.empty((len(patches), *side), np.uint8)
    for place, (_, _, image) in zip(images, patches, strict=True):
        place[:] = image
    return PatchBatch(
        scales=np.array([scale for scale, _, _ in patches], np.int8),
        indices=np.array([index for _, index, _ in patches], np.int64),
        images=images,
        unreadable=tuple(unreadable),
    )


def _cells(grids: dict[str, PatchGrid]) -> list[np.ndarray]:
    """Return for each 5x cell, row by row, (n, 2) int64: index into SCALES and index on the grid."""
    patches = []
    for number, scale in enumerate(SCALES):
        column, row = grids[scale].grid.T.astype(np.int64) * CELLS_20X[scale] // CELLS_20X["5x"]
        patches.append(
            np.stack([row, column, np.full_like(row, number), np.arange(len(row))], axis=1)
        )
    way = np.concatenate(patches)
    way = way[np.lexsort(way.T[::-1])]
    starts = np.flatnonzero((np.diff(way[:, :2], axis=0) != 0).any(axis=1)) + 1
    return np.split(way[:, 2:], starts) if len(way) else []


def _in_order(
    read_cell: Callable[[np.ndarray], list[_Patch]], cells: list[np.ndarray], num_workers: int
) -> Iterator[_Patch]:
    """Read the cells, some of them ahead, and yield their patches in order."""
    if num_workers == 0:
        for cell in cells:
            yield from read_cell(cell)
        return
    coming = iter(cells)
    with ThreadPoolExecutor(num_workers, thread_name_prefix="patches") as pool:
        ahead: deque[Future[list[_Patch]]] = deque()
        try:
            ahead.extend(pool.submit(read_cell, cell) for cell in islice(coming, num_workers + 2))
            while ahead:
                patches = ahead.popleft().result()
                ahead.extend(pool.submit(read_cell, cell) for cell in islice(coming, 1))
                yield from patches
        finally:  # on an error, or when the iterator is closed early
            for future in ahead:
                future.cancel()
