"""An output folder with one record a slide; several processes may work in it.

Beside the files that users open, an output folder holds `.tiacf/`: one JSON record a slide (what it was
made from, the files it has and its row of the table), and a staging folder for each slide that is being
worked on, named after its process. The records are authoritative, tables are written from them. The
processes may run on several machines that share a file system.
"""

from __future__ import annotations

import csv
import io
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import OutputError, move, remove
from tiacrossfusion.io.paths import size_on_disk
from tiacrossfusion.runs.processes import is_alive, process_here, unique_name
from tiacrossfusion.runs.record import Record
from tiacrossfusion.runs.record_index import STAGING, RecordIndex

RECORDS = ".tiacf"

#: Give up on a slide after it has crashed this many workers in one run.
MAX_DEATHS = 3

#: During a run, the table is written at most this often (s), and for at most this share of the time.
_TABLE_INTERVAL, _TABLE_SHARE = 5.0, 0.05

#: Staging of a process on another machine, which may be alive, is left alone this long (s).
_FOREIGN_AGE = 7 * 24 * 3600.0


class RecordFolder(RecordIndex, ABC):
    """An output folder with its records, new or resumed.

    Args:
        path: the folder; other files in it are left alone.
        make: make the folder when it does not exist and remove what dead processes left in it; False
            only reads.

    Raises:
        OutputError: it cannot be made or written, or holds a table of another program's.
    """

    #: File name of the table that is written from the records.
    table: str

    def __init__(self, path: Path, *, make: bool = True) -> None:
        """Open the folder."""
        super().__init__(Path(path))
        self._table_due = time.monotonic() + _TABLE_INTERVAL
        self.check_table()
        if make:
            with self.writing():
                self.records_path.mkdir(parents=True, exist_ok=True)
                probe = self.records_path / f"{STAGING}{unique_name()}"
                probe.mkdir()
                probe.rmdir()
            self.sweep()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the path: another process opens the folder once and never makes it."""
        return _reopened, (type(self), self.path)

    @abstractmethod
    def check_table(self) -> None:
        """Raise an `OutputError` for a table in the folder that is not this program's."""

    @abstractmethod
    def table_text(self, records: list[Record]) -> str:
        """Write the table of records that are "ok" or "failed", of which there is at least one."""

    # --- results ---------------------------------------------------------------------------------

    def changed(self, record: Record, key: Mapping[str, str]) -> list[str]:
        """Return the parts of the cache key in which a result that is in place differs from a key."""
        return [name for name in key if record.key.get(name) != key[name]]

    def finished(self, record: Record, key: Mapping[str, str], files: Sequence[str]) -> bool:
        """Return whether a result was made with this cache key and its files are in place and whole."""
        return (
            record.status == "ok"
            and not self.changed(record, key)
            and all((self.path / file).exists() for file in files)
            and not self.cut(record, files)
        )

    def cut(self, record: Record, files: Sequence[str]) -> list[str]:
        """Return those of a slide's files that are smaller than they were written.

        A file that was cut or emptied is smaller. Larger ones are left as they are: users add to them,
        and viewers write into annotation stores.
        """
        return [
            file
            for file in files
            if (self.path / file).exists()
            and size_on_disk(self.path / file) < record.sizes.get(file, 0)
        ]

    @contextmanager
    def making(self, record: Record, run: str) -> Iterator[Path]:
        """Record that a slide is being worked on, and give a staging folder on the same disk.

        Both are undone at the end, also after an error. A process that is killed leaves them: the next
        one that takes up the slide in the same run counts it.

        Raises:
            TiacfError: the slide has crashed too many workers of this run.
        """
        before, here = record.begun, process_here()
        died = before["died"] + 1 if before.get("run") == run and before["by"] != here else 0
        if died >= MAX_DEATHS:
            record.begun = {}
            raise TiacfError(
                f"{record.source}: {died} worker processes died while this slide was on them, for want "
                "of memory perhaps; give the workers more, or leave the slide out"
            )
        record.begun = {"by": here, "run": run, "died": died}
        self.write(record)
        staging = self.records_path / f"{STAGING}{unique_name()}"
        try:
            with self.writing():
                staging.mkdir()
            yield staging
        finally:
            remove(staging)
            record.begun = {}
            current = self._read(record.name)
            if current is not None and current.begun.get("by") == here:
                self.write(replace(current, begun={}))

    @contextmanager
    def run_lock(self) -> Iterator[Path]:
        """Give a file that exists as long as a run goes on; its workers stop when it is gone."""
        lock = self.records_path / f"{STAGING}{unique_name()}.run"
        with self.writing():
            lock.touch()
        try:
            yield lock
        finally:
            lock.unlink(missing_ok=True)

    def publish(self, record: Record, staging: Path) -> None:
        """Move a slide's finished files from staging into place and record them.

        Killed at any moment, the folder holds whole files only, and the record either names all of
        them as finished or says that the slide is to be made again.
        """
        new = sorted(entry.name for entry in staging.iterdir())
        with self.writing():
            record.sizes = record.sizes | {n: size_on_disk(staging / n) for n in new}
            record.files = sorted({*record.files, *new})
            record.status = "publishing"
            self.write(record)
            for name in new:
                move(staging / name, self.path / name)
        self.finish(record)

    def finish(self, record: Record) -> None:
        """Record that a slide's files are in place."""
        record.status, record.begun = "ok", {}
        self.write(record)

    def fail(self, record: Record, key: dict[str, str], row: dict[str, Any]) -> None:
        """Record that a slide failed; the row has the reason in its message."""
        record.status, record.key, record.row = "failed", key, row
        record.remark, record.begun = "", {}
        self.write(record)

    def remark(self, record: Record, remark: str) -> None:
        """Record a note of this run on a result that stays as it is; "" removes an earlier note."""
        if record.remark != remark:
            record.remark = remark
            self.write(record)

    # --- the table -----------------------------------------------------------------------------

    def write_table(self) -> None:
        """Write the table from all records, in one step.

        It is written again when records changed meanwhile, so that of several processes that end at
        once the last one to write has seen the records of all.
        """
        started = time.monotonic()
        while True:
            records = self.records()
            stamps = {name: stamp for name, (stamp, _) in self._cache.items()}
            rows = [record for record in records if record.status in ("ok", "failed")]
            if not rows and not (self.path / self.table).exists():
                break
            with self.writing():
                self.replace_text(self.path / self.table, self.table_text(rows))
            if self._stamps() == stamps:
                break
        ended = time.monotonic()
        self._table_due = ended + max(_TABLE_INTERVAL, (ended - started) / _TABLE_SHARE)

    def write_table_if_due(self) -> None:
        """Write the table unless it was written a moment ago."""
        if time.monotonic() >= self._table_due:
            self.write_table()

    # --- files ---------------------------------------------------------------------------------

    def leftovers(self) -> list[Path]:
        """Return what dead processes have left: staging folders and unfinished files."""
        try:
            with os.scandir(self.records_path) as entries:
                return [
                    Path(e) for e in entries if e.name.startswith(STAGING) and _is_dead(Path(e))
                ]
        except OSError:
            return []

    def sweep(self) -> None:
        """Remove what dead processes have left."""
        for path in self.leftovers():
            remove(path)


def table_by_path(records: Sequence[Record], columns: Sequence[str]) -> str:
    """Return the rows of records as CSV, by path, with some of their columns."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, "", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    rows = (record.table_row() for record in records)
    table.writerows(sorted(rows, key=lambda row: row["path"]))
    return text.getvalue()


def _is_dead(path: Path) -> bool:
    alive = is_alive(path.name.removeprefix(STAGING).rsplit("-", 1)[0])
    if alive is not None:
        return not alive
    try:
        return time.time() - path.stat().st_mtime > _FOREIGN_AGE
    except OSError:
        return False  # gone meanwhile


@cache
def _reopened(kind: type[RecordFolder], path: Path) -> RecordFolder:
    """Open a folder that another process has made."""
    folder = kind(path, make=False)
    if not folder.records_path.is_dir():
        raise OutputError(
            f"{path}: this output folder is not there on {socket.gethostname()}; the workers need the "
            "folder under the same path, on a shared file system"
        )
    return folder
