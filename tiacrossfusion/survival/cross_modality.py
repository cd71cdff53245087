"""What a slide tells of the clinical record, learnt from patients without follow-up.

The closed form of masked cross-modality learning: the record is rebuilt from the slide by ridge regression.
The direction of the slide's features that rebuilds most of the record is a summary of the slide; the first
component of the record is one of the record. Both are learnt from all patients, so that few with follow-up
suffice to weigh them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Penalty of the regression of the record on the slide, for each patient.
_PENALTY = 0.1

#: Folds in which variables are rebuilt, penalties that are tried, and bootstrap draws.
_FOLDS, _ALPHAS, _DRAWS = 5, tuple(10.0 ** np.arange(-1, 7)), 1000


@dataclass(frozen=True, eq=False)
class SharedDirections:
    """Summaries of slide and record.

    Attributes:
        slide: (D,) direction of the standardised slide features.
        record: (P,) direction of the record's terms.
        slide_sd: of the summary of the slide, over the patients it was learnt from.
        record_sd: the same of the record.
    """

    slide: np.ndarray
    record: np.ndarray
    slide_sd: float
    record_sd: float


def shared_directions(slides: np.ndarray, terms: np.ndarray) -> SharedDirections:
    """Return the direction of slides that rebuilds most of the record, and the record's first component.

    With `B = (S'S + 0.1 N I)^-1 S'C`, the slide's summary is `S B v`, v the first right singular vector of
    S B (reduced-rank regression; Izenman, Journal of Multivariate Analysis 5, 1975, 248-264).

    Args:
        slides: (N, D) features S of the slides, standardised.
        terms: (N, P) terms C of the records, 0 where missing (`RecordTerms.encode`).
    """
    count, width = slides.shape
    if width <= count:
        inner = slides.T @ slides + _PENALTY * count * np.eye(width)
        b = np.linalg.solve(inner, slides.T @ terms)
    else:  # the same by the N x N matrix
        inner = slides @ slides.T + _PENALTY * count * np.eye(count)
        b = slides.T @ np.linalg.solve(inner, terms)
    made = slides @ b
    direction = b @ np.linalg.svd(made, full_matrices=False)[2][0]
    component = np.linalg.svd(terms, full_matrices=False)[2][0]
    # Signs are arbitrary: the largest coefficient is above 0.
    component = component * np.sign(component[np.abs(component).argmax()])
    if (slides @ direction) @ (terms @ component) < 0:
        direction = -direction
    return SharedDirections(
        direction,
        component,
        float((slides @ direction).std()) or 1.0,
        float((terms @ component).std()) or 1.0,
    )


@dataclass(frozen=True)
class Rebuilt:
    """How well a variable is rebuilt from the others, and what the slide adds.

    Attributes:
        variable: name.
        patients: who have the variable.
        without: share of its variance that the other variables explain, out of fold.
        gain: further share that the slide explains.
        low: 2.5 % quantile of the gain over bootstrap draws of the patients.
        high: 97.5 % quantile.
    """

    variable: str
    patients: int
    without: float
    gain: float
    low: float
    high: float

    @property
    def helps(self) -> bool:
        """Return whether the slide helps to rebuild it: the interval lies above 0."""
        return self.low > 0


def rebuild(
    name: str, target: np.ndarray, others: np.ndarray, slides: np.ndarray, seed: int
) -> Rebuilt:
    """Rebuild a variable from the other variables, and what is left from the slide.

    Both by ridge regression whose penalty is chosen by leave-one-out errors (scikit-learn's RidgeCV), in five
    folds. Penalties are large enough for features that tell nothing.

    Args:
        name: of the variable.
        target: (N, T) its terms, of the patients who have it.
        others: (N, Q) terms of the others.
        slides: (N, D) features of the slides, standardised.
        seed: of folds and draws.
    """
    from sklearn.linear_model import RidgeCV

    random = np.random.default_rng(seed)
    part = random.permutation(len(target)) % _FOLDS
    left, rest = np.empty_like(target), np.empty_like(target)
    centred = target - target.mean(axis=0)
    for number in range(_FOLDS):
        test = part == number
        mean = target[~test].mean(axis=0)
        guess = np.broadcast_to(mean, target[test].shape)
        fit_on = target[~test] - mean
        if others.shape[1]:
            first = RidgeCV(_ALPHAS).fit(others[~test], fit_on)
            guess = mean + first.predict(others[test]).reshape(guess.shape)
            fit_on = fit_on - first.predict(others[~test]).reshape(fit_on.shape)
        left[test] = target[test] - guess
        second = RidgeCV(_ALPHAS).fit(slides[~test], fit_on)
        rest[test] = left[test] - second.predict(slides[test]).reshape(guess.shape)
    whole = (centred**2).sum(axis=1)
    errors, smaller = (left**2).sum(axis=1), (rest**2).sum(axis=1)
    draws = random.multinomial(len(target), np.full(len(target), 1 / len(target)), size=_DRAWS)
    gains = (draws @ (errors - smaller)) / np.maximum(draws @ whole, 1e-12)
    low, high = np.quantile(gains, [0.025, 0.975])
    total = max(float(whole.sum()), 1e-12)
    return Rebuilt(
        name,
        len(target),
        1 - float(errors.sum()) / total,
        float((errors - smaller).sum()) / total,
        float(low),
        float(high),
    )
