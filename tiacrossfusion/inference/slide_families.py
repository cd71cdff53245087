"""The families of a slide that is read: the 5x patches first, then one family after the other."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.encoding import EncodedPatches
from tiacrossfusion.inference.extraction import bag_provenance, no_tissue, tissue_grids
from tiacrossfusion.inference.partial import Families
from tiacrossfusion.inference.reading import Checkpoint
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.slides.families import parents_of, whole_families
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder

_log = logging.getLogger(__name__)


class SlideFamilies(Families):
    """The families of a slide; its 5x patches are read when it is made.

    Families whose 5x patch is damaged are left out. What has been read is kept in the checkpoint after each
    round, and an interrupted prediction goes on from there.

    Args:
        slide: an open slide.
        spec: how patches are laid and kept.
        encoder: turns patches into features.
        read: mask, batch size and number of workers.
        progress: bars to move.
        checkpoint: of what was read; None keeps nothing.

    Raises:
        TiacfError: the slide has no tissue, or is damaged all over.
    """

    def __init__(
        self,
        slide: Slide,
        spec: SamplingSpec,
        encoder: Encoder,
        read: ReadOptions,
        progress: Progress,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Lay the grids and read the 5x patches."""
        self._slide, self._spec, self._encoder, self._options = slide, spec, encoder, read
        self._checkpoint, self._progress = checkpoint, progress
        progress.stage(slide.name, "tissue")
        grids, self._classes = tissue_grids(slide, spec, read)
        if len(grids["20x"]) == 0:
            raise TiacfError(f"{slide.path or slide.name}: {no_tissue(spec, read.mask)}")
        self._patches = EncodedPatches(slide, grids, spec, encoder, read, progress)
        self._restore()
        left = np.flatnonzero(~self._patches.encoded["5x"])
        if len(left):
            progress.stage(slide.name, "5x patches", len(left))
            self._patches.encode({"5x": left})
            self._save()
        up10 = parents_of(grids["10x"].grid, grids["5x"].grid)
        up20 = parents_of(grids["20x"].grid, grids["10x"].grid)
        self._up = {"10x": up10, "20x": up10[up20]}
        self._rows = np.flatnonzero(self._patches.readable["5x"])
        if len(self._rows) == 0:
            raise TiacfError(
                f"{slide.path or slide.name}: no 5x patch can be read, the file is damaged; copy it again"
            )
        five = grids["5x"]
        self.coarse = ScaleFeatures(
            self._patches.features["5x"][self._rows],
            five.bounds[self._rows],
            five.grid[self._rows],
        )

    @property
    def name(self) -> str:
        """Name of the slide."""
        return self._slide.name

    @property
    def counts(self) -> np.ndarray:  # type: ignore[override]
        """Number (F, 2) of 10x and 20x patches in each family, without those known to be damaged."""
        kept = self._kept()
        found = [
            np.bincount(self._up[scale][kept[scale]], minlength=len(self._patches.grids["5x"]))
            for scale in self._up
        ]
        return np.stack(found, axis=1)[self._rows]

    def read(self, rows: np.ndarray) -> None:
        """Read and encode families, but those that the checkpoint has."""
        wanted = np.zeros(len(self._patches.grids["5x"]), bool)
        wanted[self._rows[rows]] = True
        chosen = {
            scale: np.flatnonzero(wanted[up] & ~self._patches.encoded[scale])
            for scale, up in self._up.items()
        }
        count = sum(map(len, chosen.values()))
        if count:
            self._progress.stage(self.name, "patches", count)
            self._patches.encode(chosen)
            self._save()

    def bag(self) -> FeatureBag:
        """Return all 5x patches, and the 10x and 20x patches of the families that were read."""
        kept = {s: k & self._patches.encoded[s] for s, k in self._kept().items()}
        kept["5x"] = self._patches.readable["5x"]
        return self._patches.bag(kept, self._made)

    def done(self) -> None:
        """Remove the checkpoint."""
        if self._checkpoint is not None:
            self._checkpoint.path.unlink(missing_ok=True)

    @cached_property
    def _made(self) -> Provenance:
        """Where the features come from; found once, since it takes a hash of the slide and its mask."""
        made = bag_provenance(self._slide, self._spec, self._encoder.spec, self._options)
        return made.model_copy(update={"mask_classes": self._classes})

    def _kept(self) -> dict[str, np.ndarray]:
        return whole_families(self._patches.grids, self._patches.readable)

    def _save(self) -> None:
        """Write what has been read."""
        if self._checkpoint is None:
            return
        patches = self._patches
        arrays: dict[str, np.ndarray] = {"colour": patches.colour}
        for scale in SCALES:
            encoded = patches.encoded[scale]
            arrays |= {
                f"encoded_{scale}": encoded,
                f"readable_{scale}": patches.readable[scale],
                f"features_{scale}": patches.features[scale][encoded],
            }
        try:
            with replacing(self._checkpoint.path) as part:
                part.write_bytes(save(arrays, metadata={"key": self._checkpoint.key}))
        except OSError as error:
            _log.warning("%s: what was read is not kept: %s", self.name, error)

    def _restore(self) -> None:
        """Take what an interrupted prediction has read."""
        if self._checkpoint is None or not self._checkpoint.path.exists():
            return
        patches = self._patches
        try:
            with safe_open(self._checkpoint.path, framework="numpy") as file:
                if (file.metadata() or {}).get("key") != self._checkpoint.key:
                    return
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            for scale in SCALES:
                encoded = arrays[f"encoded_{scale}"]
                if encoded.shape != patches.encoded[scale].shape:
                    return
                patches.features[scale][encoded] = arrays[f"features_{scale}"]
                patches.encoded[scale], patches.readable[scale] = (
                    encoded,
                    arrays[f"readable_{scale}"],
                )
            patches.colour = arrays["colour"]
        except Exception as error:  # a damaged file raises many kinds
            _log.warning("%s: what was read before cannot be used: %s", self.name, error)
