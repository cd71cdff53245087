"""An output folder of slides that were read again under nuisances."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, FiniteFloat

from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.runs.record import Record
from tiacrossfusion.runs.records import RECORDS, RecordFolder, table_by_path

#: A row for each slide.
SLIDES = "nuisance_slides.csv"

COLUMNS = (
    *("slide", "risk", "risk_nuisance_sd", "risk_lowest", "risk_highest", "risk_group"),
    *("changed_by", "families", "families_read", "seconds", "status", "message", "path"),
)


class _FailedRow(BaseModel):
    """Fields that the row of a failed slide has at least."""

    slide: str
    path: str
    message: str


class _DoneRow(_FailedRow):
    """Fields that the row of an audited slide has at least."""

    risk: FiniteFloat
    risk_nuisance_sd: FiniteFloat


class NuisanceFolder(RecordFolder):
    """A folder with a record and a file of changes for each slide, and the table `nuisance_slides.csv`."""

    records_in = f"{RECORDS}/nuisance"
    table = SLIDES
    rows: ClassVar = {"ok": _DoneRow, "failed": _FailedRow}

    def check_table(self) -> None:
        """Refuse a folder with a table that is not this program's."""
        if (self.path / SLIDES).exists() and not self.records_path.exists():
            raise OutputError(
                f"{self.path / SLIDES}: exists and was not written by tiacf audit; move it away or give "
                "another --output-path"
            )

    def table_text(self, records: list[Record]) -> str:
        """Write the table, a row a slide, by path."""
        return table_by_path(records, COLUMNS)
