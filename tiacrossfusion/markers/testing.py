"""Which markers go with survival: shares one after the other, then how they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, norm

from tiacrossfusion.markers.layout import Layout
from tiacrossfusion.survival.score_test import added_scores

#: Patients who must have a marker for it to be tested.
FEWEST = 10


@dataclass(frozen=True, eq=False)
class Outcome:
    """Follow-up of the patients, and what markers are adjusted for.

    Attributes:
        times: (N,) follow-up times.
        events: (N,) 1 observed, 0 censored.
        entries: (N,) times at which follow-up begins; None is 0.
        beside: (N, P) terms of the covariates.
    """

    times: np.ndarray
    events: np.ndarray
    entries: np.ndarray | None
    beside: np.ndarray

    @classmethod
    def of_patients(cls, patients: pd.DataFrame, beside: pd.DataFrame | None = None) -> Outcome:
        """Return the follow-up of a `CohortTable.patients`, adjusted for terms with the same rows."""
        return cls(
            patients["time"].to_numpy(float),
            patients["event"].to_numpy(int),
            patients["entry"].to_numpy(float) if "entry" in patients else None,
            np.zeros((len(patients), 0)) if beside is None else beside.to_numpy(float),
        )

    def of(self, rows: np.ndarray) -> Outcome:
        """Return some of the patients."""
        entries = None if self.entries is None else self.entries[rows]
        return Outcome(self.times[rows], self.events[rows], entries, self.beside[rows])

    def scores(self, candidates: np.ndarray, terms: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Score tests (M,) of candidates (N, M), adjusted for the covariates and for further terms (N,)."""
        beside = np.column_stack([self.beside, *terms])
        return added_scores(candidates, beside, self.times, self.events, self.entries)


@dataclass(frozen=True, eq=False)
class ShareTests:
    """Tests of the shares of markers.

    Attributes:
        found: markers that passed, in the order in which they were found.
        terms: (N, K) standardised share of each marker, as it was tested last.
        scores: (K,) score test of each, at the step at which it was found, or at the last step.
        p: (K,) of the test.
        q: (K,) smallest false-discovery rate at which it passes at that step.
        alone: (K,) p of its share of all patches, adjusted for the covariates only.
    """

    found: list[int]
    terms: np.ndarray
    scores: np.ndarray
    p: np.ndarray
    q: np.ndarray
    alone: np.ndarray


def share_terms(counts: np.ndarray, found: Sequence[int] = ()) -> np.ndarray:
    """Return the standardised square roots of shares (N, K), of the patches outside the markers found.

    Shares sum to 1, so one marker that grows makes all others shrink. Shares among the other patches are
    free of those found (the subcompositions of Aitchison, J R Stat Soc B 44, 1982). The square root is
    defined at 0 and keeps rare markers from being a few patients.
    """
    rest = np.delete(counts, list(found), axis=1).sum(axis=1)
    return standardised(np.sqrt(counts / np.maximum(rest, 1)[:, None]))


def standardised(values: np.ndarray) -> np.ndarray:
    """Return values less their mean over their SD, by column; 0 where unknown or constant."""
    known = np.isfinite(values)
    number = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / number
    centred = np.where(known, values - mean, 0)
    sd = np.sqrt((centred**2).sum(axis=0) / number)
    return np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 1e-9)


def share_tests(counts: np.ndarray, outcome: Outcome, level: float) -> ShareTests:
    """Test the shares of markers, the strongest first, each among the patches outside those found before.

    At each step the share of every marker that is left is tested, adjusted for the covariates and for the
    markers found; if the strongest passes the false-discovery rate among those tested (Benjamini and
    Hochberg, J R Stat Soc B 57, 1995), it is found, and the next step begins.

    Args:
        counts: (N, K) patches of each marker of each patient.
        outcome: of the patients.
        level: the false-discovery rate.
    """
    number = counts.shape[1]
    present = (counts > 0).sum(axis=0) >= FEWEST
    found: list[int] = []
    terms = share_terms(counts)
    scores, p, q = (np.full(number, np.nan) for _ in range(3))
    alone = np.full(number, np.nan)
    while True:
        left = np.array([k for k in range(number) if k not in found and present[k]], int)
        if not len(left):
            break
        now = share_terms(counts, found)
        tested = outcome.scores(now[:, left], [terms[:, k] for k in found])
        terms[:, left], scores[left] = now[:, left], tested
        p[left] = 2 * norm.sf(np.abs(tested))
        q[left] = passing(p[left])
        if not found:
            alone[left] = p[left]
        if not (q[left] <= level).any():
            break
        found.append(int(left[np.nanargmax(np.abs(tested))]))
    return ShareTests(found, terms, scores, p, q, alone)


def passing(p: np.ndarray) -> np.ndarray:
    """Return the smallest false-discovery rate at which each of some tests passes; NaN is not tested."""
    q, known = np.full(len(p), np.nan), np.isfinite(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q


@dataclass(frozen=True, eq=False)
class Arrangement:
    """How a marker lies, and whether it goes with survival.

    Attributes:
        kind: "spread" (Moran's I), "neighbours" (of the same marker) or "closeness".
        marker: number of the marker.
        other: the one whose closeness it is; None for the other kinds.
        term: (N,) standardised value of each patient, 0 where unknown.
        adjusted: shares of the markers that are involved, and markers found.
        patients: with a value.
        score: score test, adjusted for the shares of the two and of the markers found.
        p: of the test.
        q: smallest false-discovery rate at which it passes, among all of these tests.
    """

    kind: Literal["spread", "neighbours", "closeness"]
    marker: int
    other: int | None
    term: np.ndarray = field(repr=False)
    adjusted: list[int]
    patients: int
    score: float
    p: float
    q: float = float("nan")


def arrangement_tests(
    patients: Sequence[Layout], outcome: Outcome, shares: ShareTests
) -> list[Arrangement]:
    """Test how markers lie, beyond how much of them there is.

    Values that are unknown, since a patient lacks a marker, count as the average of the others.
    """
    number = len(shares.p)
    values = {
        "spread": np.stack([one.moran for one in patients]),
        "neighbours": np.stack([one.neighbours for one in patients]),
        "closeness": np.stack([one.closeness for one in patients]),
    }
    all_shares = share_terms(np.stack([one.counts for one in patients]))
    tests = []
    for marker in range(number):
        for kind in ("spread", "neighbours", "closeness"):
            here = values[kind][:, marker].reshape(len(patients), -1)
            others = [k for k in range(number) if k != marker] if kind == "closeness" else [None]
            for other in others:
                value = here[:, other or 0]
                known = int(np.isfinite(value).sum())
                if known < max(FEWEST, len(patients) // 5):
                    continue
                involved = [marker, *([] if other is None else [other])]
                beside = [all_shares[:, k] for k in involved]
                extra = [k for k in shares.found if k not in involved]
                beside += [shares.terms[:, k] for k in extra]
                term = standardised(value[:, None])
                score = float(outcome.scores(term, beside)[0])
                tests.append(
                    Arrangement(
                        kind,
                        marker,
                        other,
                        term[:, 0],
                        [*involved, *extra],
                        known,
                        score,
                        float(2 * norm.sf(abs(score))),
                    )
                )
    rates = passing(np.array([test.p for test in tests]))
    return [replace(test, q=float(q)) for test, q in zip(tests, rates, strict=True)]
