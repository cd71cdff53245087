"""Folds: which patients train, which choose the model and which judge it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from tiacrossfusion.cohorts.names import slide_stem
from tiacrossfusion.cohorts.table import CohortTable, check_header
from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.arguments import at_least
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.io.csv_text import read_table_text
from tiacrossfusion.io.paths import is_file, is_folder, missing
from tiacrossfusion.io.text import examples
from tiacrossfusion.survival import quantile_bins

PARTS: Final = ("train", "validation", "test")

#: Split files of the authors' release; CLAM's `splits_0_bool.csv` beside them say the same otherwise.
_SPLIT_FILE = re.compile(r"splits_(\d+)\.csv", re.IGNORECASE)


@dataclass(frozen=True)
class Fold:
    """One division of the patients.

    Attributes:
        number: of the fold, from 0.
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
    def optimistic(self) -> bool:
        """Tell whether the patients that choose the model are those that judge it."""
        return self.validation == self.test


@dataclass(frozen=True)
class GivenSplit:
    """A split file in the authors' format, with its ids turned into patients.

    Attributes:
        number: of the split, from its file name.
        source: the file.
        train: patients of the column "train".
        val: patients of the column "val".
        unknown: ids that are neither a patient nor a slide of the table.
        unusable: ids whose rows were left out when the table was read.
        unnamed: patients of the table that no column names.
    """

    number: int
    source: Path
    train: tuple[str, ...]
    val: tuple[str, ...]
    unknown: tuple[str, ...]
    unusable: tuple[str, ...]
    unnamed: tuple[str, ...]

    @property
    def leaked(self) -> tuple[str, ...]:
        """Patients in both columns, be it by different slides."""
        val = set(self.val)
        return tuple(patient for patient in self.train if patient in val)

    def messages(self) -> list[str]:
        """Say what does not fit between the split and the table, one line each."""
        return [
            f"{self.source}: {len(names)} {what}, such as {examples(names)}"
            for names, what in (
                (self.unknown, "ids are not in the table and are passed over"),
                (self.unusable, "ids were left out of the table and are passed over"),
                (self.unnamed, "patients of the table are in neither column and are not used"),
                (self.leaked, "patients are in both train and val: figures are too good by that"),
            )
            if names
        ]


def nested_folds(
    table: CohortTable, n_folds: int = 5, validation_share: float = 0.2, *, seed: int
) -> list[Fold]:
    """Divide the patients into folds so that each is tested once by a model that never saw it.

    Stratified by event and time: within those with an event and within those without, patients are
    ordered by time, and neighbours are dealt to different folds. Sizes and numbers of events of the
    folds differ by at most one. The order of the table's rows does not matter.

    Args:
        table: the cohort.
        n_folds: number of folds.
        validation_share: share of a fold's patients outside the test part that choose the model.
        seed: of the random numbers.

    Raises:
        TiacfError: fewer patients than folds, or a share that is none.
    """
    at_least("--folds", n_folds, 2)
    order = _strata_order(table, table.patients.index)
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
        validation = _draw(rest, validation_share, rng, "validation_share")
        train = set(rest) - validation
        test = [patient for patient in order if fold_of[patient] == number]
        folds.append(_fold(number, train, validation, test))
    return folds


def holdout_fold(
    table: CohortTable, test_share: float = 0.2, validation_share: float = 0.2, *, seed: int
) -> Fold:
    """Divide the patients once, stratified by event and time.

    Args:
        table: the cohort.
        test_share: share of the patients that judge the model.
        validation_share: share of the others that choose it.
        seed: of the random numbers.

    Raises:
        TiacfError: a share that is none, or too few patients for it.
    """
    rng = np.random.default_rng(seed)
    order = _strata_order(table, table.patients.index)
    test = _draw(order, test_share, rng, "test_share")
    rest = [patient for patient in order if patient not in test]
    validation = _draw(rest, validation_share, rng, "validation_share")
    return _fold(0, set(rest) - validation, validation, test)


def read_splits(source: Path | Sequence[Path], table: CohortTable) -> list[GivenSplit]:
    """Read split files of the authors' format: columns "train" and "val", of patients or of slides.

    Ids that the table lacks are passed over and told by `GivenSplit.messages`.

    Args:
        source: a folder with `splits_0.csv`, `splits_1.csv` and so on, or the files.
        table: the cohort; its patients and slides (with or without file ending) are known ids.

    Returns:
        The splits by number.

    Raises:
        TiacfError: no file, or one that is damaged, names an id twice or names no patient of the table.
    """
    splits = [_read_split(path, number, table) for number, path in enumerate(_split_files(source))]
    numbers = [split.number for split in splits]
    if len(set(numbers)) < len(numbers):
        raise TiacfError(
            f"several split files have the same number: {examples([s.source.name for s in splits], 10)}; "
            "keep one of each"
        )
    return sorted(splits, key=lambda split: split.number)


def official_folds(splits: Sequence[GivenSplit]) -> list[Fold]:
    """Take given splits as the authors do: the column "val" both chooses and judges the model.

    The figures are optimistic (facts, section 2, no. 6), and the more so where patients stand in both
    columns, which is told by `GivenSplit.messages` and not mended.
    """
    return [Fold(split.number, split.train, split.val, split.val) for split in splits]


def given_folds(
    splits: Sequence[GivenSplit], table: CohortTable, validation_share: float = 0.2, *, seed: int
) -> list[Fold]:
    """Take the column "val" of given splits as test part, and a validation part from "train".

    Args:
        splits: as read.
        table: the cohort, for drawing the validation part stratified by event and time.
        validation_share: share of the column "train" that chooses the model.
        seed: of the random numbers.

    Raises:
        TiacfError: patients stand in both columns.
    """
    rng = np.random.default_rng(seed)
    folds = []
    for split in splits:
        if split.leaked:
            raise TiacfError(
                f"{split.source}: {len(split.leaked)} patients are in both train and val, such as "
                f"{examples(split.leaked)}; make the columns disjoint by patient, or take "
                "--protocol official, which reports it"
            )
        order = _strata_order(table, split.train)
        validation = _draw(order, validation_share, rng, "validation_share")
        folds.append(_fold(split.number, set(order) - validation, validation, split.val))
    return folds


def check_folds(folds: Sequence[Fold], table: CohortTable, num_bins: int) -> None:
    """Refuse folds that cannot be trained on or judged.

    A training part needs events at enough different times for the bins; a validation and a test part
    need an event and a pair of patients whose order is known, without which there is no C-index. The
    parts of a fold are disjoint, but for the authors' protocol.

    Args:
        folds: the folds.
        table: the cohort.
        num_bins: number of time bins.

    Raises:
        TiacfError: some folds do not serve; the first three are named with their reasons.
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
    frame = _read_csv(Path(path), {"fold": "int", "part": "str", "patient": "str"})
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


def _strata_order(table: CohortTable, patients: Iterable[str]) -> list[str]:
    """Patients ordered by event, time and name."""
    chosen = table.patients.loc[list(patients), ["time", "event"]].rename_axis("patient")
    return list(
        chosen.sort_values(["event", "time", "patient"], ascending=[False, True, True]).index
    )


def _draw(order: Sequence[str], share: float, rng: np.random.Generator, setting: str) -> set[str]:
    """Draw one patient at random from each of as many groups of neighbours as the share asks for."""
    if not 0 < share < 1:
        raise UsageError(f"{setting} {share:g}: must lie between 0 and 1")
    count = round(share * len(order))
    if not 0 < count < len(order):
        raise TiacfError(
            f"{setting} {share:g} of {len(order)} patients leaves a part empty; take more patients, or set "
            "another under protocol in the file of --config"
        )
    return {str(rng.choice(group)) for group in np.array_split(np.array(order, object), count)}


def _fold(
    number: int, train: Iterable[str], validation: Iterable[str], test: Iterable[str]
) -> Fold:
    return Fold(number, tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


def _split_files(source: Path | Sequence[Path]) -> list[Path]:
    if not isinstance(source, str | Path):
        return [Path(path) for path in source]
    path = Path(source)
    if is_file(path):
        return [path]
    if not is_folder(path):
        raise UsageError(f"{path}: {missing(path)}; check --splits")
    try:
        found = sorted(entry for entry in path.iterdir() if _SPLIT_FILE.fullmatch(entry.name))
    except OSError as error:
        raise TiacfError(f"{path}: cannot be read ({error.strerror}); check --splits") from error
    if not found:
        raise UsageError(
            f"{path}: no splits_0.csv, splits_1.csv ... in this folder; check --splits"
        )
    return found


def _read_split(path: Path, position: int, table: CohortTable) -> GivenSplit:
    frame = _read_csv(path, {"train": "str", "val": "str"})
    if "test" in frame and frame["test"].notna().any():
        raise TiacfError(
            f"{path}: has a column test, and split files have train and val only; put the ids of test "
            "into val, which is tested on, and those of val into train, or into no column"
        )
    known, unusable = _ids(table), _left_out_ids(table)
    parts: dict[str, tuple[str, ...]] = {}
    strange: list[str] = []
    for part in ("train", "val"):
        ids = frame[part].dropna().str.strip()
        if ids.empty:
            raise TiacfError(f"{path}: the column {part} is empty; a split has both parts")
        twice = ids[ids.duplicated()].unique()
        if len(twice):
            raise TiacfError(
                f"{path}: {len(twice)} ids stand twice in the column {part}, such as "
                f"{examples(twice)}; keep one of each"
            )
        patients = [known[name] for name in ids if name in known]
        if not patients:
            raise TiacfError(
                f"{path}: none of the {len(ids)} ids of the column {part} is a patient or a slide of "
                f"the table, such as {examples(ids)}; are they of another cohort?"
            )
        parts[part] = tuple(dict.fromkeys(patients))
        strange += [name for name in ids if name not in known]
    named = set(parts["train"]) | set(parts["val"])
    match = _SPLIT_FILE.fullmatch(path.name)
    if match and int(match[1]) > 999:  # a fold's seed has three digits for it
        raise TiacfError(
            f"{path}: the number of a split is 999 at most; rename the file to splits_0.csv or the like"
        )
    return GivenSplit(
        number=int(match[1]) if match else position,
        source=path,
        **parts,
        unknown=tuple(name for name in strange if name not in unusable),
        unusable=tuple(name for name in strange if name in unusable),
        unnamed=tuple(patient for patient in table.patients.index if patient not in named),
    )


def _ids(table: CohortTable) -> dict[str, str]:
    """Patient of each id: patients themselves, slides, and slides without their file ending."""
    ids: dict[str, str] = {}
    for slide, patient in zip(table.slides["slide"], table.slides["patient"], strict=True):
        for name in {patient, slide, slide_stem(slide)}:
            if ids.setdefault(name, patient) != patient:
                raise TiacfError(
                    f"{name!r} stands for two patients of the table, {ids[name]} and {patient}; rename "
                    "the slides or the patients"
                )
    return ids


def _left_out_ids(table: CohortTable) -> set[str]:
    rows = [row for rows in table.left_out.values() for row in rows]
    return {name for slide, patient in rows for name in (slide, slide_stem(slide), patient)}


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
    """Tell whether some patient is known to outlive another, as Harrell's C-index counts pairs."""
    first = times[events == 1].min()
    return bool((times > first).any() or ((times == first) & (events == 0)).any())


def _read_csv(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read a CSV file of ids that has the given columns."""
    try:
        # only an empty field is missing: a patient may be called "NA"
        text = read_table_text(path)
        check_header(path, text)
        frame = pd.read_csv(io.StringIO(text), dtype=columns, keep_default_na=False, na_values=[""])
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; check its path") from error
    except pd.errors.EmptyDataError as error:
        raise TiacfError(f"{path}: is empty; it needs the columns {', '.join(columns)}") from error
    except OSError as error:
        raise TiacfError(
            f"{path}: cannot be read ({error.strerror or one_line(error)}); check its rights"
        ) from error
    except ValueError as error:
        raise TiacfError(
            f"{path}: cannot be read as CSV ({one_line(error)}); save it as CSV in UTF-8"
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise TiacfError(f"{path}: the rows have more fields than the header; mend the header")
    missing = [name for name in columns if name not in frame]
    if missing:
        raise TiacfError(
            f"{path}: has no column {' or '.join(missing)}; it needs {', '.join(columns)}, and has "
            f"{examples(frame.columns, 8)}"
        )
    if frame.empty:
        raise TiacfError(f"{path}: has a header and no rows; it needs rows of {', '.join(columns)}")
    return frame
