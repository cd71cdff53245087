"""Which slide is of which patient, for predictions of patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import pandas as pd

from tiacrossfusion.cohorts.names import SlideNames
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.csv_table import read_csv, refuse_missing
from tiacrossfusion.survival.record import Record
from tiacrossfusion.text import examples, shortened

#: Characters of a name; names of files have 255 at most.
_LONGEST = 10_000


@dataclass(frozen=True)
class PatientTable:
    """Which slide is of which patient.

    Attributes:
        owners: patient of each slide, by the slide's name, in the order of the file.
        cells: text of the other columns for each slide, by the column's name.
    """

    path: Path
    owners: dict[str, str]
    cells: dict[str, dict[str, str]] = field(default_factory=dict)

    def numbers(self, columns: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the numbers in some columns for each slide, by the column's name.

        Raises:
            TiacfError: a column is missing, or a cell is not a finite number.
        """
        return {
            slide: {column: self._number(slide, column) for column in columns}
            for slide in self.owners
        }

    def records(self, record: Record) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
        """Return the codes of a record (`Record.codes`) for each slide, and remarks on each patient's.

        A variable without a column, or an empty cell, is missing.

        Raises:
            TiacfError: rows of a patient differ.
        """
        codes: dict[str, tuple[float, ...]] = {}
        remarks: dict[str, str] = {}
        first: dict[str, dict[str, str]] = {}
        for slide, cells in self.cells.items():
            patient, mine = self.owners[slide], {n: cells.get(n, "") for n in record.names}
            odd = [n for n in record.names if first.setdefault(patient, mine)[n] != mine[n]]
            if odd:
                raise TiacfError(
                    f"{self.path}: patient {patient} has two records, which differ in {', '.join(odd)}; keep "
                    "one"
                )
            row = pd.DataFrame([cells], index=[self.owners[slide]])
            values, notes = record.codes(row)
            codes[slide] = tuple(values[0])
            remarks[slide] = "; ".join(notes)
        return codes, remarks

    def _number(self, slide: str, column: str) -> float:
        cells = self.cells.get(slide, {})
        if column not in cells:
            raise TiacfError(
                f"{self.path}: has no column {column!r}, a covariate that the model needs; add it"
            )
        try:
            number = float(cells[column])
        except ValueError:
            number = float("nan")
        if not isfinite(number):
            raise TiacfError(
                f"{self.path}: {column} of slide {slide} is {shortened(cells[column])!r}; the model needs "
                "a number"
            )
        return number

    def find(self, sources: Sequence[str | Path]) -> list[str | None]:
        """Find the slides of a run in the table, by paths of slides or bags, or names.

        Names are compared as `SlideNames` says.

        Returns:
            For each the name that it has in the table; None where the table does not name it.

        Raises:
            TiacfError: two sources match one slide of the table, one source matches several, or the table
                has no slide of the run.
        """
        names = SlideNames((slide, slide) for slide in self.owners)
        found: list[str | None] = []
        owners: dict[str, str | Path] = {}
        for source in sources:
            slides = names.find(Path(source).name)
            if len(slides) > 1:
                raise TiacfError(
                    f"{source}: may be {' or '.join(slides)} of {self.path}; name it like the slide's "
                    "full file name"
                )
            for slide in slides:
                if slide in owners:
                    raise TiacfError(
                        f"{self.path}: {slide} would be both {owners[slide]} and {source}; give full "
                        "file names in the table"
                    )
                owners[slide] = source
            found.append(slides[0] if slides else None)
        if not owners:
            raise TiacfError(
                f"{self.path}: names none of the {len(sources)} slides of this run, such as "
                f"{examples(Path(source).name for source in sources)}; it has slides such as "
                f"{examples(self.owners)}; check --slide-column"
            )
        return found

    def notes(self, sources: Sequence[str | Path]) -> list[str]:
        """Return notes on slides that either the table or the run lacks."""
        found = self.find(sources)
        strangers = [
            Path(source).name for source, slide in zip(sources, found, strict=True) if slide is None
        ]
        absent = [slide for slide in self.owners if slide not in found]
        notes = []
        if strangers:
            notes.append(
                f"{len(strangers)} of {len(sources)} slides are of no patient in {self.path}, such as "
                f"{examples(strangers)}"
            )
        if absent:
            notes.append(
                f"{len(absent)} of {len(self.owners)} slides of {self.path} are not in this run, such "
                f"as {examples(absent)}"
            )
        return notes


def read_patients(
    path: Path | pd.DataFrame, *, slide_column: str = "slide", patient_column: str = "patient"
) -> PatientTable:
    """Read which slide is of which patient.

    Args:
        path: a CSV file, or a table in memory, with a row a slide; a model that takes covariates or a record
            reads them from its other columns. Without a column of slides, they are named like their patients.
        slide_column: names the slides, with or without the ending of their files.
        patient_column: names the patients.

    Raises:
        TiacfError: the file cannot be read, lacks a column, has no rows or leaves a name empty, or
            names a slide twice.
    """
    if isinstance(path, pd.DataFrame):
        frame = path.astype(object).where(path.notna(), "").astype(str)
        path = Path("patients")
    else:
        path = Path(path)
        frame = read_csv(path, check="check --patients", dtype=str, keep_default_na=False)
    if slide_column not in frame and patient_column in frame and len(frame.columns) > 1:
        frame = frame.assign(**{slide_column: frame[patient_column]})
    refuse_missing(
        path, frame, {slide_column: "--slide-column", patient_column: "--patient-column"}
    )
    columns = [frame[name].fillna("").str.strip() for name in (slide_column, patient_column)]
    pairs = list(zip(*columns, strict=True))
    if any(len(name) > _LONGEST for pair in pairs for name in pair):
        raise TiacfError(f"{path}: a field larger than {_LONGEST} characters is no name; mend it")
    nameless = [str(number) for number, pair in enumerate(pairs, start=1) if not all(pair)]
    if nameless:
        raise TiacfError(
            f"{path}: {len(nameless)} of {len(pairs)} rows lack a slide or a patient, such as data row "
            f"{examples(nameless)}; fill them in"
        )
    owners = dict(pairs)
    shared = dict.fromkeys(slide for slide, patient in pairs if owners[slide] != patient)
    if shared:
        raise TiacfError(
            f"{path}: {len(shared)} slides are of several patients, such as {examples(shared)}; "
            "a slide has one patient"
        )
    rows = Counter(slide for slide, _ in pairs)
    repeated = [slide for slide, count in rows.items() if count > 1]
    if repeated:
        raise TiacfError(
            f"{path}: {len(repeated)} slides stand in several rows, such as {examples(repeated)}; "
            "keep one row a slide"
        )
    others = [name for name in frame.columns if name not in (slide_column, patient_column)]
    cells: dict[str, dict[str, str]] = {slide: {} for slide in owners}
    for name in others:
        for (slide, _), cell in zip(pairs, frame[name].fillna("").astype(str), strict=True):
            cells[slide][name] = cell
    return PatientTable(path, owners, cells)
