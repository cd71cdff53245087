"""The output folder of predictions, its tables and its report.

Only files that a record names are ever replaced.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import OutputError, move
from tiacrossfusion.io.paths import is_there
from tiacrossfusion.outputs.files import all_suffixes
from tiacrossfusion.runs.record import Record
from tiacrossfusion.runs.records import RECORDS, RecordFolder
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.text import written

if TYPE_CHECKING:
    from tiacrossfusion.models.config import BundleConfig
    from tiacrossfusion.outputs.report.fragment import ReportSlide

TABLE = "predictions.csv"
PATIENTS = "patients.csv"
REPORT = "report.html"

#: Name of the slide's part of the report in its staging folder.
FRAGMENT = ".report.json"

_RISK = ("percentile", "risk_group", "median_survival", "median_reached", "time_unit")

#: Columns of slides before and after those of the time bins.
_FIRST = ("slide", "risk", "risk_sd", *_RISK)
_LAST = (
    *(f"contribution_{scale}" for scale in SCALES),
    *(f"patches_{scale}" for scale in SCALES),
    *("seconds", "model", "status", "message", "mpp", "output", "notice", "path"),
)

#: Columns of slides that were read in part.
READING = (
    *("share_read", "risk_low", "risk_high", "risk_shrunken"),
    *("disagreement", "families", "chosen_by"),
)

#: Columns of slides predicted by a model that was audited on slides.
NUISANCE = ("risk_nuisance_sd", "risk_group_uncertain")

#: Columns of patients before and after those of the time bins. A table of this program begins with the
#: first three.
_PATIENT_FIRST = ("patient", "slides", "slides_predicted", "risk", *_RISK)
_PATIENT_LAST = ("model", "status", "message", "notice")


class _FailedRow(BaseModel):
    """Fields that the row of a failed slide has at least."""

    slide: str
    message: str
    path: str = ""


class _DoneRow(_FailedRow):
    """Fields that the row of a predicted slide has at least, for K bins."""

    risk: FiniteFloat
    risk_sd: FiniteFloat | None = None
    percentile: FiniteFloat | None
    risk_group: str | None
    bin_edge: list[FiniteFloat]
    survival: list[FiniteFloat]
    hazards: list[FiniteFloat] = Field(default=[], min_length=1)

    @model_validator(mode="after")
    def _of_one_length(self) -> _DoneRow:
        for values in (self.bin_edge, self.hazards):
            if values and len(values) != len(self.survival):
                raise ValueError("bin_edge, survival and hazards differ in length")
        return self


class ResultsFolder(RecordFolder):
    """A folder of predictions with its records and its table, `predictions.csv`."""

    records_in = RECORDS
    table = TABLE
    rows: ClassVar = {"ok": _DoneRow, "failed": _FailedRow}

    def check_table(self) -> None:
        """Refuse a folder with a table that is not this program's."""
        if is_there(self.path / TABLE) and not self.records_path.exists():
            raise OutputError(
                f"{self.path / TABLE}: exists and was not written by tiacf (or its folder {RECORDS} "
                "is gone); move it away or give another --output-path"
            )

    def table_text(self, records: list[Record]) -> str:
        """Write the table, a row a slide."""
        return _table([record.table_row() for record in records], _FIRST, _LAST)

    def is_free(self, name: str) -> bool:
        """Return whether no other slide has a name, or might write a file of that name."""
        ends = [suffix.casefold() for suffix in ("", *all_suffixes())]
        return all(
            self.named(f"{name.casefold()}{mine}".removesuffix(other)) is None
            for mine in ends
            for other in ends
        )

    def check_free(self, record: Record, files: Sequence[str]) -> None:
        """Refuse to write over files that are not this program's.

        Raises:
            TiacfError: a file in the way was not written by this program for this slide.
        """
        for file in files:
            if file not in record.files and (self.path / file).exists():
                raise TiacfError(
                    f"{self.path / file}: exists and was not written by tiacf for this slide; "
                    "move it away or give another --output-path"
                )

    def finished(self, record: Record, key: Mapping[str, str], files: Sequence[str]) -> bool:
        """Return whether a result and its part of the report are whole."""
        return self.fragment(record).exists() and super().finished(record, key, files)

    def publish(self, record: Record, staging: Path) -> None:
        """Move the slide's part of the report and its files into place and record them."""
        with self.writing():
            self.fragment(record).parent.mkdir(exist_ok=True)
            move(staging / FRAGMENT, self.fragment(record))
        super().publish(record, staging)

    def fail(self, record: Record, key: dict[str, str], row: dict[str, Any]) -> None:
        """Record that a slide failed; an earlier result, or that of another run, is kept and noted."""
        if record.status == "ok":
            self.remark(record, f"the last attempt failed: {row['message']}")
        else:
            super().fail(record, key, row)

    def fragment(self, record: Record) -> Path:
        """Return the path of a slide's part of the report."""
        return self.records_path / "report" / f"{record.name}.json"

    def check_own(self, *, patients: bool) -> None:
        """Refuse to write over a report, or a table of patients, that is not this program's.

        Raises:
            OutputError: there is one.
        """
        signs = {PATIENTS: ",".join(_PATIENT_FIRST[:3]).encode(), REPORT: b"tiacrossfusion"}
        for name in (PATIENTS, REPORT) if patients else (REPORT,):
            path = self.path / name
            with self.writing():
                known = not path.exists() or signs[name] in path.read_bytes()[:2000]
            if not known:
                raise OutputError(
                    f"{path}: exists and was not written by tiacf; move it away or give another "
                    "--output-path"
                )

    def write_report(self, config: BundleConfig) -> None:
        """Write `report.html` of all slides in the folder, in one step; the model is that of this run.

        Raises:
            OutputError: it cannot be written.
        """
        from tiacrossfusion.outputs.report.writing import ReportRun, write_report

        run = ReportRun(config, title=f"Survival predictions: {written(self.path.absolute().name)}")
        with self.writing():
            write_report(self.path / REPORT, run, self._report_slides())

    def _report_slides(self) -> Iterator[ReportSlide]:
        """Yield each slide's part of the report, with the message of its record."""
        from tiacrossfusion.outputs.report.fragment import ReportSlide

        for record in self.records():
            if record.status not in self.rows:
                continue
            row = record.table_row()
            now = {"message": row["message"], "source": row.get("path", "")}
            if record.status == "failed":
                yield ReportSlide(name=row["slide"], status="failed", **now)
            elif self.fragment(record).exists():
                yield ReportSlide.load(self.fragment(record)).model_copy(update=now)

    def write_patients(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write `patients.csv`, in one step, in place of an earlier one.

        Raises:
            OutputError: there is one that is not this program's, or it cannot be written.
        """
        self.check_own(patients=True)
        with self.writing():
            self.replace_text(self.path / PATIENTS, _table(rows, _PATIENT_FIRST, _PATIENT_LAST))


def _table(rows: Sequence[dict[str, Any]], first: Sequence[str], last: Sequence[str]) -> str:
    """Write rows as CSV, with the columns of the time bins between the first and the last ones."""
    num_bins = max((len(row.get("survival", [])) for row in rows), default=0)
    bins = [f"{kind}_{k}" for k in range(1, num_bins + 1) for kind in ("bin_edge", "survival")]
    text = io.StringIO()
    nuisance = NUISANCE if any("risk_nuisance_sd" in row for row in rows) else ()
    columns = [*first, *nuisance, *_of_reading(rows), *bins, *_of_record(rows), *last]
    table = csv.DictWriter(text, columns, "", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for row in rows:
        values = {**row}
        for kind in ("bin_edge", "survival"):
            values |= {f"{kind}_{k}": value for k, value in enumerate(row.get(kind, []), 1)}
        for name, value in row.get("of_variables", {}).items():
            values[f"contribution_of_{name}"] = value
        table.writerow({column: _cell(value) for column, value in values.items()})
    return text.getvalue()


def _of_record(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the columns of models of slide and clinical record; none for other models."""
    if not any("record_used" in row for row in rows):
        return []
    found = ["risk_without_record", "record_used", "record_missing"]
    if any("contribution_record" in row for row in rows):
        variables = dict.fromkeys(name for row in rows for name in row.get("of_variables", {}))
        found += ["contribution_record", *(f"contribution_of_{name}" for name in variables)]
    return found


def _of_reading(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the columns of predictions from parts of slides; none if all were read whole."""
    return list(READING) if any("share_read" in row for row in rows) else []


def _cell(value: object) -> object:
    """Return a cell: empty for None, booleans in lower case, numbers with nine digits, text escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, str):
        return written(value)
    return value
