"""What is known of each slide in an output folder, in files that are either whole or not there.

Beside the files that users open, an output folder holds `.tiacf/`: one JSON record a slide (what it was
made from, the files it has and its row of the table), and while it is being made a scratch folder that
names its process. Records are the truth, tables are written from them. Several processes, also on
several machines with one file system, may work in a folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import psutil
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from tiacrossfusion.errors import TiacfError, first_fault
from tiacrossfusion.io.atomic import OutputError, writing

RECORDS = ".tiacf"

#: Processes that a slide may kill in one run before it is given up.
MAX_DEATHS = 3

#: A table is written anew at most this often (s) before the end, and for at most this share of the time.
_TABLE_INTERVAL, _TABLE_SHARE = 5.0, 0.05

#: Records are looked through at most this often (s), and for at most this share of the time.
_LOOK_INTERVAL, _LOOK_SHARE = 1.0, 0.05

#: Scratch of a process on another machine, whose life cannot be checked, is left alone this long (s).
_FOREIGN_AGE = 7 * 24 * 3600.0

_STAGING = "staging-"

#: A number of things in a record.
Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass
class Record:
    """What is known of one slide in an output folder.

    Attributes:
        name: name of the record, in most cases the stem of the slide's output files.
        source: path of the slide (or hash of an array).
        key: everything that decides the result, as strings; equal keys give equal results.
        status: "new", "ok", "failed", or "publishing" while files are being moved into place.
        files: names of the files in the output folder that belong to this slide.
        sizes: bytes of those files that are looked at to tell whether they are whole.
        row: the slide's row of the table.
        remark: what the last run has to say of a result that is there, beside its row.
        begun: while it is being made: "by" which process, in which "run", and how many processes
            "died" of it in that run; empty otherwise.
    """

    name: str
    source: str
    key: dict[str, str] = field(default_factory=dict)
    status: str = "new"
    files: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    begun: dict[str, Any] = field(default_factory=dict)


class _Begun(BaseModel):
    """What `Record.begun` holds while a slide is being made."""

    by: str
    run: str
    died: Count


_RECORD = TypeAdapter(Record)


class RecordFolder(ABC):
    """An output folder with its records, new or resumed.

    Args:
        path: the folder; other files in it are left alone.
        make: make the folder when it does not exist and sweep what dead processes left in it; False
            takes what is there, and writes nothing unless asked to.

    Raises:
        OutputError: it cannot be made or written, or holds a table of another program's.
    """

    #: Where the records lie, and the file name of the table that is written from them.
    records_in: str
    table: str

    #: What the rows of "ok" and of "failed" records hold, at least; a record with another is damaged.
    rows: ClassVar[Mapping[str, type[BaseModel]]]

    def __init__(self, path: Path, *, make: bool = True) -> None:
        """Open the folder."""
        self.path = Path(path)
        self.records_path = self.path / self.records_in
        self._cache: dict[str, tuple[tuple[int, ...], Record]] = {}
        # Names of records by what they are looked up by, names of files and records in lower case.
        self._sources: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._look_due = -float("inf")
        self._table_due = time.monotonic() + _TABLE_INTERVAL
        self.check_table()
        if make:
            with self.writing():
                self.records_path.mkdir(parents=True, exist_ok=True)
                probe = self.records_path / f"{_STAGING}{_process_name()}"
                probe.mkdir()
                probe.rmdir()
            self.sweep()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the path: another process opens it once and never makes it."""
        return _reopened, (type(self), self.path)

    @abstractmethod
    def check_table(self) -> None:
        """Refuse a folder with a table that is not this program's.

        Raises:
            OutputError: there is one.
        """

    @abstractmethod
    def table_text(self, records: list[Record]) -> str:
        """Write the table of records that are "ok" or "failed", of which there is at least one."""

    # --- records -------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """All records, by name; of those read before only the changed ones are read again.

        Raises:
            OutputError: one is damaged.
        """
        started = time.monotonic()
        found: dict[str, tuple[tuple[int, ...], Record]] = {}
        for name, stamp in self._stamps().items():
            known = self._cache.get(name)
            if known is not None and known[0] == stamp:
                found[name] = known
            elif (record := self._read(name)) is not None:
                found[name] = (stamp, record)
        self._cache, self._sources, self._names, self._files = found, {}, {}, {}
        for _, record in found.values():
            self._index(record)
        ended = time.monotonic()  # a look at 10,000 records takes 0.5 s
        self._look_due = ended + max(_LOOK_INTERVAL, (ended - started) / _LOOK_SHARE)
        return [found[name][1] for name in sorted(found)]

    def find(self, source: str) -> Record | None:
        """Find the record of a slide."""
        self._refresh()
        name = self._sources.get(source)
        record = None if name is None else self._read(name)
        if record is not None and record.source == source:
            return record
        if name is not None:  # another process has removed it, or given its name away
            self.records()
        return None

    def owner(self, file: str) -> Record | None:
        """The record that a file belongs to, upper and lower case apart, as of a moment ago."""
        self._refresh()
        name = self._files.get(file.casefold())
        return None if name is None else self._cache[name][1]

    def named(self, name: str) -> Record | None:
        """The record of a name, upper and lower case apart, as of a moment ago."""
        self._refresh()
        own = self._names.get(name.casefold())
        return None if own is None else self._cache[own][1]

    def add(self, record: Record) -> bool:
        """Write a first record; False when its name is taken, by another process perhaps."""
        part = self._part()
        path = self._record_path(record.name)
        with self.writing():
            try:
                part.write_text(_as_json(record), encoding="utf-8")
                os.link(part, path)  # fails where the name exists
            except FileExistsError:
                self._look_due = -float("inf")
                return False
            except OSError:
                if path.exists():
                    self._look_due = -float("inf")
                    return False
                os.replace(part, path)  # a file system without hard links
            finally:
                part.unlink(missing_ok=True)
        self._remember(record)
        return True

    def write(self, record: Record) -> None:
        """Write a record in place of its earlier state, in one step."""
        with self.writing():
            self.replace_text(self._record_path(record.name), _as_json(record))
        self._remember(record)

    def remove(self, record: Record) -> None:
        """Forget a slide, whose files another record has taken over."""
        with self.writing():
            self._record_path(record.name).unlink(missing_ok=True)
        self._look_due = -float("inf")

    # --- making a slide's files ----------------------------------------------------------------

    @contextmanager
    def making(self, record: Record, run: str) -> Iterator[Path]:
        """Mark a slide as being made, and give a scratch folder on the same disk.

        The mark and the scratch go when the slide is done, whatever comes of it. A process that is
        killed leaves them, which is how the next one that takes up the slide in the same run knows.

        Args:
            record: of the slide.
            run: names the run; a run that is resumed has another name.

        Raises:
            TiacfError: the slide has killed too many processes of this run.
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
        staging = self.records_path / f"{_STAGING}{_process_name()}"
        try:
            with self.writing():
                staging.mkdir()
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            record.begun = {}
            current = self._read(record.name)
            if current is not None and current.begun.get("by") == here:
                self.write(replace(current, begun={}))

    @contextmanager
    def run_mark(self) -> Iterator[Path]:
        """Give a file that is there as long as a run goes on, for its workers to see."""
        mark = self.records_path / f"{_STAGING}{_process_name()}.run"
        with self.writing():
            mark.touch()
        try:
            yield mark
        finally:
            mark.unlink(missing_ok=True)

    def publish(self, record: Record, staging: Path) -> None:
        """Move a slide's finished files from staging into place and record them.

        Killed at any moment, the folder holds whole files only, and the record either names all of
        them as finished or marks the slide as to be done again.
        """
        new = sorted(entry.name for entry in staging.iterdir())
        with self.writing():
            record.files = sorted({*record.files, *new})
            record.status = "publishing"
            self.write(record)
            for name in new:
                _move(staging / name, self.path / name)
        self.finish(record)

    def finish(self, record: Record) -> None:
        """Record that a slide's files are in place."""
        record.status, record.begun = "ok", {}
        self.write(record)

    def fail(self, record: Record, row: dict[str, Any]) -> None:
        """Record that a slide failed and why."""
        record.status, record.row, record.remark, record.begun = "failed", row, "", {}
        self.write(record)

    # --- the table -----------------------------------------------------------------------------

    def write_table(self) -> None:
        """Write the table anew from all records, in one step.

        It is written until it says what the folder holds, so that of several processes that end at
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

    def write_table_now_and_then(self) -> None:
        """Write the table unless that has been done a moment ago."""
        if time.monotonic() >= self._table_due:
            self.write_table()

    # --- files ---------------------------------------------------------------------------------

    def replace_text(self, path: Path, text: str) -> None:
        """Write a text file in one step."""
        part = self._part()
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """What dead processes have left: scratch folders and unfinished files."""
        try:
            with os.scandir(self.records_path) as entries:
                return [
                    Path(e) for e in entries if e.name.startswith(_STAGING) and _is_dead(Path(e))
                ]
        except OSError:
            return []

    def sweep(self) -> None:
        """Remove what dead processes have left."""
        for path in self.leftovers():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def writing(self) -> AbstractContextManager[None]:
        """Turn errors of the file system into one line on the output folder."""
        return writing(self.path)

    def _refresh(self) -> None:
        if time.monotonic() >= self._look_due:
            self.records()

    def _remember(self, record: Record) -> None:
        """Know a record that this process has written without a look at the folder."""
        self._cache[record.name] = ((), replace(record))
        self._index(record)

    def _index(self, record: Record) -> None:
        self._sources[record.source] = record.name
        self._names[record.name.casefold()] = record.name
        self._files |= {file.casefold(): record.name for file in record.files}

    def _stamps(self) -> dict[str, tuple[int, ...]]:
        """State of each record's file: a replaced one has another inode, time or size."""
        stamps: dict[str, tuple[int, ...]] = {}
        try:
            with os.scandir(self.records_path) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith(_STAGING):
                        try:
                            stat = entry.stat()
                        except FileNotFoundError:
                            continue  # removed by another process at this moment
                        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                        stamps[entry.name.removesuffix(".json")] = stamp
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise OutputError(
                f"{self.records_path}: cannot be read ({error.strerror}); check its rights"
            ) from error
        return stamps

    def _read(self, name: str) -> Record | None:
        """Read a record; None when it has been removed."""
        path = self._record_path(name)
        try:
            # What a later version adds is left out; what it wrote is still known.
            record = _RECORD.validate_json(path.read_bytes(), strict=True)
            if record.name != name:
                raise ValueError("name: is that of another record")
            if record.begun:
                _Begun.model_validate(record.begun, strict=True)
            if record.status in self.rows:
                self.rows[record.status].model_validate(record.row, strict=True)
            return record
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path}: this record is damaged ({_reason(error)}); remove it and the slide's "
                "results to have them made again"
            ) from error

    def _record_path(self, name: str) -> Path:
        return self.records_path / f"{name}.json"

    def _part(self) -> Path:
        # Without the slide's name: file systems allow 255 bytes.
        return self.records_path / f"{_STAGING}{_process_name()}.part"


def process_here() -> str:
    """Name of this process, the same on every call: machine and process id."""
    return f"{socket.gethostname()}-{os.getpid()}"


def is_alive(process: str) -> bool | None:
    """Whether the process of a name lives; None for one on another machine, which cannot be seen."""
    host, _, pid = process.rpartition("-")
    if host != socket.gethostname() or not pid.isdecimal():
        return None
    try:
        return bool(psutil.pid_exists(int(pid)))
    except (OverflowError, ValueError):  # more digits than a process id has
        return False


def names_for(stem: str, source: str) -> Iterator[str]:
    """Names for a record whose stem another has: with more and more of a hash of its source."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    for length in (8, 24):  # a slide may be called what another is called for its hash
        yield f"{stem}-{digest[:length]}"


def _process_name() -> str:
    """A name that no other file has and that tells whose it is."""
    return f"{process_here()}-{uuid.uuid4().hex[:8]}"


def _is_dead(path: Path) -> bool:
    alive = is_alive(path.name.removeprefix(_STAGING).rsplit("-", 1)[0])
    if alive is not None:
        return not alive
    try:
        return time.time() - path.stat().st_mtime > _FOREIGN_AGE
    except OSError:
        return False  # gone meanwhile


def _move(source: Path, target: Path) -> None:
    """Move a file or folder over an older one, also where another process does so just now."""
    while True:
        if target.is_dir():  # a folder cannot be replaced in one step
            os.replace(target, source.with_name(f"{source.name}.{uuid.uuid4().hex[:8]}.old"))
        try:
            os.replace(source, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return


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


def _reason(error: OSError | ValueError) -> str:
    """What is wrong with a record, in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    return ": ".join(first_fault(error))


def _as_json(record: Record) -> str:
    return json.dumps(asdict(record), indent=1)
