"""A folder of bags: which slide has which bag, and the table of them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.paths import is_folder, size_on_disk, stem_for
from tiacrossfusion.io.text import written
from tiacrossfusion.runs.records import RECORDS, Count, Record, RecordFolder, names_for
from tiacrossfusion.slides.spec import SCALES

TABLE = "extraction.csv"

COLUMNS = (
    "slide",
    "bag",
    *(f"patches_{scale}" for scale in SCALES),
    *(f"dropped_{scale}" for scale in SCALES),
    "status",
    "message",
    "seconds",
    "reader",
    "bytes",
    "path",
)

#: By these a table is known as this program's, of whatever version.
_OWN = COLUMNS[:5]


class _FailedRow(BaseModel):
    """What is needed of the row of a slide that failed."""

    slide: str
    path: str
    message: str


class _DoneRow(_FailedRow):
    """What is needed of the row of a slide whose bag is there."""

    patches_5x: Count
    patches_10x: Count
    patches_20x: Count
    dropped_5x: Count
    dropped_10x: Count
    dropped_20x: Count
    bytes: Count


class BagsFolder(RecordFolder):
    """A folder of bags with its records and its table, `extraction.csv`."""

    records_in = f"{RECORDS}/bags"
    table = TABLE
    rows: ClassVar = {"ok": _DoneRow, "failed": _FailedRow}

    def check_table(self) -> None:
        """Refuse a folder with a table that is not this program's."""
        path = self.path / TABLE
        try:
            with path.open(encoding="utf-8") as file:
                known = file.readline().startswith(",".join(_OWN))
        except (FileNotFoundError, NotADirectoryError):
            return
        except PermissionError as error:
            raise OutputError(
                f"{path}: cannot be read ({error.strerror}); ask for the right to"
            ) from error
        except (OSError, UnicodeDecodeError):
            known = False
        if not known:
            raise OutputError(
                f"{path}: exists and was not written by tiacf extract; move it away or give another "
                "--output-path"
            )

    def table_text(self, records: list[Record]) -> str:
        """Write the table, a row a slide, by path."""
        text = io.StringIO()
        table = csv.DictWriter(
            text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n"
        )
        table.writeheader()
        table.writerows(sorted((record.row for record in records), key=lambda row: row["path"]))
        return text.getvalue()

    def claim(self, slide: Path) -> Record:
        """Find the record of a slide, or make one.

        Raises:
            OutputError: it cannot be written.
        """
        while True:
            if (record := self.find(source_of(slide))) is not None:
                return record
            record = self.new_record(slide)
            if self.add(record):
                return record

    def new_record(self, slide: Path) -> Record:
        """A record with a free name, not yet written."""
        source = source_of(slide)
        names = (stem_of(slide), *names_for(stem_for(slide.name), source))
        return Record(next(name for name in names if self.named(name) is None), source)

    def place(self, record: Record, slide: Path, *, lone: bool) -> Path:
        """Where the bag of a slide is or goes.

        A bag is named by the stem of its slide, unless another slide has that name.

        Args:
            record: of the slide.
            slide: its path.
            lone: no other slide of the run has its stem, be it as stem or as name.
        """
        if record.files:
            return self.path / record.files[0]
        name = f"{stem_of(slide)}.zarr"
        taken = any(
            other is not None and Path(other.source).name != slide.name
            # One of the same name may be this slide, moved.
            for other in (self.owner(name), self.named(stem_of(slide)))
        )
        if lone and not taken:
            return self.path / name
        return self.path / f"{stem_for(slide.name)}.zarr"

    def finished(self, record: Record, key: dict[str, str]) -> bool:
        """Whether a slide's bag was made with a key and is as it was then."""
        return (
            record.status == "ok"
            and record.key == key
            and bool(record.files)
            and size_on_disk(self.path / record.files[0]) == record.row.get("bytes")
        )

    def take_over(self, record: Record) -> None:
        """Forget other records of a bag that is now known to be of this slide, moved."""
        for other in self.records():
            if other.name != record.name and set(other.files) & set(record.files):
                self.remove(other)


def source_of(slide: Path) -> str:
    """What identifies a slide."""
    return written(str(slide.absolute()))


def stem_of(slide: Path) -> str:
    """What the bag of a slide is named by."""
    return stem_for(slide.name if is_folder(slide) else slide.stem)
