"""Folds: which patients train, which choose the model and which judge it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.arguments import at_least
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.io.csv_table import read_csv
from tiacrossfusion.survival import quantile_bins
from tiacrossfusion.text import examples

PARTS: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class Fold:
    """One division of the patients; folds are numbered from 0.

    Attributes:
        train: patients whose follow-up the model learns from; time bins and cut-off come from them.
        validation: patients that choose when to stop.
        test: patients that the model is judged on. The same as `validation` in the authors' protocol,
            which makes its figures optimistic.
    """

    number: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def outside_test(self) -> tuple[str, ...]:
        """Return the patients whom a model that nothing stops may learn from."""
        return self.train if self.optimistic else (*self.train, *self.validation)

    @property
    def optimistic(self) -> bool:
        """Return whether the patients that choose the model also judge it."""
        return self.validation == self.test


def nested_folds(
    table: CohortTable, n_folds: int = 5, validation_share: float = 0.2, *, seed: int
) -> list[Fold]:
    """Divide the patients into folds so that each is tested once by a model that never saw it.

    Stratified by event and time: within those with an event and within those without, patients are
    ordered by time, and neighbours are dealt to different folds. Sizes and numbers of events of the
    folds differ by at most one. The order of the table's rows does not matter. `validation_share` is of
    a fold's patients outside the test part.

    Raises:
        TiacfError: fewer patients than folds, or a share outside 0 to 1.
    """
    at_least("--folds", n_folds, 2)
    order = strata_order(table, table.patients.index)
    if len(order) < n_folds:
        raise TiacfError(f"{len(order)} patients are too few for {n_folds} folds; take fewer folds")
    rng = np.random.default_rng(seed)
    groups = [order[start : start + n_folds] for start in range(0, len(order), n_folds)]
    fold_of = {
        patient: fold
        for group in groups
        for patient, fold in zip(group, rng.permutation(n_folds), strict=False)
    }
    folds = []
    for number in range(n_folds):
        rest = [patient for patient in order if fold_of[patient] != number]
        validation = draw(rest, validation_share, rng, "validation_share")
        train = set(rest) - validation
        test = [patient for patient in order if fold_of[patient] == number]
        folds.append(make_fold(number, train, validation, test))
    return folds


def holdout_fold(
    table: CohortTable, test_share: float = 0.2, validation_share: float = 0.2, *, seed: int
) -> Fold:
    """Divide the patients once, stratified by event and time.

    `validation_share` is of the patients outside the test part.

    Raises:
        TiacfError: a share outside 0 to 1, or too few patients for it.
    """
    rng = np.random.default_rng(seed)
    order = strata_order(table, table.patients.index)
    test = draw(order, test_share, rng, "test_share")
    rest = [patient for patient in order if patient not in test]
    validation = draw(rest, validation_share, rng, "validation_share")
    return make_fold(0, set(rest) - validation, validation, test)


def check_folds(folds: Sequence[Fold], table: CohortTable, num_bins: int) -> None:
    """Refuse folds that cannot be trained on or judged.

    A training part needs events at enough different times for the bins; a validation and a test part
    need an event and a pair of patients whose order is known, without which there is no C-index. The
    parts of a fold are disjoint, but for the authors' protocol.

    Raises:
        TiacfError: some folds cannot be used; the first three are named with their reasons.
    """
    if not folds:
        raise UsageError("there is no fold; check --folds or --splits")
    problems = [
        f"fold {fold.number}: {problem}"
        for fold in folds
        if (problem := _problem(fold, table, num_bins)) is not None
    ]
    if problems:
        shown = "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")
        raise TiacfError(
            f"{len(problems)} of {len(folds)} folds cannot be used ({shown}); take fewer folds or bins, "
            "other splits, or a larger cohort"
        )


def write_folds(path: Path, folds: Sequence[Fold]) -> None:
    """Write folds as CSV: fold, part ("train", "validation" or "test") and patient, one row each."""
    rows = [
        (fold.number, part, patient)
        for fold in folds
        for part in PARTS
        for patient in getattr(fold, part)
    ]
    table = pd.DataFrame(rows, columns=["fold", "part", "patient"])
    write_text(Path(path), table.to_csv(index=False, lineterminator="\n"))


def read_folds(path: Path) -> list[Fold]:
    """Read folds that `write_folds` wrote.

    Raises:
        TiacfError: the file cannot be read or is not complete.
    """
    frame = read_ids(Path(path), {"fold": "int", "part": "str", "patient": "str"})
    other = frame[~frame["part"].isin(PARTS) | frame["patient"].isna()]
    if len(other):
        raise TiacfError(
            f"{path}: {len(other)} rows have no patient, or a part that is none of {', '.join(PARTS)}; "
            "delete the file to make the folds again"
        )
    folds = []
    for number, rows in frame.groupby("fold"):
        parts = {part: tuple(rows["patient"][rows["part"] == part]) for part in PARTS}
        empty = [part for part, patients in parts.items() if not patients]
        if empty or rows.duplicated().any():
            fault = f"has no {empty[0]} part" if empty else "names a patient twice in a part"
            raise TiacfError(
                f"{path}: fold {number} {fault}; delete the file to make the folds again"
            )
        folds.append(Fold(int(str(number)), **parts))
    return folds


def strata_order(table: CohortTable, patients: Iterable[str]) -> list[str]:
    """Patients ordered by event, time and name."""
    chosen = table.patients.loc[list(patients), ["time", "event"]].rename_axis("patient")
    return list(
        chosen.sort_values(["event", "time", "patient"], ascending=[False, True, True]).index
    )


def draw(order: Sequence[str], share: float, rng: np.random.Generator, setting: str) -> set[str]:
    """Divide the ordered patients into as many groups as the share is to have patients; draw one of each."""
    if not 0 < share < 1:
        raise UsageError(f"{setting} {share:g}: must lie between 0 and 1")
    count = round(share * len(order))
    if not 0 < count < len(order):
        raise TiacfError(
            f"{setting} {share:g} of {len(order)} patients leaves a part empty; take more patients, or set "
            "another under protocol in the file of --config"
        )
    return {str(rng.choice(group)) for group in np.array_split(np.array(order, object), count)}


def make_fold(
    number: int, train: Iterable[str], validation: Iterable[str], test: Iterable[str]
) -> Fold:
    """Return a fold with the patients of each part in order of their names."""
    return Fold(number, tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


def _problem(fold: Fold, table: CohortTable, num_bins: int) -> str | None:
    """What is wrong with a fold, if anything."""
    for part in PARTS:
        patients = getattr(fold, part)
        missing = [patient for patient in patients if patient not in table.patients.index]
        if missing:
            return (
                f"{len(missing)} {part} patients are not in the table, such as {examples(missing)}"
            )
        if not patients:
            return f"the {part} part is empty"
        follow_up = table.patients.loc[list(patients)]
        times, events = follow_up["time"].to_numpy(), follow_up["event"].to_numpy()
        count = f"{int(events.sum())} events among {len(events)} {part} patients"
        if part == "train":
            try:
                quantile_bins(times, events, num_bins, table.time_unit)
            except TiacfError:
                return f"{count}, too few or too alike in time for {num_bins} time bins"
        elif not events.any():
            return count
        elif not _comparable(times, events):
            return f"{count}, and no two of them can be put in order"
    if fold.optimistic:
        return None
    named = [patient for part in PARTS for patient in getattr(fold, part)]
    twice = sorted({patient for patient in named if named.count(patient) > 1})
    if twice:
        return f"{len(twice)} patients are in two parts, such as {examples(twice)}"
    return None


def _comparable(times: np.ndarray, events: np.ndarray) -> bool:
    """Return whether some patient is known to outlive another, as Harrell's C-index counts pairs."""
    first = times[events == 1].min()
    return bool((times > first).any() or ((times == first) & (events == 0)).any())


def read_ids(path: Path, types: Mapping[str, str]) -> pd.DataFrame:
    """Read a CSV file of ids with the given columns; a patient may be called "NA"."""
    return read_csv(
        path, columns=list(types), dtype=dict(types), keep_default_na=False, na_values=[""]
    )
