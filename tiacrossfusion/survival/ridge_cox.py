"""Cox regression with a ridge penalty of each coefficient, by Newton's method.

lifelines chooses no penalty, and takes tens of milliseconds a fit; the choice of one, the inner folds and the
records that are masked at random make hundreds of fits for a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.survival.balanced_parts import balanced_parts

#: Penalties that are tried.
GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

_FOLDS = 4
_MOST_STEPS, _MOST_HALVINGS, _TOLERANCE = 50, 30, 1e-9


@dataclass(frozen=True, eq=False)
class CoxData:
    """Patients of a Cox regression, with the patients at risk at each of T times of events.

    Attributes:
        x: (N, P) terms.
        events: (N,) 0 or 1.
        at_risk: (T, N) 0 or 1.
        count: (T,) events at each time.
    """

    x: np.ndarray
    events: np.ndarray
    at_risk: np.ndarray
    count: np.ndarray

    @classmethod
    def of(
        cls, x: np.ndarray, times: np.ndarray, events: np.ndarray, entries: np.ndarray | None
    ) -> CoxData:
        """Find the patients at risk; `entries` (N,) are times at which follow-up begins, None is 0."""
        observed = np.asarray(events, bool)
        at, count = np.unique(np.asarray(times)[observed], return_counts=True)
        at_risk = np.asarray(times)[None, :] >= at[:, None]
        if entries is not None:
            at_risk &= np.asarray(entries)[None, :] < at[:, None]
        return cls(np.asarray(x, float), observed.astype(float), at_risk.astype(float), count)

    def value(self, b: np.ndarray) -> float:
        """Breslow's partial log-likelihood."""
        eta = self.x @ b
        top = eta.max()
        sums = self.at_risk @ np.exp(eta - top)
        return float(self.events @ eta - self.count @ (np.log(sums) + top))

    def moments(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient (P,) of the log-likelihood, expected events (N,), and means (T, P) of those at risk."""
        eta = self.x @ b
        hazard = np.exp(eta - eta.max())
        sums = self.at_risk @ hazard
        expected = hazard * (self.at_risk.T @ (self.count / sums))
        means = (self.at_risk * hazard) @ self.x / sums[:, None]
        return (self.events - expected) @ self.x, expected, means

    def derivatives(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (P,) and information (P, P) of the partial log-likelihood."""
        gradient, expected, means = self.moments(b)
        return gradient, (self.x.T * expected) @ self.x - (means.T * self.count) @ means


def fit_ridge(
    x: np.ndarray,
    times: np.ndarray,
    events: np.ndarray,
    penalties: np.ndarray,
    entries: np.ndarray | None = None,
) -> np.ndarray:
    """Return the coefficients (P,) that maximise `l(b) - N / 2 sum_j penalties_j b_j^2`.

    l is Breslow's partial log-likelihood (Cox, J R Stat Soc B 34, 1972, 187-220; ridge: Verweij and van
    Houwelingen, Statistics in Medicine 13, 1994, 2427-2436).

    Args:
        x: (N, P) terms.
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        penalties: (P,) above 0, so that there is a solution, also with terms that follow from others.
        entries: (N,) times at which follow-up begins; None is 0.

    Raises:
        TiacfError: there is no event, or the terms are too large for any sum.
    """
    return _fit(CoxData.of(x, times, events, entries), penalties)


def log_likelihood(
    x: np.ndarray, times: np.ndarray, events: np.ndarray, coefficients: np.ndarray
) -> float:
    """Return Breslow's partial log-likelihood of coefficients (P,), without a penalty."""
    return CoxData.of(x, times, events, None).value(coefficients)


def _fit(data: CoxData, penalties: np.ndarray) -> np.ndarray:
    if not len(data.count):
        raise TiacfError("no event among the training patients; nothing can be learnt")
    weights = len(data.x) * np.asarray(penalties, float)
    b = np.zeros(data.x.shape[1])

    def worth(b: np.ndarray) -> float:
        return data.value(b) - float(weights @ b**2) / 2

    best = worth(b)
    for _ in range(_MOST_STEPS):
        gradient, information = data.derivatives(b)
        step = np.linalg.solve(information + np.diag(weights), gradient - weights * b)
        for _ in range(_MOST_HALVINGS):  # far from the solution a whole step may go too far
            new = worth(b + step)
            if new >= best:
                break
            step = step / 2
        else:
            break
        b, gained, best = b + step, new - best, new
        if gained <= _TOLERANCE * (abs(best) + 1):
            break
    if not np.isfinite(b).all() or not np.isfinite(best):
        raise TiacfError(
            "the terms are too large to be added up; check the units of the covariates"
        )
    return b


def choose_ridge(
    x: np.ndarray,
    times: np.ndarray,
    events: np.ndarray,
    fixed: np.ndarray,
    *,
    seed: int,
    entries: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Choose the penalty of `GRID` with the largest cross-validated partial likelihood, in four folds.

    Of a fold it is that of all patients less that of the others (Verweij and van Houwelingen, Statistics in
    Medicine 12, 1993, 2305-2314).

    Args:
        x: (N, P) terms.
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        fixed: (P,) penalties of terms whose penalty is not chosen; NaN where it is.
        seed: of the folds.
        entries: (N,) times at which follow-up begins; None is 0.

    Returns:
        Penalties (P,), and the cross-validated partial likelihood.

    Raises:
        TiacfError: there is no event.
    """
    part = balanced_parts(events, _FOLDS, np.random.default_rng(seed))
    whole = CoxData.of(x, times, events, entries)
    rest = [
        CoxData.of(x[kept], times[kept], events[kept], None if entries is None else entries[kept])
        for kept in (part != number for number in range(_FOLDS))
    ]
    found = []
    for penalty in GRID if np.isnan(fixed).any() else GRID[:1]:
        penalties = np.where(np.isnan(fixed), penalty, fixed)
        total = 0.0
        for data in rest:
            b = _fit(data, penalties)
            total += whole.value(b) - data.value(b)
        found.append((total, penalties))
    total, penalties = max(found, key=lambda pair: pair[0])
    return penalties, total
