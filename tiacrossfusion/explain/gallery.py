"""The pixels of the patches with the highest and the lowest scores."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.extent import tiles_of
from tiacrossfusion.explain.score import Score, named
from tiacrossfusion.slides.patches import read_patch

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.slides.slide import Slide
    from tiacrossfusion.slides.spec import SamplingSpec

#: Number of patches with the highest scores of a scale, and of patches with the lowest.
PATCHES = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GalleryPatch:
    """One patch of a gallery.

    Attributes:
        image: (patch_size, patch_size, 3) uint8 RGB at the patch's own scale.
        bounds: level-0 pixels (x0, y0, x1, y1).
        percentile: percentile of its attention among the patches of its scale; None when unknown.
        attribution: change of the risk, to first order, if the whole slide were like it; None when unknown.
    """

    image: np.ndarray
    bounds: tuple[int, int, int, int]
    percentile: float | None
    attribution: float | None


@dataclass(frozen=True)
class GalleryRow:
    """The patches of one scale.

    Attributes:
        scale: "5x", "10x" or "20x".
        score: the score that selects them, "attention" or "attribution".
        microns: width of a patch.
        highest: in order of decreasing score; only attributions above 0 that are not negligible.
        lowest: in order of increasing score; only attributions below 0 that are not negligible. No patch is
            in both.
    """

    scale: str
    score: Literal["attention", "attribution"]
    microns: float
    highest: tuple[GalleryPatch, ...]
    lowest: tuple[GalleryPatch, ...]


@dataclass(frozen=True)
class Gallery:
    """The patches of a slide with the highest and the lowest scores.

    Attributes:
        rows: one for each scale with scores.
        unreadable: number of patches left out because the slide is damaged there.
    """

    rows: tuple[GalleryRow, ...]
    unreadable: int


def read_gallery(
    slide: Slide, bag: FeatureBag, scores: Mapping[str, Sequence[Score]], spec: SamplingSpec
) -> Gallery:
    """Read the patches with the highest and the lowest scores of each scale.

    Where attribution is known, these are the patches that raise the risk most and those that lower it
    most. Otherwise attention at their scale selects them; of fewer than `2 * PATCHES` patches half are
    among the highest. A patch that cannot be read is left out and not replaced.

    Raises:
        TiacfError: the positions of the bag's patches are unknown.
    """
    rows = []
    unreadable = 0
    for scale in bag.scales:
        bounds = tiles_of(bag, scale).bounds
        attribution = named(scores[scale], f"Attribution {scale}")
        attention = named(scores[scale], f"Attention {scale}")
        adds = None if attribution is None else attribution.values
        ranks = None if attention is None else attention.percentiles
        chosen = _choose(attribution, ranks)
        if chosen is None:
            continue
        by, *indices = chosen
        highest, lowest = (
            tuple(
                GalleryPatch(image, tuple(bounds[i].tolist()), _known(ranks, i), _known(adds, i))
                for i, image in _read(slide, bounds, scale, which, spec)
            )
            for which in indices
        )
        unreadable += sum(map(len, indices)) - len(highest) - len(lowest)
        microns = float(bounds[0, 2] - bounds[0, 0]) * slide.mpp[0]
        rows.append(GalleryRow(scale, by, microns, highest, lowest))
    return Gallery(tuple(rows), unreadable)


def _choose(
    attribution: Score | None, percentiles: np.ndarray | None
) -> tuple[Literal["attention", "attribution"], np.ndarray, np.ndarray] | None:
    """Return the score that selects patches of a scale, and indices of the highest and of the lowest."""
    if attribution is not None and np.nan_to_num(attribution.values).any():
        adds = attribution.values
        return "attribution", _first(-adds, attribution.raises), _first(adds, attribution.lowers)
    if percentiles is None:
        return None
    known = np.isfinite(percentiles)
    lowest = _first(percentiles, known)[: known.sum() // 2]
    known[lowest] = False
    return "attention", _first(-percentiles, known), lowest


def _first(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the indices of the `PATCHES` lowest values where `among` is True, from the lowest."""
    indices = np.flatnonzero(among)
    return indices[np.argsort(values[indices], kind="stable")][:PATCHES]


def _read(
    slide: Slide, bounds: np.ndarray, scale: str, indices: np.ndarray, spec: SamplingSpec
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and pixels of the patches that can be read, of (N, 4) bounds."""
    for index in indices:
        try:
            yield index, read_patch(slide, bounds[index], scale, spec)
        except TiacfError as error:
            _log.warning("left out of the gallery: %s", error)


def _known(values: np.ndarray | None, index: int) -> float | None:
    return float(values[index]) if values is not None and np.isfinite(values[index]) else None
