"""Join a slide score with a clinical record by Cox regression, for whole, partial and missing records.

The slide score of a training patient is out of fold: predicted by a model that was not trained on the
patient. A score from the training itself would look better than it is, and take the weight of the record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiacrossfusion.survival.balanced_parts import balanced_parts
from tiacrossfusion.survival.proportional_hazards import breslow_increments
from tiacrossfusion.survival.record import Record, RecordTerms
from tiacrossfusion.survival.ridge_cox import choose_ridge, fit_ridge
from tiacrossfusion.survival.time_bins import TimeBins

#: Penalty of the slide score and of its product with the record.
SLIDE_PENALTY = 1e-3

#: Folds in which the record's score of a training patient is out of fold.
_FOLDS = 5

#: Copies of the training patients with masked records.
_COPIES = 4

#: Weight of the unit matrix that is added to the covariance of what is known.
_NUGGET = 0.02


@dataclass(frozen=True, eq=False)
class FusedHead:
    """`eta = w^T z + alpha r + beta q r + w_s^T s` and a baseline hazard.

    Attributes:
        terms: makes z of the record's codes.
        w: (P,) coefficients of the terms.
        alpha: of the slide score r.
        beta: of the product of the record's score q and r; 0 without it.
        w_q: (P,) `q = (w_q^T z - q_mean) / q_sd`.
        q_mean: of the training patients.
        q_sd: of the training patients' out-of-fold scores.
        w_s: (2,) coefficients of the shared summaries s of slide and record (`cross_modality`), or zeros.
        increments: (K,) baseline hazard in each bin.
    """

    terms: RecordTerms
    w: np.ndarray
    alpha: float
    beta: float
    w_q: np.ndarray
    q_mean: float
    q_sd: float
    w_s: np.ndarray
    increments: np.ndarray

    def log_hazard(
        self, z: np.ndarray, score: np.ndarray, shared: np.ndarray | None = None
    ) -> np.ndarray:
        """Return eta (N,) of terms (N, P), slide scores (N,) and shared summaries (N, 2)."""
        q = (z @ self.w_q - self.q_mean) / self.q_sd
        eta = z @ self.w + self.alpha * score + self.beta * q * score
        return eta if shared is None else eta + shared @ self.w_s


def fit_head(
    record: Record,
    codes: np.ndarray,
    score: np.ndarray,
    times: np.ndarray,
    events: np.ndarray,
    bins: TimeBins,
    *,
    product: bool,
    seed: int,
    shared: np.ndarray | None = None,
) -> FusedHead:
    """Fit a head to training patients.

    The penalty of w is chosen by cross-validated partial likelihood (`choose_ridge`).

    Args:
        record: the variables.
        codes: (N, V), see `Record.codes`.
        score: (N,) slide scores, out of fold, of mean 0 and SD 1.
        times: (N,) follow-up times.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        bins: of the baseline.
        product: let the product of both scores in, if it raises the cross-validated partial likelihood.
        seed: of the folds.
        shared: (N, 2) summaries of slide and record, of SD 1, which are penalised like the terms; or None.

    Raises:
        TiacfError: there is no event.
    """
    terms = RecordTerms.fit(record, codes)
    z = terms.encode(codes)
    terms_count, summaries = z.shape[1], np.empty((len(z), 0)) if shared is None else shared
    count = terms_count + summaries.shape[1]
    x = np.column_stack([z, summaries, score])
    fixed = np.array([np.nan] * count + [SLIDE_PENALTY])
    penalties, worth = choose_ridge(x, times, events, fixed, seed=seed)
    w_q, q_mean, q_sd = np.zeros(terms_count), 0.0, 1.0
    with_product = False
    if product and z.any():
        w_q, held = _record_score(z, times, events, seed)
        q_mean, q_sd = float((z @ w_q).mean()), float(held.std()) or 1.0
        q = (held - held.mean()) / q_sd
        more = np.column_stack([x, q * score])
        found = choose_ridge(more, times, events, np.append(fixed, SLIDE_PENALTY), seed=seed)
        with_product = found[1] > worth
        if with_product:
            x, penalties = more, found[0]
    b = fit_ridge(x, times, events, penalties)
    increments = breslow_increments(x @ b, times, events, bins)
    beta = float(b[count + 1]) if with_product else 0.0
    w_s = np.zeros(2) if shared is None else b[terms_count:count]
    return FusedHead(
        terms, b[:terms_count], float(b[count]), beta, w_q, q_mean, q_sd, w_s, increments
    )


def _record_score(
    z: np.ndarray, times: np.ndarray, events: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (P,) of the record alone, and its scores (N,) out of fold."""
    penalties, _ = choose_ridge(z, times, events, np.full(z.shape[1], np.nan), seed=seed)
    part = balanced_parts(events, _FOLDS, np.random.default_rng([seed, 1]))
    held = np.empty(len(z))
    for number in range(_FOLDS):
        test = part == number
        held[test] = z[test] @ fit_ridge(z[~test], times[~test], events[~test], penalties)
    return fit_ridge(z, times, events, penalties), held


def masked_copies(codes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return four copies of each record with values masked at random, and the patient of each copy.

    Each copy has a rate of its own, even between 0 and 1, at which a value is masked; copies without any
    value are left out.

    Args:
        codes: (N, V), NaN where missing.
        seed: of the masks.
    """
    random = np.random.default_rng(seed)
    patients = np.tile(np.arange(len(codes)), _COPIES)
    copies = codes[patients].copy()
    rates = random.uniform(size=len(copies))
    copies[random.uniform(size=copies.shape) < rates[:, None]] = np.nan
    kept = np.isfinite(copies).any(axis=1)
    return copies[kept], patients[kept]


@dataclass(frozen=True, eq=False)
class Completion:
    """Completes partial records by conditional means, given what is known of the record and the slide score.

    With a linear head this is the best prediction from what is known, for any pattern of gaps, as long as
    variables depend on each other linearly. What is not given is no sign of anything: indicators of missing
    values are set to their mean.

    Attributes:
        mean: (P + 1,) of the terms and the slide score, over the training patients who have them.
        covariance: (P + 1, P + 1) of the same, from pairs of values, brought to no negative eigenvalue.
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(
        cls, z: np.ndarray, missing: np.ndarray, kind: np.ndarray, score: np.ndarray
    ) -> Completion:
        """Learn from terms (N, P), which of them are missing, their kinds (P,) and slide scores (N,)."""
        x = np.column_stack([np.where(kind == 3, 0.0, z), score])
        there = np.column_stack([~missing | (kind == 3), np.ones(len(score), bool)]).astype(float)
        mean = (x * there).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
        apart = (x - mean) * there
        covariance = apart.T @ apart / np.maximum(there.T @ there, 1)
        values, vectors = np.linalg.eigh(covariance)
        return cls(mean, (vectors * np.maximum(values, 0)) @ vectors.T)

    def complete(
        self, z: np.ndarray, missing: np.ndarray, kind: np.ndarray, score: np.ndarray
    ) -> np.ndarray:
        """Return terms (N, P) with the missing ones completed; arguments as of `fit`."""
        x = np.column_stack([np.where(kind == 3, 0.0, z), score])
        gone = np.column_stack([missing & (kind != 3), np.zeros(len(score), bool)])
        patterns, which = np.unique(gone, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            if not pattern.any():
                continue
            rows, known = np.flatnonzero(which.ravel() == number), ~pattern
            inner = self.covariance[np.ix_(known, known)] + _NUGGET * np.eye(known.sum())
            weights = np.linalg.solve(inner, self.covariance[np.ix_(known, pattern)])
            x[np.ix_(rows, pattern)] = (
                self.mean[pattern] + (x[np.ix_(rows, known)] - self.mean[known]) @ weights
            )
        return x[:, :-1]


def usual_gaps(codes: np.ndarray) -> int:
    """Return the number of missing values that 95 % of the training patients do not exceed."""
    return int(np.quantile(np.isnan(codes).sum(axis=1), 0.95))
