"""Sites: how well they are told from the features, and how far they move the risk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tiacrossfusion.audit.effects import Figure
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.markers.folds import HazardRatio, hazard_ratio
from tiacrossfusion.markers.testing import Outcome

#: Components of the mean features that classifiers see, neighbours, folds, and patients of a site at least.
_COMPONENTS, _NEIGHBOURS, _FOLDS, FEWEST = 32, 5, 5, 5

#: Bootstrap draws, and times that sites are dealt anew.
_DRAWS, _DEALT = 1000, 100

#: Bootstrap draws of C, each of which looks at all pairs of patients.
_RESAMPLED = 200


@dataclass(frozen=True)
class Told:
    """How well the site is told from mean features.

    Attributes:
        classifier: "linear" (ridge) or "neighbours".
        accuracy: balanced accuracy of patients whose classifier has not seen them.
        low: lower end of its 95 % interval, by bootstrap over patients.
        high: upper end.
        chance: mean of 100 times in which the sites were dealt to the patients anew.
        p: share of these times in which it was as high or higher.
    """

    classifier: str
    accuracy: float
    low: float
    high: float
    chance: float
    p: float


def told_sites(features: np.ndarray, sites: np.ndarray, seed: int = 0) -> list[Told]:
    """Tell the site of patients from their features, patients apart.

    Args:
        features: (N, F), one row a patient.
        sites: (N,) names; those with fewer than 5 patients are left out.
        seed: of folds and bootstrap.

    Raises:
        TiacfError: fewer than two sites have 5 patients.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, counts = np.unique(sites, return_counts=True)
    kept = np.isin(sites, names[counts >= FEWEST])
    number = len(np.unique(sites[kept]))
    if number < 2:
        raise TiacfError(
            f"{number} site with {FEWEST} patients or more among {len(names)}: sites can only be compared "
            "where there are two"
        )
    y = sites[kept]
    components = min(_COMPONENTS, features.shape[1], int(kept.sum()) // 2)
    # Components know no sites, so that they may be those of all patients.
    reduced = make_pipeline(StandardScaler(), PCA(components, random_state=seed))
    x = reduced.fit_transform(features[kept])
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    rng = np.random.default_rng(seed)
    found = []
    for name, classifier in (
        ("linear", RidgeClassifierCV(np.logspace(-1, 4, 6), class_weight="balanced")),
        ("neighbours", KNeighborsClassifier(_NEIGHBOURS)),
    ):
        guessed = cross_val_predict(classifier, x, y, cv=folds)
        right = guessed == y
        drawn = []
        for _ in range(_DRAWS):
            rows = rng.integers(len(y), size=len(y))
            drawn.append(_balanced(right[rows], y[rows]))
        low, high = np.quantile(drawn, [0.025, 0.975])
        accuracy = _balanced(right, y)
        dealt = []
        for _ in range(_DEALT):
            other = rng.permutation(y)
            dealt.append(
                _balanced(cross_val_predict(classifier, x, other, cv=folds) == other, other)
            )
        p = (1 + sum(each >= accuracy for each in dealt)) / (1 + _DEALT)
        found.append(Told(name, accuracy, float(low), float(high), float(np.mean(dealt)), p))
    return found


def _balanced(right: np.ndarray, sites: np.ndarray) -> float:
    """Return the balanced accuracy: the mean over sites of the share that was told rightly."""
    return float(pd.Series(right.astype(float)).groupby(sites).mean().mean())


@dataclass(frozen=True, eq=False)
class SiteShift:
    """What sites do to the risks of patients.

    Attributes:
        shifts: mean risk of each site at equal follow-up, in SDs of the risk from the mean of all, by name.
        p: of no difference between sites at equal follow-up.
        ratio: hazard ratio of one SD of the risk.
        within: the same with a baseline hazard for each site.
        c_across: C of pairs of patients of two sites, with a bootstrap interval over patients.
        c_within: C of pairs of patients of one site.
    """

    shifts: dict[str, float]
    p: float
    ratio: HazardRatio
    within: HazardRatio
    c_across: Figure
    c_within: Figure


def site_shift(risks: np.ndarray, outcome: Outcome, sites: np.ndarray) -> SiteShift:
    """Compare the risks of sites.

    Follow-up enters as the martingale residual of a model without covariates, so that sites whose patients
    die earlier may have higher risks; the test is the F test of sites beside it.

    Args:
        risks: (N,) of patients.
        outcome: their follow-up.
        sites: (N,) names.
    """
    from scipy.stats import f as fisher

    z = (risks - risks.mean()) / (risks.std() or 1.0)
    residual = _martingale(outcome)
    names = np.unique(sites)
    of_sites = (sites[:, None] == names).astype(float)
    small = np.column_stack([np.ones(len(z)), residual])
    with_sites = np.column_stack([of_sites, residual])
    left = [
        float(((z - x @ np.linalg.lstsq(x, z, rcond=None)[0]) ** 2).sum())
        for x in (small, with_sites)
    ]
    freedom = len(z) - len(names) - 1
    p = float("nan")
    if len(names) > 1 and freedom > 0 and left[1] > 0:
        f = (left[0] - left[1]) / (len(names) - 1) / (left[1] / freedom)
        p = float(fisher.sf(f, len(names) - 1, freedom))
    means = np.linalg.lstsq(with_sites, z, rcond=None)[0][: len(names)]
    weights = of_sites.mean(axis=0)
    nothing = np.zeros((len(z), 0))
    numbers = np.searchsorted(names, sites)
    whole = _concordance(risks, outcome, numbers)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLED):
        rows = rng.integers(len(z), size=len(z))
        drawn.append(_concordance(risks[rows], outcome.of(rows), numbers[rows]))
    low, high = np.nanquantile(np.array(drawn), [0.025, 0.975], axis=0)
    across, within = (Figure(*map(float, triple)) for triple in zip(whole, low, high, strict=True))
    return SiteShift(
        dict(zip(names.tolist(), (means - weights @ means).tolist(), strict=True)),
        p,
        hazard_ratio(z, nothing, outcome),
        hazard_ratio(z, nothing, outcome, strata=numbers),
        across,
        within,
    )


def _martingale(outcome: Outcome) -> np.ndarray:
    """Return events less the Nelson-Aalen cumulative hazard (N,)."""
    from lifelines import NelsonAalenFitter

    fitter = NelsonAalenFitter(nelson_aalen_smoothing=False)
    fitter.fit(outcome.times, outcome.events, entry=outcome.entries)
    hazard = fitter.cumulative_hazard_.iloc[:, 0]
    place = np.searchsorted(hazard.index.to_numpy(), outcome.times, side="right") - 1
    return outcome.events - hazard.to_numpy()[place]


def _concordance(risks: np.ndarray, outcome: Outcome, sites: np.ndarray) -> tuple[float, float]:
    """Return Harrell's C of pairs of two sites, and of pairs of one site; NaN without any pair."""
    earlier = (outcome.times[:, None] < outcome.times) & (outcome.events[:, None] == 1)
    if outcome.entries is not None:
        earlier &= outcome.entries[None, :] < outcome.times[:, None]
    worth = np.where(risks[:, None] > risks, 1.0, np.where(risks[:, None] == risks, 0.5, 0.0))
    same = sites[:, None] == sites
    across, within = (
        float(worth[pairs].mean()) if pairs.any() else float("nan")
        for pairs in (earlier & ~same, earlier & same)
    )
    return across, within
