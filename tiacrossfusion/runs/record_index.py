"""The records of an output folder: read once, found by slide, name or file, and written in one step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from tiacrossfusion.io.atomic import OutputError, replacing, writing
from tiacrossfusion.io.paths import is_there
from tiacrossfusion.runs.processes import unique_name
from tiacrossfusion.runs.record import Record, read_record

#: Records are read again at most this often (s), and for at most this share of the time.
_LOOK_INTERVAL, _LOOK_SHARE = 1.0, 0.05

#: Beginning of the names of staging folders and unfinished files.
STAGING = "staging-"


class RecordIndex:
    """The records in an output folder.

    Args:
        path: the output folder.
    """

    #: Where the records lie in it.
    records_in: str

    #: What the rows of "ok" and of "failed" records hold, at least; others are damaged.
    rows: ClassVar[Mapping[str, type[BaseModel]]]

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self.path = path
        self.records_path = self.path / self.records_in
        self._cache: dict[str, tuple[tuple[int, ...], Record]] = {}
        # Names of records by what they are looked up by, names of files and records in lower case.
        self._sources: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._look_due = -float("inf")

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

    def claim(self, source: str, names: Sequence[str], content: Callable[[], str]) -> Record:
        """Find the record of a slide, or add one with the first name that is free.

        A slide that was moved keeps its record: one of the same file name and content, where nothing lies any
        more.

        Args:
            source: identifies the slide.
            names: for a new record.
            content: returns what identifies the slide's file, as the part "slide file" of the cache key;
                empty if nothing does.

        Raises:
            OutputError: it cannot be written.
        """
        while True:
            if (record := self.find(source)) is not None:
                return record
            if (moved := self._moved(source, content)) is not None:
                return moved
            record = self.new_record(source, names)
            if self.add(record):
                return record

    def _moved(self, source: str, content: Callable[[], str]) -> Record | None:
        """Find the record of a slide that lay elsewhere, and write where it lies now."""
        name = Path(source).name
        # The records as of a moment ago: to read them again for each new slide would take hours.
        for _, known in list(self._cache.values()):
            before = Path(known.source)
            if before.name != name or is_there(before):
                continue
            held, record = content(), self._read(known.name)
            if record is None or not held or record.key.get("slide file") != held:
                continue
            row = record.row | {"path": source} if "path" in record.row else record.row
            record = replace(record, source=source, row=row)
            self.write(record)
            return record
        return None

    def new_record(self, source: str, names: Sequence[str]) -> Record:
        """Return a record with a free name, not yet written."""
        return Record(next(filter(self.is_free, names)), source)

    def is_free(self, name: str) -> bool:
        """Return whether a record may be called this."""
        return self.named(name) is None

    def add(self, record: Record) -> bool:
        """Write a first record; False when its name is taken, by another process perhaps."""
        part, path = self._part(), self._record_path(record.name)
        with self.writing():
            try:
                part.write_text(record.as_json(), encoding="utf-8")
                os.link(part, path)  # fails where the name exists
            except OSError as error:
                if isinstance(error, FileExistsError) or path.exists():
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
            self.replace_text(self._record_path(record.name), record.as_json())
        self._remember(record)

    def remove(self, record: Record) -> None:
        """Remove the record of a slide whose files another record has taken over."""
        with self.writing():
            self._record_path(record.name).unlink(missing_ok=True)
        self._look_due = -float("inf")

    def replace_text(self, path: Path, text: str) -> None:
        """Write a text file in one step."""
        with replacing(path, self._part()) as part:
            part.write_text(text, encoding="utf-8")

    def writing(self) -> AbstractContextManager[None]:
        """Turn errors of the file system into one line on the output folder."""
        return writing(self.path)

    def _refresh(self) -> None:
        if time.monotonic() >= self._look_due:
            self.records()

    def _remember(self, record: Record) -> None:
        """Cache a record that this process has written."""
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
                    if entry.name.endswith(".json") and not entry.name.startswith(STAGING):
                        with suppress(FileNotFoundError):  # removed by another process just now
                            stat = entry.stat()
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
        return read_record(self._record_path(name), self.rows)

    def _record_path(self, name: str) -> Path:
        return self.records_path / f"{name}.json"

    def _part(self) -> Path:
        # Without the slide's name: file systems allow 255 bytes.
        return self.records_path / f"{STAGING}{unique_name()}.part"
