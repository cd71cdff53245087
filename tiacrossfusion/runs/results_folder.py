"""The output folder of predictions: names of files, what is finished, and the tables.

A slide is finished when its record says so and its files are there and whole. Only files named in a
record are ever replaced.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.paths import is_there, size_on_disk
from tiacrossfusion.io.text import written
from tiacrossfusion.runs.records import RECORDS, Record, RecordFolder, names_for

if TYPE_CHECKING:
    from tiacrossfusion.models.config import BundleConfig
    from tiacrossfusion.outputs.report.fragment import ReportSlide

TABLE = "predictions.csv"
PATIENTS = "patients.csv"
REPORT = "report.html"

#: Columns of slides before and after those of the time bins.
_FIRST = (
    "slide",
    "risk",
    "risk_sd",
    "percentile",
    "risk_group",
    "median_survival",
    "median_reached",
    "time_unit",
)
_LAST = (
    "contribution_5x",
    "contribution_10x",
    "contribution_20x",
    "patches_5x",
    "patches_10x",
    "patches_20x",
    "seconds",
    "model",
    "status",
    "message",
    "mpp",
    "output",
    "notice",
    "path",
)

#: Columns of patients before and after those of the time bins. By the first three a table is known
#: as this program's.
_PATIENT_FIRST = (
    "patient",
    "slides",
    "slides_predicted",
    "risk",
    "percentile",
    "risk_group",
    "median_survival",
    "median_reached",
    "time_unit",
)
_PATIENT_LAST = ("model", "status", "message", "notice")


class _FailedRow(BaseModel):
    """What is needed of the row of a slide that failed."""

    slide: str
    message: str
    path: str = ""


class _DoneRow(_FailedRow):
    """What is needed of the row of a predicted slide; K bins, and hazards since there are patients."""

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
        return _table([row_of(record) for record in records], _FIRST, _LAST)

    def claim(self, source: str, stem: str, suffixes: Sequence[str]) -> Record:
        """Find the record of a slide, or make one with a free name.

        Args:
            source: identifies the slide.
            stem: the name it would like; when another slide has it, or might write a file of that
                name, a short hash of the source is added.
            suffixes: all that file names may add to a name.
        """
        ends = [suffix.casefold() for suffix in ("", *suffixes)]

        def is_free(name: str) -> bool:
            return all(
                self.named(f"{name.casefold()}{mine}".removesuffix(other)) is None
                for mine in ends
                for other in ends
            )

        while True:
            if (record := self.find(source)) is not None:
                return record
            record = Record(next(filter(is_free, (stem, *names_for(stem, source)))), source)
            if self.add(record):
                return record

    def check_free(self, record: Record, suffixes: Sequence[str]) -> None:
        """Refuse to write over files that are not this program's.

        Raises:
            TiacfError: a file in the way was not written by this program for this slide.
        """
        for file in (f"{record.name}{suffix}" for suffix in suffixes):
            if file not in record.files and (self.path / file).exists():
                raise TiacfError(
                    f"{self.path / file}: exists and was not written by tiacf for this slide; "
                    "move it away or give another --output-path"
                )

    def finished(self, record: Record, key: dict[str, str], suffixes: Sequence[str]) -> bool:
        """Tell whether a slide is done with the same key and its files are there and whole.

        Raises:
            TiacfError: it is done with another key: replacing it needs the user's word.
        """
        if record.status != "ok":
            return False
        differs = [name for name in key if record.key.get(name) != key[name]]
        if differs:
            raise TiacfError(
                f"{record.source}: {self.path} holds its result made with another "
                f"{' and '.join(differs)}; give --overwrite to replace it, or another --output-path"
            )
        files = [self.path / f"{record.name}{suffix}" for suffix in suffixes]
        there = all(file.exists() for file in (*files, self.fragment(record)))
        return there and not self.cut_files(record, suffixes)

    def cut_files(self, record: Record, suffixes: Sequence[str]) -> list[str]:
        """Names of a slide's files that are there and smaller than they were written.

        Whatever cuts or empties a file makes it smaller. Larger ones are left as they are: users add to
        them, and viewers write into annotation stores.
        """
        names = [f"{record.name}{suffix}" for suffix in suffixes]
        return [
            name
            for name in names
            if (self.path / name).exists()
            and size_on_disk(self.path / name) < record.sizes.get(name, 0)
        ]

    def publish(self, record: Record, staging: Path) -> None:
        """Move a slide's finished files from staging into place and record them and their sizes."""
        sizes = {path.name: size_on_disk(path) for path in staging.iterdir()}
        record.sizes = record.sizes | sizes
        super().publish(record, staging)

    def remark(self, record: Record, remark: str) -> None:
        """Record what the last run has to say of a result that stays as it is; "" for nothing."""
        if record.remark != remark:
            record.remark = remark
            self.write(record)

    def fragment(self, record: Record) -> Path:
        """Where a slide's part of the report is kept."""
        return self.records_path / "report" / f"{record.name}.json"

    def check_report_free(self) -> None:
        """Refuse to write over a page that is not this program's.

        Raises:
            OutputError: there is one.
        """
        path = self.path / REPORT
        with self.writing():
            (self.records_path / "report").mkdir(exist_ok=True)
            if not path.exists() or b"tiacrossfusion" in path.read_bytes()[:2000]:
                return
        raise OutputError(
            f"{path}: exists and was not written by tiacf; move it away or give another --output-path"
        )

    def write_report(self, config: BundleConfig) -> None:
        """Write `report.html` of all slides in the folder, in one step.

        Args:
            config: of the model of this run.

        Raises:
            OutputError: it cannot be written.
        """
        from tiacrossfusion.outputs.report.writing import ReportRun, write_report

        run = ReportRun(config, title=f"Survival predictions: {written(self.path.absolute().name)}")
        with self.writing():
            write_report(self.path / REPORT, run, self._report_slides())

    def _report_slides(self) -> Iterator[ReportSlide]:
        """Each slide's part of the report, as its record has it now."""
        from tiacrossfusion.outputs.report.fragment import ReportSlide

        for record in self.records():
            if record.status not in self.rows:
                continue
            row = row_of(record)
            now = {"message": row["message"], "source": row.get("path", "")}
            if record.status == "failed":
                yield ReportSlide(name=row["slide"], status="failed", **now)
            elif self.fragment(record).exists():
                yield ReportSlide.load(self.fragment(record)).model_copy(update=now)

    def check_patients_free(self) -> None:
        """Refuse to write over a table of patients that is not this program's.

        Raises:
            OutputError: there is one.
        """
        path = self.path / PATIENTS
        with self.writing():
            if not path.exists():
                return
            head = path.read_bytes()[:200].decode(errors="replace")
        if not head.startswith(",".join(_PATIENT_FIRST[:3])):
            raise OutputError(
                f"{path}: exists and was not written by tiacf; move it away or give another "
                "--output-path"
            )

    def write_patients(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write `patients.csv`, in one step, in place of an earlier one.

        Raises:
            OutputError: there is one that is not this program's, or it cannot be written.
        """
        self.check_patients_free()
        with self.writing():
            self.replace_text(self.path / PATIENTS, _table(rows, _PATIENT_FIRST, _PATIENT_LAST))


def row_of(record: Record) -> dict[str, Any]:
    """The row of a slide that is done or failed, whose message tells the record's remark too."""
    message = "; ".join(filter(None, [record.remark, record.row["message"]]))
    return record.row | {"message": message}


def _table(rows: Sequence[dict[str, Any]], first: Sequence[str], last: Sequence[str]) -> str:
    """Write rows as CSV, with the columns of the time bins between the first and the last ones."""
    num_bins = max((len(row.get("survival", [])) for row in rows), default=0)
    bins = [f"{kind}_{k}" for k in range(1, num_bins + 1) for kind in ("bin_edge", "survival")]
    text = io.StringIO()
    table = csv.DictWriter(text, [*first, *bins, *last], restval="", lineterminator="\n")
    table.writeheader()
    for row in rows:
        flat = {column: row[column] for column in (*first, *last) if column in row}
        for kind in ("bin_edge", "survival"):
            flat |= {f"{kind}_{k}": value for k, value in enumerate(row.get(kind, []), 1)}
        table.writerow({column: _cell(value) for column, value in flat.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    """One cell of the table: unknown is empty, truth is lower case, numbers have nine digits.

    A bag's own name of its slide may hold anything.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, str):
        return written(value)
    return value
