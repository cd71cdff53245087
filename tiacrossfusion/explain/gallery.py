"""The patches with the highest and the lowest scores: what the network looks at, in pixels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.extent import tiles_of
from tiacrossfusion.explain.scores import TileScores
from tiacrossfusion.slides.patches import read_patch
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.slides.slide import Slide
    from tiacrossfusion.slides.spec import SamplingSpec

#: Patches with the highest scores of a scale, and as many with the lowest: what can be taken in at
#: a glance, and what a report of many slides has room for.
PATCHES = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GalleryPatch:
    """One patch of a gallery.

    Attributes:
        image: (patch_size, patch_size, 3) uint8 RGB at the patch's own scale.
        bounds: level-0 pixels (x0, y0, x1, y1).
        percentile: of its attention among the patches of its scale, 0 to 100; None when not known.
        attribution: what it adds to the risk; None when not known.
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
        score: what they are chosen by, "attention" or "attribution".
        microns: width of a patch.
        highest: from the highest score downwards; of attributions those above 0.
        lowest: from the lowest score upwards; of attributions those below 0. No patch is in both.
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
        rows: one for each scale that has scores of its own.
        unreadable: how many patches were left out because the slide is damaged there.
    """

    rows: tuple[GalleryRow, ...]
    unreadable: int


def read_gallery(
    slide: Slide, bag: FeatureBag, scores: Mapping[str, TileScores], spec: SamplingSpec
) -> Gallery:
    """Read the patches with the highest and the lowest scores of each scale.

    They are chosen by what they add to the risk where that is known: those that raise it and those that
    lower it. Else they are chosen by the attention that the network has at their scale; of fewer than
    `2 * PATCHES` patches half are among the highest. A patch that cannot be read is left out, no other
    takes its place.

    Args:
        slide: the slide, open.
        bag: bag of the slide.
        scores: what `tile_scores` gave.
        spec: how the bag's patches were sampled.

    Raises:
        TiacfError: it is not known where the bag's patches lie.
    """
    rows = []
    unreadable = 0
    for scale in SCALES:
        bounds = tiles_of(bag, scale).bounds
        chosen = _choose(scores[scale])
        if chosen is None:
            continue
        highest, lowest = (
            _read(slide, bounds, scores[scale], indices, spec)
            for indices in (chosen.highest, chosen.lowest)
        )
        wanted = len(chosen.highest) + len(chosen.lowest)
        unreadable += wanted - len(highest) - len(lowest)
        microns = float(bounds[0, 2] - bounds[0, 0]) * slide.mpp[0]
        rows.append(GalleryRow(scale, chosen.score, microns, highest, lowest))
    return Gallery(tuple(rows), unreadable)


@dataclass(frozen=True)
class _Chosen:
    """Indices of patches of a scale, and what they are chosen by."""

    score: Literal["attention", "attribution"]
    highest: np.ndarray
    lowest: np.ndarray


def _choose(scores: TileScores) -> _Chosen | None:
    """Choose patches of a scale; None where no score of its own tells them apart."""
    adds, percentiles = _own(scores, scores.attributions), _own(scores, scores.percentiles)
    if adds is not None and np.nan_to_num(adds).any():
        return _Chosen("attribution", _first(-adds, adds > 0), _first(adds, adds < 0))
    if percentiles is None:
        return None
    known = np.isfinite(percentiles)
    lowest = _first(percentiles, known)[: known.sum() // 2]
    known[lowest] = False
    return _Chosen("attention", _first(-percentiles, known), lowest)


def _own(scores: TileScores, values: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Values of the scale itself; in a mean over smaller tiles the patches themselves have no part."""
    return None if scores.scale in scores.means else values.get(scores.scale)


def _first(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Give the indices of the `PATCHES` lowest values of those that take part, from the lowest."""
    indices = np.flatnonzero(among)
    return indices[np.argsort(values[indices], kind="stable")][:PATCHES]


def _read(
    slide: Slide, bounds: np.ndarray, scores: TileScores, indices: np.ndarray, spec: SamplingSpec
) -> tuple[GalleryPatch, ...]:
    """Read patches of a scale, (N, 4) bounds, but for those that cannot be read."""
    percentiles, adds = _own(scores, scores.percentiles), _own(scores, scores.attributions)
    patches = []
    for index in indices:
        try:
            image = read_patch(slide, bounds[index], scores.scale, spec)
        except TiacfError as error:
            _log.warning("left out of the gallery: %s", error)
            continue
        x0, y0, x1, y1 = bounds[index].tolist()
        patches.append(
            GalleryPatch(image, (x0, y0, x1, y1), _known(percentiles, index), _known(adds, index))
        )
    return tuple(patches)


def _known(values: np.ndarray | None, index: int) -> float | None:
    return float(values[index]) if values is not None and np.isfinite(values[index]) else None
