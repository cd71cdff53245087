"""Whether markers are found again, and hold, in patients that their clusters have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tiacrossfusion.markers.testing import Outcome, ShareTests, share_terms, share_tests
from tiacrossfusion.markers.vocabulary import distances, fit_centres, match
from tiacrossfusion.survival.stratified_cox import stratified_cox


@dataclass(frozen=True)
class HazardRatio:
    """Hazard ratio of a difference of one SD, with its 95 % interval; NaN where there is no solution."""

    value: float
    low: float
    high: float


def hazard_ratio(
    term: np.ndarray,
    beside: np.ndarray,
    outcome: Outcome,
    strata: np.ndarray | None = None,
) -> HazardRatio:
    """Fit a Cox regression on a term (N,) and others (N, P) by lifelines."""
    frame = pd.DataFrame(np.column_stack([term, beside]))
    varying = frame.columns[frame.std() > 0]
    frame = frame[varying].rename(columns=str)
    frame = frame.assign(
        time=outcome.times,
        event=outcome.events,
        stratum=np.zeros(len(term)) if strata is None else strata,
    )
    if outcome.entries is not None:
        frame = frame.assign(entry=outcome.entries)
    fitted = stratified_cox(frame) if "0" in frame else None
    if fitted is None:
        return HazardRatio(np.nan, np.nan, np.nan)
    low, high = np.exp(fitted.confidence_intervals_.loc["0"])
    return HazardRatio(float(np.exp(fitted.params_["0"])), float(low), float(high))


def fold_centres(
    points: np.ndarray, owners: np.ndarray, folds: np.ndarray, centres: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Find the markers anew without the patients of each fold, each in the row of the marker it matches.

    Args:
        points: (N, D) components of the sample.
        owners: (N,) number of the patient of each.
        folds: (P,) fold of each patient.
        centres: (K, D) of the markers of all patients.
        seed: of k-means.
    """
    number = len(centres)
    labels = distances(points, centres).argmin(axis=1)
    found = []
    for fold in range(int(folds.max()) + 1):
        others = folds[owners] != fold
        own = fit_centres(points[others], number, seed)
        assigned = distances(points, own).argmin(axis=1)
        found.append(own[match(labels, assigned, number)])
    return found


@dataclass(frozen=True)
class Held:
    """How a marker does over the folds.

    Attributes:
        found: folds in which it was found again, from the other patients alone.
        folds: number of folds.
        ratio: hazard ratio among patients held out, whose patches were assigned by markers found without
            them; stratified by fold.
    """

    found: int
    folds: int
    ratio: HazardRatio


def over_folds(
    counts: Sequence[np.ndarray],
    folds: np.ndarray,
    outcome: Outcome,
    shares: ShareTests,
    level: float,
) -> list[Held]:
    """Test the markers of each fold in the patients outside it, and look at them inside it.

    Args:
        counts: (P, K) patches of each patient by the markers of each fold.
        folds: (P,) fold of each patient.
        outcome: of the patients.
        shares: tests of all patients; a marker's share is among the patches outside those found before it.
        level: the false-discovery rate.
    """
    number = counts[0].shape[1]
    found = np.zeros(number, int)
    terms = np.zeros((len(folds), number))
    for fold, own in enumerate(counts):
        others = folds != fold
        found[share_tests(own[others], outcome.of(others), level).found] += 1
        for marker in range(number):
            before = shares.found
            if marker in shares.found:
                before = shares.found[: shares.found.index(marker)]
            terms[~others, marker] = share_terms(own, before)[~others, marker]
    return [
        Held(
            int(found[marker]),
            len(counts),
            hazard_ratio(terms[:, marker], outcome.beside, outcome, folds),
        )
        for marker in range(number)
    ]
