"""The record of one slide in an output folder, a JSON file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from tiacrossfusion.errors import first_fault
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.paths import is_folder, is_there, stem_for
from tiacrossfusion.text import written

#: A number of things in a record.
Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass
class Record:
    """What is known of one slide in an output folder.

    Attributes:
        name: name of the record, in most cases the stem of the slide's output files.
        source: path of the slide (or hash of an array).
        key: cache key: everything that decides the result, as strings; equal keys give equal results.
        status: "new", "ok", "failed", or "publishing" while files are being moved into place.
        files: names of the files in the output folder that belong to this slide.
        sizes: bytes of those files when they were written.
        row: the slide's row of the table.
        remark: a note of the last run on a result that is in place, beside its row.
        begun: while the slide is being worked on: "by" which process, in which "run", and how many
            processes "died" while working on it in that run; empty otherwise.
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

    def table_row(self) -> dict[str, Any]:
        """Return the slide's row of the table, with the remark in its message."""
        message = "; ".join(filter(None, [self.remark, self.row["message"]]))
        return self.row | {"message": message}

    def as_json(self) -> str:
        """Return the text of the record's file."""
        return json.dumps(asdict(self), indent=1)


class _Begun(BaseModel):
    """What `Record.begun` holds while a slide is being worked on."""

    by: str
    run: str
    died: Count


_RECORD = TypeAdapter(Record)


def read_record(path: Path, rows: Mapping[str, type[BaseModel]]) -> Record | None:
    """Read a record; None when it has been removed.

    Args:
        path: its file.
        rows: by status, what its row holds at least.

    Raises:
        OutputError: it is damaged or cannot be read.
    """
    try:
        # Fields that a later version adds are ignored.
        record = _RECORD.validate_json(path.read_bytes(), strict=True)
        if record.name != path.name.removesuffix(".json"):
            raise ValueError("name: is that of another record")
        if record.begun:
            _Begun.model_validate(record.begun, strict=True)
        if record.status in rows:
            rows[record.status].model_validate(record.row, strict=True)
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = ": ".join(first_fault(error)) if isinstance(error, ValidationError) else error
        raise OutputError(
            f"{path}: this record is damaged ({reason}); remove it and the slide's "
            "results to have them made again"
        ) from error


def source_of(path: Path) -> str:
    """Return what identifies a slide or bag: its path without links and dots, the same by any way to it."""
    return written(os.path.realpath(path) if is_there(path) else str(path.absolute()))


def stem_of(slide: Path) -> str:
    """Return the stem that the files of a slide are named by."""
    return stem_for(slide.name if is_folder(slide) else slide.stem)


def names_for(stem: str, source: str) -> Iterator[str]:
    """Names for a record whose stem is taken: the stem with part of a hash of its source."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    for length in (8, 24):  # a slide may be called what another is called for its hash
        yield f"{stem}-{digest[:length]}"
