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
    """How well a variable is rebuilt, as shares of its variance, out of fold.

    Attributes:
        variable: name.
        patients: who have the variable.
        by_slide: share that the slide explains.
        by_slide_low: 2.5 % quantile of it over bootstrap draws of the patients.
        by_slide_high: 97.5 % quantile.
        by_others: share that the other variables explain.
        gain: further share that the slide explains besides the others.
        gain_low: 2.5 % quantile.
        gain_high: 97.5 % quantile.
    """

    variable: str
    patients: int
    by_slide: float
    by_slide_low: float
    by_slide_high: float
    by_others: float
    gain: float
    gain_low: float
    gain_high: float

    @property
    def helps(self) -> bool:
        """Return whether the slide helps to rebuild it: the interval of `by_slide` lies above 0."""
        return self.by_slide_low > 0


def rebuild(
    name: str, target: np.ndarray, others: np.ndarray, slides: np.ndarray, seed: int
) -> Rebuilt:
    """Rebuild a variable from the slide, from the other variables, and from the slide besides those.

    By ridge regression whose penalty is chosen by leave-one-out errors (scikit-learn's RidgeCV), in five
    folds; besides the others, the slide explains what they leave. Penalties reach far enough for features
    that tell nothing: with too small ones, chance would hide what there is.

    Args:
        name: of the variable.
        target: (N, T) its terms, of the patients who have it.
        others: (N, Q) terms of the others.
        slides: (N, D) features of the slides, standardised.
        seed: of folds and draws.
    """
    random = np.random.default_rng(seed)
    part = random.permutation(len(target)) % _FOLDS
    whole, by_slide, by_others, by_both = (np.empty_like(target) for _ in range(4))
    for number in range(_FOLDS):
        test = part == number
        mean = target[~test].mean(axis=0)
        fit_on = target[~test] - mean
        whole[test] = target[test] - mean
        by_slide[test] = whole[test] - _ridge(slides[~test], fit_on, slides[test])
        by_others[test], rest = whole[test], fit_on
        if others.shape[1]:
            by_others[test] = whole[test] - _ridge(others[~test], fit_on, others[test])
            rest = fit_on - _ridge(others[~test], fit_on, others[~test])
        by_both[test] = by_others[test] - _ridge(slides[~test], rest, slides[test])
    total, alone, without, both = (
        (errors**2).sum(axis=1) for errors in (whole, by_slide, by_others, by_both)
    )
    draws = random.multinomial(len(target), np.full(len(target), 1 / len(target)), size=_DRAWS)

    def share(saved: np.ndarray) -> tuple[float, float, float]:
        """Share of the variance with its interval."""
        drawn = (draws @ saved) / np.maximum(draws @ total, 1e-12)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(saved.sum() / max(total.sum(), 1e-12)), float(low), float(high)

    explained = share(total - without)[0]
    return Rebuilt(name, len(target), *share(total - alone), explained, *share(without - both))


def _ridge(x: np.ndarray, target: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predict targets (M, T) for new rows (M, D), from rows (N, D) with targets (N, T)."""
    from sklearn.linear_model import RidgeCV

    fitted = RidgeCV(_ALPHAS).fit(x, target)
    return np.asarray(fitted.predict(new)).reshape(len(new), target.shape[1])
