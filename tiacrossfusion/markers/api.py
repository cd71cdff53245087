"""Find markers: from bags and a follow-up table to a page, tables, and maps for QuPath."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.folds import nested_folds
from tiacrossfusion.cohorts.matching import match_bags
from tiacrossfusion.cohorts.records import record_of, refuse_outcome
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.markers.folds import (
    HazardRatio,
    Held,
    fold_centres,
    hazard_ratio,
    over_folds,
)
from tiacrossfusion.markers.reading import Cohort, Described
from tiacrossfusion.markers.testing import (
    Arrangement,
    Outcome,
    ShareTests,
    arrangement_tests,
    share_tests,
)
from tiacrossfusion.markers.vocabulary import (
    NUMBERS,
    Projection,
    Stability,
    choose_number,
    distances,
    fit_centres,
)
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.survival.clinical import ClinicalCox

#: Fewest patients, and fewest events among them.
_PATIENTS, _EVENTS = 30, 10

#: Patches near each centre that are shown.
TYPICAL = 8

#: Clusters of two halves of the patients that agree less than this are no kinds of tissue of their own.
UNSTABLE = 0.5


@dataclass(frozen=True, eq=False)
class Markers:
    """Markers of a cohort.

    Attributes:
        title: name of the cohort's table.
        scale: of the patches.
        table: the patients.
        encoder: of the features.
        sampling: of the patches.
        projection: of features to principal components.
        centres: (K, D) of the markers, the most frequent first.
        stability: of the numbers of markers that were tried; empty where the number was given.
        outcome: follow-up and terms of the covariates of the patients, in the order of the table.
        covariates: names of those terms.
        described: shares and places of the markers.
        shares: tests of the shares.
        ratios: hazard ratio of each marker's share, adjusted as it was tested.
        held: how each does over the folds.
        arrangement: tests of how they lie, the strongest first.
        level: the false-discovery rate.
        seed: of clusters, samples and folds.
        notes: what a reader should know, a line each.
    """

    title: str
    scale: str
    table: CohortTable
    encoder: EncoderSpec
    sampling: SamplingSpec
    projection: Projection
    centres: np.ndarray
    stability: list[Stability]
    outcome: Outcome
    covariates: list[str]
    described: Described
    shares: ShareTests
    ratios: list[HazardRatio]
    held: list[Held]
    arrangement: list[Arrangement]
    level: float
    seed: int
    notes: list[str]

    @property
    def counts(self) -> np.ndarray:
        """Return the patches (N, K) of each marker of each patient."""
        return np.stack([one.counts for one in self.described.layouts])

    def assign(self, bag: FeatureBag) -> np.ndarray:
        """Return the marker (N,) of each patch of a bag, from 0."""
        points = self.projection(bag.scales[self.scale].features)
        return distances(points, self.centres).argmin(axis=1)

    @property
    def passing(self) -> list[Arrangement]:
        """Return the tests of how markers lie that pass the false-discovery rate."""
        return [test for test in self.arrangement if test.q <= self.level]


def find_markers(
    table: str | Path,
    bags: str | Path,
    *,
    columns: Columns | None = None,
    time_unit: str = "months",
    drop_unusable: bool = False,
    scale: str = "20x",
    number: int | None = None,
    folds: int = 5,
    level: float = 0.05,
    seed: int = 0,
    write: Callable[[FeatureBag, np.ndarray], None] = lambda *_: None,
    say: Callable[[str], None] | None = None,
) -> Markers:
    """Find kinds of tissue by clustering, and test how their shares and places go with survival.

    After the prototypes of Luo et al., "Self-calibration Enhanced Whole Slide Pathology Image Analysis",
    IJCAI 2025. Features are clustered without regard to survival; `docs/markers.md` says how they are tested.

    Args:
        table: follow-up, CSV or Parquet, a row a slide or a patient.
        bags: folder of feature bags.
        columns: names of the table's columns, and the covariates to adjust for.
        time_unit: unit of the times.
        drop_unusable: leave out rows without follow-up or bag instead of refusing the table.
        scale: of the patches, "5x", "10x" or "20x".
        number: of markers; None chooses the most stable one.
        folds: in which markers are found anew without some of the patients.
        level: the false-discovery rate.
        seed: of clusters, samples and folds; the same seed gives the same markers.
        write: gets each bag and the number (N,) of the marker of each patch of `scale`, from 0.
        say: gets a line for each step; None is silent.

    Raises:
        UsageError: a number is out of range, or a file is not there.
        TiacfError: table and bags do not go together, or there are too few patients or patches.
    """
    check_settings(scale=scale, number=number, folds=folds, level=level, seed=seed)
    columns = columns or Columns()
    tell = say or (lambda _: None)
    cohort_table, outcome, covariates, sources = _cohort(
        Path(table), Path(bags), columns, time_unit, drop_unusable, tell
    )
    patients = list(cohort_table.patients.index)
    slides = {
        patient: list(group) for patient, group in cohort_table.slides.groupby("patient")["slide"]
    }

    def show(names: list[str], what: str) -> Iterator[str]:
        yield from tqdm(names, desc=what, unit="bag", disable=True if say is None else None)

    cohort = Cohort({p: slides[p] for p in patients}, sources, scale, show)
    rng = np.random.default_rng([seed, 18])
    sample = cohort.sample(rng)
    projection = Projection.of(sample.features)
    points = projection(sample.features)
    if len(np.unique(points[:1000], axis=0)) < 2:
        raise TiacfError(
            f"{bags}: the features of all patches are the same; extract the slides again"
        )
    number, stability = _number(points, sample.owners, number, rng)
    notes = _notes(number, stability)
    centres = _by_frequency(points, fit_centres(points, number, seed))
    fold_of = _fold_of(cohort_table, folds, seed)
    of_folds = fold_centres(points, sample.owners, fold_of, centres, seed)
    described = cohort.describe(projection, centres, of_folds, TYPICAL, write)
    if described.unplaced:
        notes.append(
            f"{len(described.unplaced)} slides have no positions: they are not on maps, and nothing is known "
            "of how their markers lie"
        )
    counts = np.stack([one.counts for one in described.layouts])
    shares = share_tests(counts, outcome, level)
    ratios = [
        hazard_ratio(
            shares.terms[:, marker],
            np.column_stack(
                [outcome.beside, *(shares.terms[:, k] for k in shares.found if k != marker)]
            ),
            outcome,
        )
        for marker in range(number)
    ]
    held = over_folds(described.fold_counts, fold_of, outcome, shares, level)
    arrangement = sorted(
        arrangement_tests(described.layouts, outcome, shares), key=lambda test: test.p
    )
    return Markers(
        Path(table).stem,
        scale,
        cohort_table,
        sample.encoder,
        sample.sampling,
        projection,
        centres,
        stability,
        outcome,
        covariates,
        described,
        shares,
        ratios,
        held,
        arrangement,
        level,
        seed,
        notes,
    )


def check_settings(
    *,
    scale: str = "20x",
    number: int | None = None,
    folds: int = 5,
    level: float = 0.05,
    seed: int = 0,
) -> None:
    """Check settings of `find_markers` before anything is read.

    Raises:
        UsageError: one of them is out of range.
    """
    usable_seed("--seed", seed)
    if scale not in SCALES:
        raise UsageError(f"--scale {scale}: must be one of {', '.join(SCALES)}")
    if not 0 < level < 1:
        raise UsageError(f"--level {level}: must lie between 0 and 1")
    at_least("--folds", folds, 2)
    if number is not None:
        at_least("--number", number, 2)


def _cohort(
    table: Path,
    bags: Path,
    columns: Columns,
    time_unit: str,
    drop_unusable: bool,
    say: Callable[[str], None],
) -> tuple[CohortTable, Outcome, list[str], dict[str, Path]]:
    """Return the patients, their follow-up and covariates, and the bag of each slide."""
    read = read_table(
        table, columns, time_unit, drop_unusable=drop_unusable, covariates_may_miss=True
    )
    checked, sources = match_bags(read, find_bags(bags), drop_missing=drop_unusable)
    for line in checked.messages():
        say(f"note: {line}")
    frame = checked.patients
    events = int(frame["event"].sum())
    if len(frame) < _PATIENTS or events < _EVENTS:
        raise TiacfError(
            f"{table}: {len(frame)} patients with {events} events; markers need {_PATIENTS} patients and "
            f"{_EVENTS} events or more"
        )
    refuse_outcome(table, frame, columns.covariates)
    record = record_of(frame, columns)
    terms = pd.DataFrame(index=frame.index)
    if record is not None:
        cox = ClinicalCox(record).fit(frame)
        for line in cox.messages:
            say(f"note: {line}")
        terms = cox.terms(frame)
    outcome = Outcome.of_patients(frame, terms)
    return checked, outcome, list(terms.columns), sources


def _number(
    points: np.ndarray, owners: np.ndarray, number: int | None, rng: np.random.Generator
) -> tuple[int, list[Stability]]:
    """Return the number of markers, and how stable the numbers tried were."""
    if number is not None:
        if len(points) < 10 * number:
            raise TiacfError(
                f"{len(points)} patches are too few for {number} markers; take fewer with --number"
            )
        return number, []
    if len(points) < 10 * NUMBERS[0]:
        raise TiacfError(f"{len(points)} patches are too few to find markers in")
    return choose_number(points, owners, NUMBERS, rng)


def _notes(number: int, stability: Sequence[Stability]) -> list[str]:
    chosen = [one for one in stability if one.number == number]
    if not chosen or chosen[0].agreement >= UNSTABLE:
        return []
    return [
        f"clusters of two halves of the patients agree little ({chosen[0].agreement:.2f} of 1): the features "
        "show no kinds of tissue that are clearly apart, and another number of markers divides them otherwise"
    ]


def _by_frequency(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the centres of the most frequent markers first."""
    counts = np.bincount(distances(points, centres).argmin(axis=1), minlength=len(centres))
    return centres[np.argsort(-counts, kind="stable")]


def _fold_of(table: CohortTable, number: int, seed: int) -> np.ndarray:
    """Return the fold (P,) of each patient, in the order of the table."""
    tested = {
        patient: fold.number
        for fold in nested_folds(table, number, seed=seed)
        for patient in fold.test
    }
    return np.array([tested[patient] for patient in table.patients.index])
