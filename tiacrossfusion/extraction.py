"""Many slides to bags on disk: each on its own, so that a bad one costs nothing but itself.

Beside the bags the folder holds `extraction.csv`, a row a slide. A bag is finished when its own
provenance says that it would be made the same again; only bags that the table names as made from a
slide are ever replaced by another bag of that slide.
"""

from __future__ import annotations

import csv
import gc
import io
import os
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.checks import at_least, positive
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.features import FeatureBag, Provenance
from tiacrossfusion.pipeline import bag_provenance, extract_bag, load_readers
from tiacrossfusion.progress import Progress
from tiacrossfusion.results import OutputError, failure, writing
from tiacrossfusion.sampling import SCALES, SamplingSpec, coarse_base, find_mask, open_slide

if TYPE_CHECKING:
    from tiacrossfusion.encoders import Encoder

TABLE = "extraction.csv"

_COLUMNS = (
    "slide",
    "bag",
    *(f"patches_{scale}" for scale in SCALES),
    "status",
    "message",
    "seconds",
    "path",
)

Row = dict[str, Any]


@dataclass(frozen=True)
class ExtractionOutcome:
    """What became of one slide.

    Attributes:
        slide: path of the slide as given.
        status: "ok", "skipped" (finished before) or "failed".
        message: why it failed, why an earlier bag was replaced, or what speaks against the slide;
            empty otherwise.
        bag: its bag; None when it failed.
        row: the slide's row of `extraction.csv`.
    """

    slide: Path
    status: str
    message: str
    bag: Path | None
    row: Row


def extract_slides(
    slides: Sequence[str | Path],
    folder: str | Path,
    encoder: Encoder,
    *,
    sampling: SamplingSpec | None = None,
    masks: Sequence[str | Path | np.ndarray | None] | None = None,
    mpp: float | None = None,
    power: float | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    overwrite: bool = False,
    show_progress: bool = True,
) -> list[ExtractionOutcome]:
    """Make feature bags of slides, one store `<stem>.zarr` each.

    Two slides of one stem get `<file name>.zarr`. A bag that is there is left as it is while slide,
    scale, mask, sampling and encoder are those that it was made with, and made again when one of them
    has changed. A slide that fails is recorded with its reason and the rest go on.

    Args:
        slides: paths of slides.
        folder: where bags and `extraction.csv` go; made when it does not exist.
        encoder: turns patches into features.
        sampling: how patches are laid and kept; None for the defaults.
        masks: one for each slide: an image or GeoJSON file, a folder to look in, an array, or None.
        mpp: microns per level-0 pixel for all slides, over what the files say.
        power: objective power of level 0 for all slides, over what the files say.
        batch_size: patches in a batch.
        num_workers: reading threads.
        overwrite: make finished bags again.
        show_progress: draw bars and print a line for each slide.

    Returns:
        What became of each slide, in order.

    Raises:
        TiacfError: an option makes no sense.
        OutputError: the folder cannot be written.
    """
    at_least("batch_size", batch_size, 1)
    at_least("num_workers", num_workers, 0)
    positive("mpp", mpp)
    positive("power", power)
    paths = [Path(slide) for slide in slides]
    target = _BagsFolder(Path(folder), paths)
    extraction = _Extraction(
        target,
        encoder,
        sampling or SamplingSpec(),
        mpp=mpp,
        power=power,
        batch_size=batch_size,
        num_workers=num_workers,
        overwrite=overwrite,
    )
    outcomes = []
    with Progress(len(paths), show=show_progress) as progress:
        for index, slide in enumerate(paths):
            mask = masks[index] if masks is not None else None
            outcome = extraction.run(slide, mask, progress)
            target.write(outcome.row)
            outcomes.append(outcome)
            progress.slide_done(_line(outcome) if show_progress else None)
            if outcome.status != "skipped":
                gc.collect()  # readers hold file handles and caches in cycles
    return outcomes


class _BagsFolder:
    """A folder of bags with its table, new or resumed.

    Args:
        path: the folder; made when it does not exist. Other files in it are left alone.
        slides: those of this run, which share out the names of bags.
    """

    def __init__(self, path: Path, slides: Sequence[Path]) -> None:
        self.path = path
        self._stems = Counter(_stem(slide).casefold() for slide in slides)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        self._read()

    def place(self, slide: Path) -> tuple[Path, bool]:
        """Where the bag of a slide is or goes, and whether the table says that it is there.

        A bag is named by the stem of its slide, unless another slide has that name.
        """
        rows = self._read()
        row = rows.get(_source(slide))
        if row is not None and row["bag"]:
            return self.path / row["bag"], True
        stem = _stem(slide)
        taken = {
            other["bag"].casefold()
            for other in rows.values()
            if other["slide"] != slide.name  # one of the same name may be this slide, moved
        }
        if self._stems[stem.casefold()] > 1 or f"{stem}.zarr".casefold() in taken:
            return self.path / f"{slide.name}.zarr", False
        return self.path / f"{stem}.zarr", False

    def write(self, row: Row) -> None:
        """Put a row into the table, in one step, in place of what it says of this slide or bag."""
        rows = self._read()  # another process may have added to it
        before = rows.get(row["path"])
        if row["status"] == "ok" and not row["seconds"] and before is not None:
            row["seconds"] = before["seconds"]  # of when the bag was made
        rows = {
            source: other
            for source, other in rows.items()
            if not row["bag"] or other["bag"] != row["bag"]
        } | {row["path"]: row}
        text = io.StringIO()
        table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows[source] for source in sorted(rows))
        part = self.path / f".{TABLE}.{uuid.uuid4().hex[:8]}.part"
        with writing(self.path):
            try:
                part.write_text(text.getvalue(), encoding="utf-8")
                os.replace(part, self.path / TABLE)
            finally:
                part.unlink(missing_ok=True)

    def _read(self) -> dict[str, Row]:
        """Rows by the path of the slide."""
        path = self.path / TABLE
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
                known = tuple(reader.fieldnames or ()) == _COLUMNS
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, csv.Error):
            known = False
        if not known:
            raise OutputError(
                f"{path}: exists and was not written by tiacf extract; move it away or give another "
                "--output-path"
            )
        return {row["path"]: row for row in rows}


@dataclass(frozen=True)
class _Extraction:
    """How the slides of a run are read, and where their bags go."""

    folder: _BagsFolder
    encoder: Encoder
    sampling: SamplingSpec
    mpp: float | None
    power: float | None
    batch_size: int
    num_workers: int
    overwrite: bool

    def run(
        self, slide: Path, mask: str | Path | np.ndarray | None, progress: Progress
    ) -> ExtractionOutcome:
        """Extract a slide unless its bag is finished."""
        path, ours = self.folder.place(slide)
        row: Row = dict.fromkeys(_COLUMNS, "")
        row |= {"slide": slide.name, "path": _source(slide)}
        try:
            if isinstance(mask, str | Path):
                mask = find_mask(Path(mask), slide)
            load_readers()
            started = time.perf_counter()
            progress.stage(slide.name, "open")
            with open_slide(slide, mpp=self.mpp, power=self.power) as opened:
                wanted = bag_provenance(opened, self.sampling, self.encoder.spec, mask)
                notes = [opened.caveat, coarse_base(opened, self.sampling)]
                bag = _stored(path)
                changed = [] if bag is None else _differences(bag.provenance, wanted)
                skipped = bag is not None and not changed and not self.overwrite
                if bag is None or not skipped:
                    if path.exists() and not ours and (bag is None or changed):
                        raise TiacfError(
                            f"{path}: exists and was not extracted from {slide}; move it away or give "
                            "another --output-path"
                        )
                    if changed:
                        notes.append(f"made again, since {' and '.join(changed)} changed")
                    bag = extract_bag(
                        opened,
                        self.sampling,
                        self.encoder,
                        mask=mask,
                        batch_size=self.batch_size,
                        num_workers=self.num_workers,
                        progress=progress,
                    )
                    progress.stage(slide.name, "write")
                    with writing(self.folder.path):
                        bag.save(path)
                    row["seconds"] = round(time.perf_counter() - started, 2)
        except OutputError:
            raise
        except Exception as error:  # the other slides go on: it is recorded, the trace logged
            message = failure(error, str(slide))
            row |= {"status": "failed", "message": message}
            if ours and path.exists():
                row["bag"] = path.name
                row["message"] += "; the bag of an earlier extraction is still there"
            return ExtractionOutcome(slide, "failed", message, None, row)
        message = "; ".join(filter(None, notes))
        row |= {f"patches_{scale}": count for scale, count in bag.counts().items()}
        row |= {"bag": path.name, "status": "ok", "message": message}
        return ExtractionOutcome(slide, "skipped" if skipped else "ok", message, path, row)


def _source(slide: Path) -> str:
    return str(slide.absolute())


def _stem(slide: Path) -> str:
    return slide.name if slide.is_dir() else slide.stem


def _stored(path: Path) -> FeatureBag | None:
    """The bag at a path; None when there is none, or what there is cannot be read as one."""
    if not path.exists():
        return None
    try:
        return FeatureBag.load(path)
    except TiacfError:
        return None


def _differences(stored: Provenance, wanted: Provenance) -> list[str]:
    """What a bag would be made with now that it was not made with, versions of the packages apart."""
    kinds = {
        "slide file": ("slide", "slide_size", "slide_mtime_ns", "dimensions", "offset"),
        "scale": ("mpp", "power"),
        "mask": ("mask",),
        "sampling": ("sampling",),
        "encoder": ("encoder",),
    }
    return [
        kind
        for kind, fields in kinds.items()
        if any(getattr(stored, field) != getattr(wanted, field) for field in fields)
    ]


def _line(outcome: ExtractionOutcome) -> str:
    """The console's line on a slide."""
    if outcome.status == "failed":
        return f"FAILED  {outcome.message}"
    row = outcome.row
    words = [f"{sum(row[f'patches_{scale}'] for scale in SCALES)} patches"]
    words.append(
        "finished before, skipped" if outcome.status == "skipped" else f"{row['seconds']} s"
    )
    if outcome.message:
        words.append(f"note: {outcome.message}")
    return f"ok      {outcome.slide.name}: {', '.join(words)}"
