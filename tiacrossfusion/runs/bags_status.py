"""Progress of the extraction into a folder of bags; only reads, also while an extraction runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tiacrossfusion.bags.files import bags_in
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.paths import size_on_disk
from tiacrossfusion.runs.bags_folder import BagsFolder
from tiacrossfusion.runs.processes import is_alive
from tiacrossfusion.runs.record import Record
from tiacrossfusion.slides.spec import SCALES


@dataclass
class BagsStatus:
    """What a folder of bags holds.

    Attributes:
        done: slides whose bag is in place.
        patches: number of patches in the bags that have a record.
        dropped: patches left out of the bags of damaged slides, by slide.
        size: bytes of the bags.
        unrecorded: bags without a record, copied from elsewhere for example.
        failed: why, by slide.
        being_made: name of the process, by slide.
        unfinished: slides that were begun and are not being worked on now.
        leftovers: files of dead processes, which the next run removes.
    """

    done: list[str] = field(default_factory=list)
    patches: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    size: int = 0
    unrecorded: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    being_made: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)


def bags_status(path: Path) -> BagsStatus:
    """Return what a folder of bags holds.

    Raises:
        TiacfError: there is no such folder, it cannot be read, or it holds no bags.
    """
    try:
        if not path.is_dir():
            raise UsageError(
                f"{path}: no such folder; give the folder that tiacf extract writes to"
            )
        bags = bags_in(path)
    except OSError as error:
        raise TiacfError(f"{path}: cannot be read ({error.strerror}); check its rights") from error
    folder = BagsFolder(path, make=False)
    records = folder.records()
    if not records and not bags:
        raise UsageError(f"{path}: holds no bags; give the folder that tiacf extract writes to")
    status = BagsStatus(leftovers=folder.leftovers())
    for record in records:
        _add(status, record, path)
    known = {file for record in records for file in record.files}
    status.unrecorded = [bag.name for bag in bags if bag.name not in known]
    status.size = sum(size_on_disk(bag) for bag in bags)
    return status


def _add(status: BagsStatus, record: Record, path: Path) -> None:
    name = Path(record.source).name
    if record.begun and is_alive(record.begun["by"]) is not False:
        status.being_made[name] = record.begun["by"]
    elif record.status == "failed":
        status.failed[name] = record.row["message"]
    elif record.status == "ok" and all((path / file).exists() for file in record.files):
        status.done.append(name)
        status.patches += sum(record.row[f"patches_{scale}"] for scale in SCALES)
        if dropped := sum(record.row[f"dropped_{scale}"] for scale in SCALES):
            status.dropped[name] = dropped
    else:
        status.unfinished.append(name)
