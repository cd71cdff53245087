"""Read the same part of a slide again, under a nuisance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.audit.nuisance import Nuisance
from tiacrossfusion.audit.pixels import Stain, turned
from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.encoding import EncodedPatches
from tiacrossfusion.inference.extraction import bag_provenance, no_tissue, tissue_grids
from tiacrossfusion.inference.sampling import balanced_order, curve_order, slide_rng
from tiacrossfusion.inference.slide import open_as
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.slides.grid import PatchGrid, cell_side_20x
from tiacrossfusion.slides.options import PixelChange, ReadOptions, Scale
from tiacrossfusion.slides.patches import read_patch
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import CELLS_20X, SamplingSpec

if TYPE_CHECKING:
    from tiacrossfusion.audit.nuisance import StainMethod
    from tiacrossfusion.encoders.encoder import Encoder

#: Grids are this much larger under other scales and margins, in cells.
_FURTHER = 1.05, 3

#: 5x patches from which the stain of a slide is found, of which every so many pixels along a side are taken.
_STAINED, _EVERY = 16, 4


@dataclass(frozen=True, eq=False)
class Rereading:
    """A part of a slide that can be read again under nuisances.

    Attributes:
        slide: the open slide.
        spec: the sampling of the model.
        encoder: of the model.
        read: how the slide is read.
        scales: that are read.
        provenance: of the features, as the model expects them.
        blocks: (rows, columns) bool, which cells of the 5x grid are read where they have tissue.
        families: of the whole slide.
        progress: bars to move.
    """

    slide: Slide
    spec: SamplingSpec
    encoder: Encoder
    read: ReadOptions
    scales: tuple[str, ...]
    provenance: Provenance
    blocks: np.ndarray
    families: int
    progress: Progress

    @classmethod
    def of(
        cls,
        slide: Slide,
        spec: SamplingSpec,
        encoder: Encoder,
        read: ReadOptions,
        scales: tuple[str, ...],
        most: int,
        progress: Progress,
    ) -> Rereading:
        """Choose the part: `most` 5x cells with tissue, spread evenly over the slide, or all if it has fewer.

        The same places of the grid are read under every nuisance, whatever tissue lies there then.

        Raises:
            TiacfError: the slide has no tissue, or cannot be read.
        """
        progress.stage(slide.name, "tissue")
        grids, _ = tissue_grids(slide, spec, read)
        five = grids["5x"].grid
        if len(five) == 0:
            raise TiacfError(f"{slide.path or slide.name}: {no_tissue(spec, read.mask)}")
        side = np.array(cell_side_20x(slide, spec)) * CELLS_20X["5x"]
        columns, rows = (
            int(np.ceil(length / each * _FURTHER[0])) + _FURTHER[1]
            for length, each in zip(slide.dimensions, side, strict=True)
        )
        row, column = np.divmod(np.arange(rows * columns), columns)
        curve = curve_order(np.stack([column, row], axis=1))
        order = balanced_order(curve, slide_rng(slide.name, len(five)))
        tissue = np.zeros((rows, columns), bool)
        tissue[five[:, 1], five[:, 0]] = True
        found = np.cumsum(tissue.ravel()[order])
        blocks = np.zeros_like(tissue)
        if len(five) <= most:  # tissue that other thresholds find is read, too
            blocks[:] = True
        else:
            blocks.ravel()[order[: 1 + np.searchsorted(found, most)]] = True
        made = bag_provenance(slide, spec, encoder.spec, read)
        return cls(slide, spec, encoder, read, scales, made, blocks, len(five), progress)

    def plain(self) -> FeatureBag:
        """Return the features of the part as the slide is.

        Raises:
            TiacfError: no patch can be read.
        """
        return self._bag(self.slide, self.spec, None, 0.0)

    def under(
        self,
        nuisance: Nuisance,
        plain: FeatureBag,
        rng: np.random.Generator,
        stains: Callable[[StainMethod], tuple[Stain, Stain]],
    ) -> FeatureBag:
        """Return the features of the part under a nuisance.

        Args:
            nuisance: what is different.
            plain: the features without.
            rng: for what the nuisance draws.
            stains: gives the slide's stain and another slide's, by the name of the normaliser.

        Raises:
            TiacfError: there is no tissue under it, or no stain to be found.
        """
        change: PixelChange | None = None
        if nuisance.pixels is not None:
            change = nuisance.pixels(rng)
        elif nuisance.stain_of_another is not None:
            own, other = stains(nuisance.stain_of_another)
            change = own.to(other)
        bag = plain
        if change is not None or nuisance.sampled or nuisance.margin or nuisance.mpp != 1:
            spec = self.spec
            if nuisance.sampled is not None:
                spec = spec.model_copy(update=nuisance.sampled(spec))
            if nuisance.mpp == 1:
                bag = self._bag(self.slide, spec, change, nuisance.margin)
            else:
                scale = Scale(float(np.mean(self.slide.mpp)) * nuisance.mpp)
                assert self.slide.path is not None  # noqa: S101 - slides of an audit are files
                with open_as(self.slide.path, replace(self.read, scale=scale)) as other_scale:
                    bag = self._bag(other_scale, spec, change, nuisance.margin)
        return turned_grid(bag, self.blocks.shape[0]) if nuisance.turned_grid else bag

    def _bag(
        self, slide: Slide, spec: SamplingSpec, change: PixelChange | None, margin: float
    ) -> FeatureBag:
        # Turned patches have turned tissue: the mask of the slide as it is holds.
        of_mask = None if change is turned else change
        grids, _ = tissue_grids(slide, spec, self.read, change=of_mask, margin=margin)
        chosen = {scale: self._within(grid) for scale, grid in grids.items()}
        if not all(len(chosen[scale]) for scale in self.scales):
            raise TiacfError(f"{slide.path or slide.name}: no tissue is found under this nuisance")
        patches = EncodedPatches(
            slide, chosen, spec, self.encoder, self.read, self.progress, change
        )
        return patches.bag(patches.encode_families(self.scales), self.provenance)

    def _within(self, grid: PatchGrid) -> PatchGrid:
        """Return the cells of a grid that lie in the blocks that are read."""
        column, row = grid.grid.T * CELLS_20X[grid.scale] // CELLS_20X["5x"]
        kept = self.blocks[row, column]
        return replace(grid, bounds=grid.bounds[kept], grid=grid.grid[kept])


def stain_sample(slide: Slide, bounds: np.ndarray, spec: SamplingSpec) -> np.ndarray:
    """Return some pixels, (h, w, 3) uint8, of the 5x patches at bounds (N, 4), from which a stain is found.

    Raises:
        TiacfError: they cannot be read.
    """
    chosen = bounds[np.linspace(0, len(bounds) - 1, min(_STAINED, len(bounds))).round().astype(int)]
    patches = [read_patch(slide, each, "5x", spec)[::_EVERY, ::_EVERY] for each in chosen]
    return np.concatenate(patches)


def turned_grid(bag: FeatureBag, rows: int) -> FeatureBag:
    """Turn the places of the patches by 90 degrees, clockwise; row by row then, as of a turned slide.

    Args:
        bag: of a slide.
        rows: of its 5x grid.
    """
    height = max(int(t.bounds[:, 3].max()) for t in bag.scales.values() if t.bounds is not None)
    found = {}
    for scale, tokens in bag.scales.items():
        assert tokens.grid is not None and tokens.bounds is not None  # noqa: S101, PT018 - of slides
        along = rows * CELLS_20X["5x"] // CELLS_20X[scale]
        column, row = tokens.grid.T
        grid = np.stack([along - 1 - row, column], axis=1)
        left, top, right, bottom = tokens.bounds.T
        bounds = np.stack([height - bottom, left, height - top, right], axis=1)
        order = np.lexsort(grid.T)
        found[scale] = ScaleFeatures(tokens.features[order], bounds[order], grid[order])
    return FeatureBag(found, bag.provenance)
