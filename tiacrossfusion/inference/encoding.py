"""Read and encode the patches of one slide, all at once or some at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.slides.batches import PatchBatch, read_batches
from tiacrossfusion.slides.families import whole_families
from tiacrossfusion.slides.grid import PatchGrid
from tiacrossfusion.slides.options import PixelChange, ReadOptions
from tiacrossfusion.slides.readers.choice import choose_reader
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder

_log = logging.getLogger(__name__)


class EncodedPatches:
    """Features of the patches of a slide that have been read so far.

    Args:
        slide: an open slide.
        grids: its cells with tissue.
        spec: how they were laid.
        encoder: turns patches into features.
        read: batch size and number of workers.
        progress: its bar is moved by each patch.
        change: what is made of the pixels of patches before they are encoded; None for nothing.

    Attributes:
        features: (N, E) float16 by scale; 0 for patches that were not read.
        readable: (N,) bool by scale, False for patches that the file is too damaged to give.
        encoded: (N,) bool by scale.
        colour: sum of the patches' colourfulness, and their number.
    """

    def __init__(
        self,
        slide: Slide,
        grids: Mapping[str, PatchGrid],
        spec: SamplingSpec,
        encoder: Encoder,
        read: ReadOptions,
        progress: Progress,
        change: PixelChange | None = None,
    ) -> None:
        """Allocate the features."""
        self.slide, self.grids, self.spec, self.encoder = slide, dict(grids), spec, encoder
        self._read, self._progress, self._change = read, progress, change
        self.features = {
            scale: np.zeros((len(grid), encoder.spec.width), np.float16)
            for scale, grid in grids.items()
        }
        self.readable = {scale: np.ones(len(grid), bool) for scale, grid in grids.items()}
        self.encoded = {scale: np.zeros(len(grid), bool) for scale, grid in grids.items()}
        self.colour = np.zeros(2)
        self.reader_name = ""

    def encode(self, chosen: Mapping[str, np.ndarray] | None = None) -> None:
        """Read and encode patches.

        Args:
            chosen: indices of the cells, by scale; None for all.

        Raises:
            TiacfError: the first patches are all damaged.
        """
        index = {
            scale: np.arange(len(grid)) if chosen is None else chosen.get(scale, np.arange(0))
            for scale, grid in self.grids.items()
        }
        grids = {
            scale: replace(grid, bounds=grid.bounds[index[scale]], grid=grid.grid[index[scale]])
            for scale, grid in self.grids.items()
        }
        read, label = self._read, self.slide.path or self.slide.name
        with choose_reader(self.slide, self.spec) as reader:
            self.reader_name = reader.name
            on_the_way: deque[PatchBatch] = deque()

            def images() -> Iterator[np.ndarray]:
                for batch in read_batches(
                    self.slide,
                    grids,
                    self.spec,
                    reader,
                    batch_size=read.batch_size,
                    num_workers=read.num_workers,
                ):
                    on_the_way.append(batch)
                    colours = _colour_of(batch.images)
                    self.colour += (colours.sum(), len(colours))
                    yield self._changed(batch)

            for encoded in self.encoder.encode_stream(images()):
                batch = on_the_way.popleft()
                for number, scale in enumerate(SCALES):
                    of_scale = batch.scales == number
                    self.features[scale][index[scale][batch.indices[of_scale]]] = encoded[of_scale]
                for patch in batch.unreadable:
                    self.readable[patch.scale][index[patch.scale][patch.index]] = False
                    _log.warning(
                        "%s: %s patch at %s: %s", label, patch.scale, patch.bounds, patch.reason
                    )
                self._progress.step(len(batch.images) + len(batch.unreadable))
        for scale, cells in index.items():
            self.encoded[scale][cells] = True

    def encode_families(self, scales: Sequence[str]) -> dict[str, np.ndarray]:
        """Read and encode all patches of some scales.

        Returns:
            (N,) bool by scale: patches that can be read, in whole families.

        Raises:
            TiacfError: the file is damaged all over.
        """
        self.encode({scale: np.arange(len(self.grids[scale])) for scale in scales})
        whole = whole_families(self.grids, self.readable)
        kept = {scale: whole[scale] for scale in scales}
        if not all(cells.any() for cells in kept.values()):
            raise TiacfError(
                f"{self.slide.path or self.slide.name}: no patch can be read, the file is damaged all over; "
                "copy it again"
            )
        return kept

    def _changed(self, batch: PatchBatch) -> np.ndarray:
        """Return the images of a batch as they are to be encoded."""
        if self._change is not None:
            for number in np.unique(batch.scales):
                rows = batch.scales == number
                mpp = self.spec.mpp(SCALES[number])
                batch.images[rows] = self._change(batch.images[rows], mpp)
        return batch.images

    def bag(self, kept: Mapping[str, np.ndarray], provenance: Provenance) -> FeatureBag:
        """Return the patches of a mask (N,) by scale as a bag."""
        grids = {scale: self.grids[scale] for scale in kept}
        scales = {
            scale: ScaleFeatures(
                self.features[scale][kept[scale]], grid.bounds[kept[scale]], grid.grid[kept[scale]]
            )
            for scale, grid in grids.items()
        }
        dropped = {
            scale: int((self.encoded[scale] & ~keep).sum())
            for scale, keep in kept.items()
            if (self.encoded[scale] & ~keep).any()
        }
        made_by = {
            "reader": self.reader_name,
            "precision": self.encoder.precision,
            "dropped": dropped,
            "colour": round(float(self.colour[0] / max(1, self.colour[1])), 2),
        }
        return FeatureBag(scales, provenance.model_copy(update=made_by))


def _colour_of(images: np.ndarray) -> np.ndarray:
    """How far red, green and blue lie apart in each of some images (B, h, w, 3), in grey levels (B,)."""
    some = images[:, ::8, ::8].astype(np.int16)
    return (some.max(axis=-1) - some.min(axis=-1)).mean(axis=(1, 2))
