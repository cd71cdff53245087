"""Kinds of tissue: clusters of features, whose number is chosen by how stable they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Numbers of markers that are tried.
NUMBERS = (3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24)

#: Principal components that clusters are sought in.
COMPONENTS = 48

#: Times that a number is tried on two halves of the patients.
_SPLITS = 4

#: Starts of k-means on a part of the points, of which the one with the smallest distances is kept. With five
#: starts, rare kinds of planted tissue were merged more often.
_STARTS, _FOR_START = 12, 10_000

#: Agreement below the highest that is as stable.
_AS_STABLE = 0.05

#: Once two numbers in a row agree so much less than the highest, larger ones are not tried.
_FALLEN = 0.2

#: Patches on which the number is chosen.
_FOR_NUMBER = 12_000


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components of standardised features.

    Attributes:
        mean: (E,) of the features.
        axes: (E, D), each component over the SDs of the features.
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, components: int = COMPONENTS) -> Projection:
        """Find the components with the largest variance of features (N, E)."""
        mean, sd = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-9)
        standard = ((features - mean) * scale).astype(np.float32)
        _, vectors = np.linalg.eigh((standard.T @ standard).astype(np.float64))
        axes = vectors[:, ::-1][:, : min(components, len(features))] * scale[:, None]
        return cls(mean.astype(np.float32), axes.astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the components (N, D) float32 of features (N, E)."""
        return (features.astype(np.float32) - self.mean) @ self.axes


def fit_centres(points: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Return the centres (K, D) of clusters of points (N, D), by mini-batch k-means.

    It begins with the best of several starts of k-means on a part of the points. Source: Sculley, "Web-scale
    k-means clustering", WWW 2010; scikit-learn's implementation.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    part = points
    if len(points) > _FOR_START:
        part = points[np.random.default_rng(seed).permutation(len(points))[:_FOR_START]]
    begun = KMeans(number, n_init=_STARTS, random_state=seed).fit(part)
    if part is points:
        return np.asarray(begun.cluster_centers_, np.float32)
    fit = MiniBatchKMeans(
        number, init=begun.cluster_centers_, n_init=1, batch_size=4096, random_state=seed
    ).fit(points)
    return np.asarray(fit.cluster_centers_, np.float32)


def distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return squared distances (N, K) of points (N, D) to centres (K, D)."""
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.maximum(squares - 2 * points @ centres.T, 0)


@dataclass(frozen=True)
class Stability:
    """How much clusters of two halves of the patients agree.

    Attributes:
        number: of clusters.
        agreement: mean adjusted Rand index, 1 for the same clusters, 0 for chance.
        error: its standard error over the splits.
    """

    number: int
    agreement: float
    error: float


def choose_number(
    points: np.ndarray, owners: np.ndarray, numbers: Sequence[int], rng: np.random.Generator
) -> tuple[int, list[Stability]]:
    """Choose the number of clusters: the largest that is as stable as the most stable one.

    For each number clusters are found in one half of the patients and in the other, and all points are
    assigned by both (Lange et al., "Stability-based validation of clustering solutions", Neural Computation
    16, 2004). As stable is within .05 or one standard error of the highest agreement: rare kinds of tissue
    cost a little agreement, and are worth more than it.

    Args:
        points: (N, D) components of patches.
        owners: (N,) number of the patient of each.
        numbers: that are tried, rising; those of more than half of the points are left out.
        rng: draws the halves, and the points that are used.
    """
    from sklearn.metrics import adjusted_rand_score

    kept = rng.permutation(len(points))[:_FOR_NUMBER]
    points, owners = points[kept], owners[kept]
    patients = np.unique(owners)
    halves = [
        np.isin(owners, rng.permutation(patients)[: len(patients) // 2]) for _ in range(_SPLITS)
    ]
    found = []
    for number in numbers:
        if any(min(half.sum(), (~half).sum()) < 2 * number for half in halves):
            continue
        agreements = []
        for half in halves:
            seed = int(rng.integers(2**31))
            labels = [
                distances(points, fit_centres(points[part], number, seed)).argmin(axis=1)
                for part in (half, ~half)
            ]
            agreements.append(adjusted_rand_score(*labels))
        error = np.std(agreements, ddof=1) / np.sqrt(_SPLITS)
        found.append(Stability(number, float(np.mean(agreements)), float(error)))
        highest = max(one.agreement for one in found)
        if len(found) > 2 and max(one.agreement for one in found[-2:]) < highest - _FALLEN:
            break  # more clusters only divide kinds of tissue further
    best = max(found, key=lambda one: one.agreement)
    stable = [one for one in found if one.agreement >= best.agreement - max(_AS_STABLE, best.error)]
    return max(one.number for one in stable), found


def match(labels: np.ndarray, others: np.ndarray, number: int) -> np.ndarray:
    """Return for each cluster (K,) the cluster of another clustering with which it shares most points.

    One to one, by the sum of their Jaccard indices (Hungarian algorithm).

    Args:
        labels: (N,) cluster of each point.
        others: (N,) its cluster in the other clustering, of the same number of clusters.
        number: K.
    """
    from scipy.optimize import linear_sum_assignment

    both = np.bincount(labels * number + others, minlength=number**2).reshape(number, number)
    either = both.sum(axis=1)[:, None] + both.sum(axis=0) - both
    return np.asarray(linear_sum_assignment(-both / np.maximum(either, 1))[1])
