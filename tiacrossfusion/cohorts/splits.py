"""Split files in the format of the authors' release, and folds from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiacrossfusion.cohorts.folds import Fold, draw, make_fold, read_ids, strata_order
from tiacrossfusion.cohorts.names import SlideNames
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.paths import is_file, is_folder, missing
from tiacrossfusion.text import examples

#: Split files of the authors' release; CLAM's `splits_0_bool.csv` beside them say the same otherwise.
_SPLIT_FILE = re.compile(r"splits_(\d+)\.csv", re.IGNORECASE)


@dataclass(frozen=True)
class GivenSplit:
    """A split file in the authors' format, with the ids of its columns turned into patients.

    Attributes:
        number: of the split, from its file name.
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
        """Patients in both columns, even if by different slides."""
        val = set(self.val)
        return tuple(patient for patient in self.train if patient in val)

    def messages(self) -> list[str]:
        """Return what does not fit between the split and the table, one line each."""
        return [
            f"{self.source}: {len(names)} {what}, such as {examples(names)}"
            for names, what in (
                (self.unknown, "ids are not in the table and are ignored"),
                (self.unusable, "ids were left out of the table and are ignored"),
                (self.unnamed, "patients of the table are in neither column and are not used"),
                (self.leaked, "patients are in both train and val: figures are too good by that"),
            )
            if names
        ]


def read_splits(source: Path | Sequence[Path], table: CohortTable) -> list[GivenSplit]:
    """Read split files of the authors' format: columns "train" and "val", of patients or of slides.

    Ids that the table lacks are ignored and reported by `GivenSplit.messages`. Splits are sorted by number.

    Args:
        source: a folder with `splits_0.csv`, `splits_1.csv` and so on, or the files.
        table: the cohort; its patients and slides (with or without file ending) are known ids.

    Raises:
        TiacfError: there is no file, or one is damaged, names an id twice or names no patient of the table.
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

    The figures are optimistic, and the more so where patients are in both columns: that is reported
    by `GivenSplit.messages` and not corrected.
    """
    return [Fold(split.number, split.train, split.val, split.val) for split in splits]


def given_folds(
    splits: Sequence[GivenSplit], table: CohortTable, validation_share: float = 0.2, *, seed: int
) -> list[Fold]:
    """Take the column "val" of given splits as test part, and a validation part from "train".

    The validation part is the share of "train" that is asked for, stratified by event and time.

    Raises:
        TiacfError: patients are in both columns.
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
        order = strata_order(table, split.train)
        validation = draw(order, validation_share, rng, "validation_share")
        folds.append(make_fold(split.number, set(order) - validation, validation, split.val))
    return folds


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
    frame = read_ids(path, {"train": "str", "val": "str"})
    if "test" in frame and frame["test"].notna().any():
        raise TiacfError(
            f"{path}: has a column test, and split files have train and val only; put the ids of test "
            "into val, which is tested on, and those of val into train, or into no column"
        )
    known = _Owners(table.slides.itertuples(index=False, name=None))
    unusable = _Owners(row for rows in table.left_out.values() for row in rows)
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
        owners = {name: known.find(name) for name in ids}
        patients = [owner for owner in owners.values() if owner is not None]
        if not patients:
            raise TiacfError(
                f"{path}: none of the {len(ids)} ids of the column {part} is a patient or a slide of "
                f"the table, such as {examples(ids)}; are they of another cohort?"
            )
        parts[part] = tuple(dict.fromkeys(patients))
        strange += [name for name, owner in owners.items() if owner is None]
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
        unknown=tuple(name for name in strange if unusable.find(name) is None),
        unusable=tuple(name for name in strange if unusable.find(name) is not None),
        unnamed=tuple(patient for patient in table.patients.index if patient not in named),
    )


class _Owners:
    """Patients by the ids of a split file, which are their own names or those of their slides."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        rows = list(rows)
        self._patients = {patient for _, patient in rows}
        self._slides = SlideNames(rows)

    def find(self, name: str) -> str | None:
        """Return the patient of an id, if it has one; raises TiacfError when it may be several."""
        found = sorted({*self._slides.find(name), *({name} & self._patients)})
        if len(found) > 1:
            raise TiacfError(
                f"{name!r} stands for two patients of the table, {found[0]} and {found[1]}; rename "
                "the slides or the patients"
            )
        return found[0] if found else None
