"""The output folder: names, what is finished, and files that are either whole or not there.

Beside the files that users open, the folder holds `.tiacf/<name>.json`, one record per slide: what it
was made from, the files it wrote and its row of `predictions.csv`. A slide is finished when its record
says so and its files exist. Only files named in a record are ever replaced.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import shutil
import socket
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil

from tiacrossfusion.errors import TiacfError, one_line

TABLE = "predictions.csv"
PATIENTS = "patients.csv"
_RECORDS = ".tiacf"

_log = logging.getLogger(__name__)

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


class OutputError(TiacfError):
    """The output folder cannot be written: no other slide would fare better, so the run ends."""


@dataclass
class Record:
    """What is known of one slide in an output folder.

    Attributes:
        name: stem of the slide's output files.
        source: path of the slide (or hash of an array).
        key: everything that decides the result, as strings; equal keys give equal results.
        status: "new", "ok", "failed", or "publishing" while files are being moved into place.
        files: names of the files in the output folder that belong to this slide.
        row: the slide's row of the table.
    """

    name: str
    source: str
    key: dict[str, str]
    status: str
    files: list[str] = field(default_factory=list)
    row: dict[str, Any] = field(default_factory=dict)


class ResultsFolder:
    """An output folder, new or resumed.

    Args:
        path: the folder; made when it does not exist. Other files in it are left alone.

    Raises:
        OutputError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        """Open the folder."""
        self.path = Path(path)
        self._records_path = self.path / _RECORDS
        if (self.path / TABLE).exists() and not self._records_path.exists():
            raise OutputError(
                f"{self.path / TABLE}: exists and was not written by tiacf (or its folder {_RECORDS} "
                "is gone); move it away or give another --output-path"
            )
        with self.writing():
            self._records_path.mkdir(parents=True, exist_ok=True)
            probe = self._records_path / f"probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        self._remove_dead_staging()

    def records(self) -> list[Record]:
        """All records, by name."""
        known = {field.name for field in fields(Record)}
        found = []
        for path in sorted(self._records_path.glob("*.json")):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                # What a later version adds is left out; what it wrote is still known.
                found.append(Record(**{k: v for k, v in content.items() if k in known}))
            except FileNotFoundError:
                continue  # replaced by another process at this moment
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise OutputError(
                    f"{path}: this record is damaged ({error}); remove it and the slide's results to "
                    "have them made again"
                ) from error
        return found

    def claim(self, source: str, stem: str, suffixes: Sequence[str]) -> Record:
        """Find the record of a slide, or make one with a free name.

        Args:
            source: identifies the slide.
            stem: the name it would like; when another slide has it, or might write a file of that
                name, a short hash of the source is added.
            suffixes: all that file names may add to a name.
        """
        while True:
            records = self.records()
            for record in records:
                if record.source == source:
                    return record
            taken = {f"{r.name}{s}".casefold() for r in records for s in ("", *suffixes)}
            wanted = {f"{stem}{suffix}".casefold() for suffix in ("", *suffixes)}
            short = hashlib.sha256(source.encode()).hexdigest()[:8]
            record = Record(f"{stem}-{short}" if wanted & taken else stem, source, {}, "new")
            if self._write_new(record):
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
        """Tell whether a slide is done with the same key and its files are there.

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
        return all((self.path / f"{record.name}{suffix}").exists() for suffix in suffixes)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a scratch folder on the same disk; what is left in it is removed."""
        folder = self._records_path / (
            f"staging-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        )
        with self.writing():
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, record: Record, staging: Path) -> None:
        """Move a slide's finished files from staging into place and record them.

        Killed at any moment, the folder holds whole files only, and the record either names all of
        them as finished or marks the slide as to be done again.
        """
        new = sorted(entry.name for entry in staging.iterdir())
        with self.writing():
            record.files = sorted({*record.files, *new})
            record.status = "publishing"
            self._write_record(record)
            for name in new:
                target = self.path / name
                if target.is_dir():  # a folder cannot be replaced in one step
                    os.replace(target, staging / f"{name}.old")
                os.replace(staging / name, target)
            record.status = "ok"
            self._write_record(record)
        self.write_table()

    def fail(self, record: Record, row: dict[str, Any]) -> None:
        """Record that a slide failed and why; a result that it had before stays finished."""
        record.status = "ok" if record.status == "ok" else "failed"
        record.row = row
        with self.writing():
            self._write_record(record)
        self.write_table()

    def write_table(self) -> None:
        """Write `predictions.csv` anew from all records, in one step."""
        rows = [record.row for record in self.records() if record.status in ("ok", "failed")]
        with self.writing():
            self._replace(self.path / TABLE, _table(rows, _FIRST, _LAST))

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
            self._replace(self.path / PATIENTS, _table(rows, _PATIENT_FIRST, _PATIENT_LAST))

    def _write_record(self, record: Record) -> None:
        self._replace(self._record_path(record), _as_json(record))

    def _write_new(self, record: Record) -> bool:
        """Write a first record whole; False when another process has just taken its name."""
        part = self._records_path / f"{record.name}.{uuid.uuid4().hex[:8]}.part"
        with self.writing():
            try:
                part.write_text(_as_json(record), encoding="utf-8")
                os.link(part, self._record_path(record))  # fails where the name exists
            except FileExistsError:
                return False
            except OSError:
                if self._record_path(record).exists():
                    return False
                os.replace(part, self._record_path(record))  # a file system without hard links
            finally:
                part.unlink(missing_ok=True)
        return True

    def _record_path(self, record: Record) -> Path:
        return self._records_path / f"{record.name}.json"

    def _replace(self, path: Path, text: str) -> None:
        part = self._records_path / f"{path.name}.{uuid.uuid4().hex[:8]}.part"
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _remove_dead_staging(self) -> None:
        """Remove what processes of this machine left behind when they were killed."""
        for folder in self._records_path.glob("staging-*"):
            host, _, pid = folder.name.removeprefix("staging-").rsplit("-", 1)[0].rpartition("-")
            if host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)

    def writing(self) -> AbstractContextManager[None]:
        """Turn errors of the file system into one line on the output folder."""
        return writing(self.path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into one line on an output folder.

    Raises:
        OutputError: instead of them.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{folder}: the output folder cannot be written ({reason}); "
            "check its rights and free space, or give another --output-path"
        ) from error


def failure(error: Exception, source: str) -> str:
    """One line on why a slide failed; where it happened goes to the log.

    Args:
        error: what was raised.
        source: names the slide, where the error does not.
    """
    if isinstance(error, TiacfError):
        _log.debug("%s failed", source, exc_info=error)  # for the command line's log file
        return str(error)
    _log.error("%s failed", source, exc_info=error)
    return f"{source}: unexpected {one_line(error)}; see the log"


def _as_json(record: Record) -> str:
    return json.dumps(asdict(record), indent=1)


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
    """One cell of the table: unknown is empty, truth is lower case, numbers have nine digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    return value
