"""How the markers of a slide lie: their shares, how they hold together, and which lie by which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

#: Half of the eight neighbours of a cell; the others are their mirror images.
_STEPS = ((1, 0), (0, 1), (1, 1), (1, -1))


@dataclass(frozen=True, eq=False)
class Layout:
    """The markers of one slide, or of one patient.

    Attributes:
        counts: (K,) patches of each marker.
        moran: (K,) Moran's I of a marker among the patches; NaN where it is of none or all.
        neighbours: (K,) share of the neighbours of its patches that are of it too; NaN without any.
        closeness: (K, K) mean logarithm of the distance from patches of the row's marker to the nearest of
            the column's, less that of all patches that are not of the column's; below 0 is closer. NaN where
            one of the two is absent, and on the diagonal.
    """

    counts: np.ndarray
    moran: np.ndarray
    neighbours: np.ndarray
    closeness: np.ndarray


def layout_of(labels: np.ndarray, grid: np.ndarray | None, number: int) -> Layout:
    """Describe the markers of a slide.

    Moran's I is `N / W * sum_ij w_ij (x_i - m)(x_j - m) / sum_i (x_i - m)^2` with x 1 in patches of the
    marker and 0 elsewhere, m their mean, w 1 for the eight neighbours on the grid, and W their sum (Moran,
    Biometrika 37, 1950, 17-23). Distances are to the nearest patch, on the grid.

    Args:
        labels: (N,) marker of each patch, 0 to K - 1.
        grid: (N, 2) column and row of each patch; without, all but `counts` is NaN.
        number: K.
    """
    counts = np.bincount(labels, minlength=number)
    unknown = np.full(number, np.nan)
    if grid is None or len(grid) == 0:
        return Layout(counts, unknown, unknown.copy(), np.full((number, number), np.nan))
    place = grid - grid.min(axis=0) + 1
    raster = np.full(place.max(axis=0) + 2, -1)
    raster[place[:, 0], place[:, 1]] = labels
    pairs = _pairs(raster, number)
    degrees = pairs.sum(axis=1)
    both, total = np.diag(pairs), pairs.sum()
    n = len(labels)
    mean = counts / n
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = both - 2 * mean * degrees + mean**2 * total
        moran = n / total * deviation / (n * mean * (1 - mean))
        neighbours = both / degrees
    moran[~np.isfinite(moran)] = np.nan
    return Layout(counts, moran, neighbours, _closeness(raster, place, labels, counts))


def _pairs(raster: np.ndarray, number: int) -> np.ndarray:
    """Count the ordered pairs (K, K) of neighbours of two markers; -1 in the raster is no patch."""
    pairs = np.zeros(number**2)
    for right, down in _STEPS:
        near = raster[: raster.shape[0] - right, max(0, -down) : raster.shape[1] - max(0, down)]
        far = raster[right:, max(0, down) : raster.shape[1] - max(0, -down)]
        there = (near >= 0) & (far >= 0)
        pairs += np.bincount(near[there] * number + far[there], minlength=number**2)
    counted = pairs.reshape(number, number)
    return counted + counted.T


def _closeness(
    raster: np.ndarray, place: np.ndarray, labels: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    number = len(counts)
    closeness = np.full((number, number), np.nan)
    here = tuple(place.T)
    for other in np.flatnonzero(counts):
        away = distance_transform_edt(raster != other)[here]
        if not away.any():
            continue
        away = np.log(np.maximum(away, 1))  # 0 at the marker's own patches, which are left out
        with np.errstate(divide="ignore", invalid="ignore"):
            nearer = np.bincount(labels, weights=away, minlength=number) / counts
        nearer = nearer - away[labels != other].mean()
        nearer[other] = np.nan
        closeness[:, other] = nearer
    return closeness


def pooled(slides: list[Layout]) -> Layout:
    """Combine the slides of a patient: counts are added, the rest averaged over the slides that have it."""
    if len(slides) == 1:
        return slides[0]
    counts = np.sum([slide.counts for slide in slides], axis=0)

    def mean(name: str) -> np.ndarray:
        values = np.stack([getattr(slide, name) for slide in slides])
        weights = np.stack([slide.counts for slide in slides]).astype(float)
        weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
        known = np.where(np.isfinite(values), weights, 0.0)
        with np.errstate(invalid="ignore"):
            total = (np.nan_to_num(values) * known).sum(axis=0) / known.sum(axis=0)
        return np.asarray(total)

    return Layout(counts, mean("moran"), mean("neighbours"), mean("closeness"))
