"""A folder of bags, with one record a slide and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.paths import stem_for
from tiacrossfusion.runs.record import Count, Record, names_for, source_of, stem_of
from tiacrossfusion.runs.records import RECORDS, RecordFolder, table_by_path
from tiacrossfusion.slides.spec import SCALES

TABLE = "extraction.csv"

COLUMNS = (
    *("slide", "bag"),
    *(f"patches_{scale}" for scale in SCALES),
    *(f"dropped_{scale}" for scale in SCALES),
    *("status", "message", "seconds", "reader", "bytes", "path"),
)

#: A table of this program, of any version, begins with these columns.
_OWN = COLUMNS[:5]


class _FailedRow(BaseModel):
    """Fields that the row of a failed slide has at least."""

    slide: str
    path: str
    message: str


class _DoneRow(_FailedRow):
    """Fields that the row of an extracted slide has at least."""

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
        return table_by_path(records, COLUMNS)

    def place(self, record: Record, slide: Path, *, lone: bool) -> Path:
        """Return where the bag of a slide is or goes.

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

    def fail(self, record: Record, key: dict[str, str], row: dict[str, Any]) -> None:
        """Record that a slide failed, and that an earlier bag of it is still there."""
        bag = next(iter(record.files), None)
        if bag is not None and (self.path / bag).exists():
            note = "the bag of an earlier extraction is still there"
            row = row | {"bag": bag, "message": f"{row['message']}; {note}"}
        super().fail(record, key, row)

    def take_over(self, bag: str, record: Record) -> None:
        """Remove other records of a bag that is now known to be of this slide, moved."""
        for other in self.records():
            if other.name != record.name and bag in other.files:
                self.remove(other)


def record_names(slide: Path) -> tuple[str, ...]:
    """Return names for the record of a slide, the first one that is free is taken."""
    return stem_of(slide), *names_for(stem_for(slide.name), source_of(slide))
