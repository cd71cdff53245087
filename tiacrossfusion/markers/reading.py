"""Read the patches of a cohort: a sample to find markers in, then all of them, slide by slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, check_same
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.markers.layout import Layout, layout_of, pooled
from tiacrossfusion.markers.vocabulary import Projection, distances
from tiacrossfusion.slides.spec import SamplingSpec

#: Patches in the sample, about, and the least and the most of a patient.
_SAMPLE, _FEWEST, _MOST = 100_000, 20, 2_000


@dataclass(frozen=True, eq=False)
class Sample:
    """Patches to find markers in, equally many of each patient if there are as many.

    Attributes:
        features: (N, E) float16 or float32.
        owners: (N,) number of the patient of each.
        encoder: what made the features.
        sampling: how the patches were laid.
    """

    features: np.ndarray
    owners: np.ndarray
    encoder: EncoderSpec
    sampling: SamplingSpec


@dataclass(frozen=True)
class TypicalPatch:
    """A patch near the centre of a marker.

    Attributes:
        marker: number of the marker.
        slide: file name of the slide.
        patient: whose slide it is.
        bounds: level-0 pixels (x0, y0, x1, y1).
        distance: squared distance to the centre in principal components.
    """

    marker: int
    slide: str
    patient: str
    bounds: tuple[int, int, int, int]
    distance: float


@dataclass(frozen=True, eq=False)
class Described:
    """All patches of a cohort by marker.

    Attributes:
        layouts: of each patient.
        slides: (K,) patches of each marker of each slide, by name.
        fold_counts: (N, K) patches of each patient by the markers of each fold.
        typical: patches near the centres, one a patient at most, the nearest first, by marker.
        unplaced: slides without positions.
    """

    layouts: list[Layout]
    slides: dict[str, np.ndarray]
    fold_counts: list[np.ndarray]
    typical: dict[int, list[TypicalPatch]]
    unplaced: list[str]


class Cohort:
    """The slides of patients, read one bag at a time.

    Args:
        patients: names of the slides of each patient.
        sources: the store of each slide.
        scale: "5x", "10x" or "20x".
        show: wraps slides to draw a bar.
    """

    def __init__(
        self,
        patients: Mapping[str, Sequence[str]],
        sources: Mapping[str, Path],
        scale: str,
        show: Callable[[list[str], str], Iterator[str]],
    ) -> None:
        """Keep what is to be read."""
        self.patients, self.sources, self.scale, self._show = patients, sources, scale, show

    def sample(self, rng: np.random.Generator) -> Sample:
        """Draw patches of each patient.

        Raises:
            TiacfError: a bag lacks the scale, is damaged, or is of another encoder.
        """
        each = int(np.clip(_SAMPLE // len(self.patients), _FEWEST, _MOST))
        parts, owners = [], []
        first: FeatureBag | None = None
        for number, _, slides, bag in self._bags("Sampling"):
            if first is None:
                first = bag
            check_same(
                first.provenance.encoder,
                bag.provenance.encoder,
                "encoder",
                f"bag of {bag.provenance.slide}",
                f"the first bag is of {first.provenance.encoder.name}; extract all slides with one encoder",
            )
            features = bag.scales[self.scale].features
            kept = np.sort(rng.permutation(len(features))[: -(-each // slides)])
            parts.append(features[kept])
            owners.append(np.full(len(kept), number))
        assert first is not None  # noqa: S101 - a cohort has slides
        made = first.provenance
        return Sample(np.concatenate(parts), np.concatenate(owners), made.encoder, made.sampling)

    def describe(
        self,
        projection: Projection,
        centres: np.ndarray,
        of_folds: Sequence[np.ndarray],
        typical: int,
        write: Callable[[FeatureBag, np.ndarray], None],
    ) -> Described:
        """Assign all patches to markers.

        Args:
            projection: of the features.
            centres: (K, D) of the markers.
            of_folds: those of each fold.
            typical: patches near each centre to keep.
            write: gets each bag and the marker (N,) of its patches.
        """
        k, patients = len(centres), list(self.patients)
        layouts: list[list[Layout]] = [[] for _ in patients]
        fold_counts = [np.zeros((len(patients), k), np.int64) for _ in of_folds]
        slides: dict[str, np.ndarray] = {}
        unplaced: list[str] = []
        nearest: list[dict[int, TypicalPatch]] = [{} for _ in range(k)]
        for number, slide, _, bag in self._bags("Markers"):
            tokens = bag.scales[self.scale]
            points = projection(tokens.features)
            away = distances(points, centres)
            labels = away.argmin(axis=1)
            for counts, other in zip(fold_counts, of_folds, strict=True):
                counts[number] += np.bincount(distances(points, other).argmin(axis=1), minlength=k)
            layout = layout_of(labels, tokens.grid, k)
            layouts[number].append(layout)
            slides[slide] = layout.counts
            if tokens.grid is None or tokens.bounds is None:
                unplaced.append(slide)
            else:
                for marker in np.flatnonzero(layout.counts):
                    row = int(np.where(labels == marker, away[:, marker], np.inf).argmin())
                    x0, y0, x1, y1 = (int(value) for value in tokens.bounds[row])
                    found = TypicalPatch(
                        int(marker),
                        bag.provenance.slide,
                        patients[number],
                        (x0, y0, x1, y1),
                        float(away[row, marker]),
                    )
                    known = nearest[marker].get(number)
                    if known is None or found.distance < known.distance:
                        nearest[marker][number] = found
            write(bag, labels)
        best = {
            marker: sorted(found.values(), key=lambda one: one.distance)[:typical]
            for marker, found in enumerate(nearest)
        }
        return Described([pooled(one) for one in layouts], slides, fold_counts, best, unplaced)

    def _bags(self, what: str) -> Iterator[tuple[int, str, int, FeatureBag]]:
        """Yield number of the patient, slide, number of the patient's slides, and bag of each slide."""
        owners = {
            slide: (number, len(slides))
            for number, slides in enumerate(self.patients.values())
            for slide in slides
        }
        for slide in self._show(list(owners), what):
            bag = FeatureBag.load(self.sources[slide])
            if self.scale not in bag.scales or len(bag.scales[self.scale]) == 0:
                raise TiacfError(
                    f"{self.sources[slide]}: has no {self.scale} patches; choose another --scale, or extract "
                    "the slide again"
                )
            number, slides = owners[slide]
            yield number, slide, slides, bag
