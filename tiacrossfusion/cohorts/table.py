"""The cohort table: which slides belong to which patients, and how long each was followed.

Every row of the file is used, or the file is refused in one line with the number of affected rows and the
remedy. Only rows without usable follow-up or covariates may be left out, on demand and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_scalar

from tiacrossfusion.cohorts.columns import COLUMN_OPTIONS, TCGA_SITE, Columns
from tiacrossfusion.cohorts.levels import level_numbers, without_placeholders
from tiacrossfusion.cohorts.people import one_name_a_person
from tiacrossfusion.cohorts.plausible import (
    refuse_implausible,
    refuse_other_notation,
    refuse_selective,
)
from tiacrossfusion.cohorts.sites import sites_of
from tiacrossfusion.cohorts.table_file import read_table_file
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.csv_table import refuse_missing
from tiacrossfusion.text import examples, printable

#: Why a row is left out whose value a reader should see.
_NO_NUMBER = "time not a finite number"


@dataclass(frozen=True)
class CohortTable:
    """A checked cohort.

    Attributes:
        patients: index patient (str); columns time (float, above 0), event (int, 1 observed, 0
            censored), if asked for entry (float, 0 or more, below time), then the covariates as in the file.
        slides: columns slide and patient (str), one row a slide.
        time_unit: unit of the times, such as "months".
        sha256: hash of the file.
        left_out: for each reason, (slide, patient) of the rows that were left out.
        shown: for a reason, the values that were at fault, in words.
        notes: what else a reader of the results should know.
        sites: site of each patient, if `Columns.fold_by` or `Columns.site` asks for it.
        by_site: whether folds go by them.
    """

    patients: pd.DataFrame
    slides: pd.DataFrame
    time_unit: str
    sha256: str
    left_out: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sites: pd.Series[str] | None = None
    by_site: bool = False

    def of(self, names: Iterable[str]) -> CohortTable:
        """Return the rows of some patients."""
        patients = self.patients.loc[sorted(names)]
        slides = self.slides[self.slides["patient"].isin(patients.index)]
        sites = None if self.sites is None else self.sites.loc[patients.index]
        return replace(self, patients=patients, slides=slides, sites=sites)

    def messages(self) -> list[str]:
        """Return what was left out and other notes, one line each."""
        lines = list(self.notes)
        for reason, rows in self.left_out.items():
            lost = {patient for _, patient in rows} - set(self.patients.index)
            lines.append(
                f"left out, {reason}: {len(rows)} {_plural('row', len(rows))} "
                f"({len(lost)} {_plural('patient', len(lost))} lost), "
                f"such as {examples([slide for slide, _ in rows])}{self.shown.get(reason, '')}"
            )
        return lines


def read_table(
    path: Path,
    columns: Columns,
    time_unit: str,
    *,
    drop_unusable: bool = False,
    covariates_may_miss: bool = False,
) -> CohortTable:
    """Read and check a cohort table.

    A patient with several slides has several rows, on which follow-up and covariates agree.

    Args:
        path: a CSV file, also packed as `.csv.zip` or `.csv.gz`, or a Parquet file.
        columns: names of the columns.
        time_unit: unit of the times, such as "months"; carried through to every result.
        drop_unusable: leave out rows without usable follow-up or covariates instead of refusing the
            table; they are in `CohortTable.left_out`.
        covariates_may_miss: keep rows without a covariate, as NaN.

    Raises:
        TiacfError: the file cannot be read, or a value in it is wrong.
    """
    path = Path(path)
    if not time_unit.strip():
        raise UsageError("the time unit is empty; give it with --time-unit, such as months")
    frame, notes = _read_columns(path, columns)
    given = frame["time"]
    refuse_other_notation(path, columns.time, frame["time"], COLUMN_OPTIONS["time"])
    reasons = _unusable_follow_up(path, frame, columns)
    refuse_implausible(path, frame["time"], time_unit, COLUMN_OPTIONS["time"])
    for name in columns.of_patients:
        lacking = _unusable_covariate(path, frame, name)
        if covariates_may_miss:
            frame[name] = frame[name].mask(next(iter(lacking.values())))
        else:
            reasons |= lacking
    wrong = given[reasons[_NO_NUMBER]]
    shown = f"; values: {examples(map(str, wrong.unique()))}" if len(wrong) else ""
    frame, left_out = _leave_out(path, frame, reasons, drop_unusable, shown)
    _agree_within_patients(path, frame, columns, notes)
    patients = frame.drop_duplicates("patient").set_index("patient")
    patients = patients.sort_index()
    sites = None if columns.sites is None else sites_of(path, patients, columns)
    follow_up = ["time", "event", *(["entry"] if columns.entry else [])]
    patients = patients[[*follow_up, *columns.of_patients]]
    patients = patients.astype({"time": float, "event": int})
    if not patients["event"].any():
        option = COLUMN_OPTIONS["event" if columns.censorship is None else "censorship"]
        raise TiacfError(
            f"{path}: none of the {len(patients)} patients has an event, so there is nothing to learn; "
            f"check {option} (an event column has 1 for an event, a censorship column 1 for none)"
        )
    if patients["event"].all():
        notes.append(f"{path}: no patient is censored; that is allowed, but check the event column")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    slides = frame[["slide", "patient"]].reset_index(drop=True)
    return CohortTable(
        patients,
        slides,
        time_unit.strip(),
        sha256,
        left_out,
        {_NO_NUMBER: shown},
        tuple(notes),
        sites,
        by_site=columns.fold_by is not None,
    )


def _read_columns(path: Path, columns: Columns) -> tuple[pd.DataFrame, list[str]]:
    """Read the columns that are asked for; returns them with notes.

    One row a slide, no slide twice: columns slide, patient, time and event as in the file, but with
    censorship turned into event, and the covariates.
    """
    _distinct(columns)
    raw = read_table_file(path, [columns.slide, columns.patient])
    _present(path, raw, columns)
    _plain_values(path, raw, columns)
    notes = []
    slide = columns.slide
    if slide not in raw:
        slide = columns.patient
        notes.append(f"{path}: no column {columns.slide!r}; slides are named like their patients")
    patient = raw[columns.patient].astype("string").str.strip()
    frame = pd.DataFrame({"slide": raw[slide].astype("string").str.strip(), "patient": patient})
    for name in ("slide", "patient"):
        nameless = (frame[name].fillna("") == "").to_numpy()
        if nameless.any():
            raise TiacfError(
                f"{path}: {int(nameless.sum())} of {len(frame)} rows name no {name}, such as data row "
                f"{examples([str(row) for row in np.flatnonzero(nameless) + 1])}; fill them in"
            )
        broken = frame[name][frame[name].str.contains("\r", regex=False)]
        if len(broken):
            raise TiacfError(
                f"{path}: {len(broken)} of {len(frame)} rows have a carriage return in the name of a "
                f"{name}, such as {examples(map(printable, broken))}; remove it"
            )
    frame = frame.astype({"slide": object, "patient": object})
    frame["patient"], reduced = one_name_a_person(
        path, frame["patient"], columns.patient_characters
    )
    notes += reduced
    _no_slide_twice(path, frame, columns)
    frame["time"] = raw[columns.time]
    frame["event"] = _events(path, frame["slide"], raw, columns)
    if columns.entry is not None:
        frame["entry"] = _entries(path, raw, columns.entry)
    if columns.sites not in (None, TCGA_SITE):
        frame["site"] = without_placeholders(raw[columns.sites])
    covariates = raw[list(columns.of_patients)].apply(without_placeholders)
    for name, levels in columns.ordinal.items():
        if name not in covariates:
            raise UsageError(
                f"--ordinal {name}: is not among the covariates; name it with --covariates too"
            )
        covariates[name] = level_numbers(path, covariates[name], levels)
    return pd.concat([frame, covariates], axis=1), notes


def _distinct(columns: Columns) -> None:
    """Refuse columns asked for in two roles: a covariate that is the outcome would tell it."""
    if columns.fold_by is not None and columns.site is not None:
        raise UsageError("--site with --fold-by, which names the sites already: leave out --site")
    outcome = columns.event if columns.censorship is None else columns.censorship
    roles = [columns.time, outcome, *columns.of_patients]
    twice = sorted({name for name in roles if roles.count(name) > 1})
    kept = {"time", "event", "entry", "slide", "patient"}
    taken = [name for name in columns.of_patients if name in kept]
    if twice:
        raise UsageError(
            f"the column {twice[0]!r} is asked for twice among time, event and covariates; "
            f"check {COLUMN_OPTIONS['covariates']}"
        )
    if taken:
        raise TiacfError(
            f"a covariate cannot be named {taken[0]!r}; rename that column of the table"
        )


def _present(path: Path, raw: pd.DataFrame, columns: Columns) -> None:
    """Refuse a table without the columns asked for, naming those that look like them."""
    outcome = "event" if columns.censorship is None else "censorship"
    wanted = {getattr(columns, role): COLUMN_OPTIONS[role] for role in ("patient", "time", outcome)}
    wanted |= dict.fromkeys(columns.further, COLUMN_OPTIONS["further"])
    wanted |= dict.fromkeys(columns.covariates, COLUMN_OPTIONS["covariates"])
    for role in ("entry", "fold_by", "site"):
        if getattr(columns, role) not in (None, TCGA_SITE):
            wanted[getattr(columns, role)] = COLUMN_OPTIONS[role]
    try:
        refuse_missing(path, raw, wanted)
    except UsageError as error:
        if columns.censorship is None and columns.event not in raw and "censorship" in raw:
            hint = f"its censorship is read with {COLUMN_OPTIONS['censorship']} censorship"
            raise UsageError(f"{error}; {hint}") from None
        raise


def _plain_values(path: Path, raw: pd.DataFrame, columns: Columns) -> None:
    """Refuse lists and the like, which Parquet has, in the columns asked for."""
    outcome = columns.event if columns.censorship is None else columns.censorship
    for name in (columns.slide, columns.patient, columns.time, outcome, *columns.of_patients):
        if name in raw and not raw[name].map(is_scalar).all():
            raise TiacfError(
                f"{path}: the column {name!r} holds lists or the like; a cell has one value"
            )


def _no_slide_twice(path: Path, frame: pd.DataFrame, columns: Columns) -> None:
    repeated = frame[frame.duplicated(["slide", "patient"])]["slide"]
    if len(repeated):
        raise TiacfError(
            f"{path}: {len(repeated)} of {len(frame)} rows repeat a slide, such as "
            f"{examples(repeated.unique())}; keep one row a slide (the slides' names are read from "
            f"the column {columns.slide!r}, {COLUMN_OPTIONS['slide']})"
        )
    shared = frame[frame.duplicated("slide")]["slide"]
    if len(shared):
        raise TiacfError(
            f"{path}: {shared.nunique()} slides are of several patients, such as "
            f"{examples(shared.unique())}; a slide has one patient"
        )


def _events(path: Path, slides: pd.Series, raw: pd.DataFrame, columns: Columns) -> pd.Series:
    """Events as 0.0, 1.0 or NaN where missing; any other value is refused, dropping or not."""
    name = columns.event if columns.censorship is None else columns.censorship
    values = _numbers(raw[name])
    wrong = raw[name].notna() & ~values.isin([0, 1])
    if wrong.any():
        shown = [f"{value} ({slide})" for value, slide in zip(raw[name], slides, strict=True)]
        raise TiacfError(
            f"{path}: {int(wrong.sum())} of {len(raw)} values of {name!r} are neither 0 nor 1, such as "
            f"{examples(np.array(shown)[wrong])}; write 1 and 0 (or true and false)"
        )
    return values if columns.censorship is None else 1 - values


def _unusable_follow_up(path: Path, frame: pd.DataFrame, columns: Columns) -> dict[str, np.ndarray]:
    """Rows without usable follow-up, by reason; turns the times into numbers."""
    given = frame["time"]
    times = _numbers(given)
    frame["time"] = times
    text = given.notna() & times.isna()
    if text.all():
        raise TiacfError(
            f"{path}: no value of {columns.time!r} is a number, such as {examples(given)}; "
            f"check {COLUMN_OPTIONS['time']}"
        )
    return {
        "time missing": given.isna().to_numpy(),
        _NO_NUMBER: (text | np.isinf(times)).to_numpy(),
        "time zero or negative": (np.isfinite(times) & (times <= 0)).to_numpy(),
        "event missing": frame["event"].isna().to_numpy(),
    } | ({} if columns.entry is None else {"entry not before the end of follow-up": _late(frame)})


def _entries(path: Path, raw: pd.DataFrame, name: str) -> pd.Series:
    """Return times of entry, 0 for an empty cell; refuse values that are not numbers of 0 or more."""
    values = _numbers(raw[name])
    wrong = (raw[name].notna() & values.isna()) | (values < 0) | np.isinf(values)
    if wrong.any():
        raise TiacfError(
            f"{path}: {int(wrong.sum())} of {len(raw)} values of {name!r} are no times of 0 or more, such as "
            f"{examples(map(str, raw[name][wrong].unique()))}; check {COLUMN_OPTIONS['entry']}"
        )
    return values.fillna(0.0)


def _late(frame: pd.DataFrame) -> np.ndarray:
    """Rows of patients who enter when their follow-up has ended."""
    return (frame["entry"] >= frame["time"]).to_numpy()


def _unusable_covariate(path: Path, frame: pd.DataFrame, name: str) -> dict[str, np.ndarray]:
    """Rows without the covariate; refuses a column of numbers with some text in it."""
    values = frame[name]
    numbers = _numbers(values)
    text = (values.notna() & numbers.isna()).to_numpy()
    if text.any() and text.sum() < values.notna().sum() / 2:  # else it would become categories
        raise TiacfError(
            f"{path}: {int(text.sum())} of {len(frame)} values of the covariate {name!r} are no "
            f"numbers, such as {examples(values[text])}; empty or mend them"
        )
    missing = values.isna() | np.isinf(numbers)
    return {f"covariate {name} missing": missing.to_numpy()}


def _numbers(values: pd.Series) -> pd.Series:
    """Values as float, NaN where they are not numbers; dates are not."""
    if values.dtype.kind in "mM":
        return pd.Series(np.nan, index=values.index)
    return pd.to_numeric(values.astype(object), errors="coerce").astype(float)


def _leave_out(
    path: Path, frame: pd.DataFrame, reasons: dict[str, np.ndarray], drop_unusable: bool, shown: str
) -> tuple[pd.DataFrame, dict[str, list[tuple[str, str]]]]:
    """Take out the unusable rows, each under its first reason, or refuse the table."""
    names = list(zip(frame["slide"], frame["patient"], strict=True))
    given = {reason: rows for reason, rows in reasons.items() if rows.any()}
    left_out: dict[str, list[tuple[str, str]]] = {}
    usable = np.ones(len(frame), bool)
    for reason, rows in reasons.items():
        affected = np.flatnonzero(rows & usable)
        if len(affected):
            left_out[reason] = [names[row] for row in affected]
        usable &= ~rows
    if not left_out:
        return frame, left_out
    counts = ", ".join(f"{reason}: {len(rows)}" for reason, rows in left_out.items())
    if not usable.any():
        raise TiacfError(f"{path}: none of the {len(frame)} rows is usable ({counts}); mend them")
    if not drop_unusable:
        slides = [slide for rows in left_out.values() for slide, _ in rows]
        raise TiacfError(
            f"{path}: {len(slides)} of {len(frame)} rows cannot be used ({counts}), such as "
            f"{examples(slides)}{shown}; mend them, or leave them out with --drop-unusable"
        )
    refuse_selective(path, frame, given)
    return frame[usable], left_out


def _agree_within_patients(
    path: Path, frame: pd.DataFrame, columns: Columns, notes: Sequence[str]
) -> None:
    names = ["time", "event", *(["entry"] if columns.entry else []), *columns.of_patients]
    if columns.sites not in (None, TCGA_SITE):
        names.append("site")

    def several(fields: list[str]) -> pd.Series:
        """Patients that have several values of the fields."""
        different = frame[["patient", *fields]].drop_duplicates()["patient"]
        return different[different.duplicated()].drop_duplicates()

    patients = several(names)
    if len(patients):
        fields = ", ".join(name for name in names if len(several([name])))
        raise TiacfError(
            f"{path}: {len(patients)} of {frame['patient'].nunique()} patients have slides that "
            f"disagree on {fields}, such as {examples(patients)}; make the rows of a patient agree"
            + "".join(f" ({note})" for note in notes if "barcodes" in note)
        )


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
