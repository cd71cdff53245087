"""Many slides to bags on disk: each on its own, so that a bad one costs nothing but itself.

A bag is finished when its record, or failing that its own provenance, says that it would be made the
same again; only bags that a record names as made from a slide are ever replaced by another bag of that
slide.
"""

from __future__ import annotations

import gc
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, Provenance
from tiacrossfusion.bags.caveats import bag_caveats
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.inference.extraction import (
    bag_provenance,
    extract_bag,
    mask_identity,
    no_tissue,
    tissue_grids,
)
from tiacrossfusion.inference.slide import load_readers
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.paths import is_there, size_on_disk, stem_for
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.io.text import written
from tiacrossfusion.runs.bags_folder import COLUMNS, BagsFolder, source_of, stem_of
from tiacrossfusion.runs.jobs import Job, SlideOptions, ToolNames, Tools, carry_out, failure
from tiacrossfusion.runs.records import Record
from tiacrossfusion.slides.files import slide_identity
from tiacrossfusion.slides.slide import Slide, open_slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.slides.tissue import find_mask

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.runs.cluster import Cluster

Mask = str | Path | np.ndarray
Row = dict[str, Any]

#: Of a patch in a bag, beside its features: bounds and place on the grid, compressed.
_PLACE_BYTES = 6


@dataclass(frozen=True)
class ExtractionOutcome:
    """What became of one slide.

    Attributes:
        slide: path of the slide as given.
        status: "ok", "skipped" (finished before) or "failed", now or before.
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


@dataclass(frozen=True)
class ExtractionPlan:
    """What a run would do with one slide.

    Attributes:
        slide: path of the slide as given.
        status: "extract", "skip" (finished before) or "fail".
        message: why it would be made again or fail, or what speaks against it; empty otherwise.
        patches: number of patches per scale; empty where it would fail.
        size: bytes on disk that its bag will take, about, or takes.
    """

    slide: Path
    status: str
    message: str
    patches: dict[str, int] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True)
class ExtractionOptions(SlideOptions):
    """How the slides of a run are read, and which are made again.

    Attributes:
        sampling: how patches are laid and kept.
        retry_failed: try again what failed before in the same way.
    """

    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    retry_failed: bool = False


def extract_slides(
    slides: Sequence[str | Path],
    folder: str | Path,
    encoder: Encoder | ToolNames,
    options: ExtractionOptions | None = None,
    *,
    masks: Sequence[Mask | None] | None = None,
    shard: tuple[int, int] = (1, 1),
    cluster: Cluster | None = None,
    show_progress: bool = True,
) -> list[ExtractionOutcome]:
    """Make feature bags of slides, one store `<stem>.zarr` each.

    Two slides of one stem get `<file name>.zarr`. A bag that is there is left as it is while slide,
    scale, mask, sampling and encoder are those that it was made with, and made again when one of them
    has changed. A slide that fails is recorded with its reason and the rest go on; it is not tried
    again in the same way unless that is asked for.

    Args:
        slides: paths of slides.
        folder: where bags and `extraction.csv` go; made when it does not exist.
        encoder: turns patches into features; a name from which each process loads it, or itself.
        options: how slides are read, and which are made again; None for the defaults.
        masks: one for each slide: an image or GeoJSON file, a folder to look in, an array, or None.
        shard: (i, n) takes every n-th slide from the i-th on, 1 <= i <= n. Other processes do the rest.
        cluster: where slides are worked on; None for this process.
        show_progress: draw bars and print a line for each slide.

    Returns:
        What became of each slide of the shard, in order.

    Raises:
        TiacfError: an option makes no sense, or the cluster is gone.
        OutputError: the folder cannot be written.
    """
    check_shard(shard)
    target = BagsFolder(Path(folder))
    jobs = _jobs(slides, target, encoder, options or ExtractionOptions(), masks, shard)
    total = len(range(shard[0] - 1, len(slides), shard[1]))
    return carry_out(jobs, total, target, cluster, _line, show_progress=show_progress)


def plan_extraction(
    slides: Sequence[str | Path],
    folder: str | Path,
    encoder: Encoder | ToolNames,
    options: ExtractionOptions | None = None,
    *,
    masks: Sequence[Mask | None] | None = None,
    shard: tuple[int, int] = (1, 1),
    show_progress: bool = True,
) -> Iterator[ExtractionPlan]:
    """Say what `extract_slides` would do, one slide after another, writing nothing.

    Args:
        slides: as there, and so are the others.
        folder: need not exist.
        encoder: as there.
        options: as there.
        masks: as there.
        shard: as there.
        show_progress: draw bars.

    Raises:
        TiacfError: an option makes no sense.
    """
    check_shard(shard)
    target = BagsFolder(Path(folder), make=False)
    total = len(range(shard[0] - 1, len(slides), shard[1]))
    with Progress(total, show=show_progress) as progress:
        for job in _jobs(slides, target, encoder, options or ExtractionOptions(), masks, shard):
            plan = job.plan(progress)
            progress.slide_done()
            yield plan


def check_shard(shard: tuple[int, int]) -> None:
    """Refuse a shard that there is not.

    Raises:
        TiacfError: it is not one of 1 to n.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise UsageError(
            f"--shard {part}/{parts}: give I/N with I from 1 to N, such as 1/{max(parts, 1)}"
        )


def _jobs(
    slides: Sequence[str | Path],
    folder: BagsFolder,
    encoder: Encoder | ToolNames,
    options: ExtractionOptions,
    masks: Sequence[Mask | None] | None,
    shard: tuple[int, int],
) -> Iterator[ExtractionJob]:
    paths = [Path(slide) for slide in slides]
    # Over all slides, so that each shard gives the same names. A slide that is not alone with its stem
    # has its whole name, which another slide may have as its stem.
    names = Counter(
        name.casefold() for slide in paths for name in {stem_of(slide), stem_for(slide.name)}
    )
    run = uuid.uuid4().hex
    for index in range(shard[0] - 1, len(paths), shard[1]):
        yield ExtractionJob(
            slide=paths[index],
            mask=masks[index] if masks is not None else None,
            lone=names[stem_of(paths[index]).casefold()] == 1,
            folder=folder,
            tools=encoder if isinstance(encoder, ToolNames) else Tools(encoder),
            options=options,
            run_name=run,
        )


@dataclass(frozen=True)
class ExtractionJob(Job[ExtractionOutcome]):
    """One slide to one bag.

    Attributes:
        slide: its path.
        mask: its mask, a folder to look for it in, or None.
        lone: no other slide of the run has its stem, be it as stem or as name.
        folder: where the bag goes.
        tools: the encoder.
        options: how it is read.
        run_name: of the run that this is part of.
    """

    slide: Path
    mask: Mask | None
    lone: bool
    folder: BagsFolder
    tools: Tools | ToolNames
    options: ExtractionOptions
    run_name: str

    def run(self, progress: Progress) -> ExtractionOutcome:
        """Extract the slide unless its bag is finished or it failed before."""
        encoder = self._encoder()
        record = self.folder.claim(self.slide)
        path = self.folder.place(record, self.slide, lone=self.lone)
        key: dict[str, str] = {}
        try:
            mask = self._own_mask()
            key = self._key(mask, encoder)
            if (settled := self._settled(record, key, path)) is not None:
                return settled
            with self.folder.making(record, self.run_name) as staging:
                try:
                    return self._make(record, key, path, staging, mask, encoder, progress)
                finally:
                    gc.collect()  # readers hold file handles and caches in cycles
        except OutputError:
            raise
        except Exception as error:  # the other slides go on: it is recorded, the trace logged
            return self._failed(record, key, path, failure(error, str(self.slide)))

    def lost(self, message: str) -> ExtractionOutcome:
        """Record the slide as failed."""
        record = self.folder.claim(self.slide)
        path = self.folder.place(record, self.slide, lone=self.lone)
        return self._failed(record, {}, path, f"{self.slide}: {message}")

    def plan(self, progress: Progress) -> ExtractionPlan:
        """Say what `run` would do."""
        encoder = self._encoder()
        record = self.folder.find(source_of(self.slide)) or self.folder.new_record(self.slide)
        path = self.folder.place(record, self.slide, lone=self.lone)
        try:
            mask = self._own_mask()
            settled = self._settled(record, self._key(mask, encoder), path)
            if settled is not None and settled.status == "failed":
                return ExtractionPlan(self.slide, "fail", settled.message)
            if settled is not None:
                patches = {scale: settled.row[f"patches_{scale}"] for scale in SCALES}
                return ExtractionPlan(
                    self.slide, "skip", settled.message, patches, settled.row["bytes"]
                )
            load_readers()
            progress.stage(self.slide.name, "open")
            with self._open() as opened:
                finished, why = self._compare(opened, record, path, mask, encoder)
                if finished is not None:
                    size = size_on_disk(path)
                    return ExtractionPlan(self.slide, "skip", why, finished.counts(), size)
                progress.stage(self.slide.name, "tissue")
                grids = tissue_grids(opened, self.options.sampling, mask)
            patches = {scale: len(grid) for scale, grid in grids.items()}
            if not patches["20x"]:
                why = no_tissue(self.options.sampling, mask)
                return ExtractionPlan(self.slide, "fail", f"{self.slide}: {why}")
            width = 2 * encoder.spec.width + _PLACE_BYTES
            size = sum(patches.values()) * width
            return ExtractionPlan(self.slide, "extract", why, patches, size)
        except Exception as error:
            return ExtractionPlan(self.slide, "fail", failure(error, str(self.slide)))

    def _settled(self, record: Record, key: dict[str, str], path: Path) -> ExtractionOutcome | None:
        """What became of the slide before, where the slide need not be opened to tell."""
        options, row = self.options, record.row
        if self.folder.finished(record, key) and not options.overwrite:
            return ExtractionOutcome(self.slide, "skipped", row["message"], path, row)
        if record.status == "failed" and record.key == key and not options.retry_failed:
            message = f"{row['message']} (failed before; --retry-failed tries again)"
            return ExtractionOutcome(self.slide, "failed", message, None, row)
        return None

    def _compare(
        self, opened: Slide, record: Record, path: Path, mask: Mask | None, encoder: Encoder
    ) -> tuple[FeatureBag | None, str]:
        """The bag that is there if it is finished, and else why it is made again.

        Raises:
            TiacfError: something is there that may not be replaced.
        """
        wanted = bag_provenance(opened, self.options.sampling, encoder.spec, mask)
        bag = _stored(path)
        changed = [] if bag is None else _differences(bag.provenance, wanted)
        if bag is not None and not changed:
            return (None, "") if self.options.overwrite else (bag, "")
        if path.exists() and path.name not in record.files:
            raise TiacfError(
                f"{path}: exists and was not extracted from {self.slide}; move it away or give "
                "another --output-path"
            )
        return None, f"made again, since {' and '.join(changed)} changed" if changed else ""

    def _make(
        self,
        record: Record,
        key: dict[str, str],
        path: Path,
        staging: Path,
        mask: Mask | None,
        encoder: Encoder,
        progress: Progress,
    ) -> ExtractionOutcome:
        load_readers()
        started = time.perf_counter()
        unclaimed = path.exists() and path.name not in record.files
        progress.stage(self.slide.name, "open")
        with self._open() as opened:
            finished, why = self._compare(opened, record, path, mask, encoder)
            bag = finished
            if bag is None:
                bag = extract_bag(
                    opened,
                    self.options.sampling,
                    encoder,
                    mask=mask,
                    batch_size=self.options.batch_size,
                    num_workers=self.options.num_workers,
                    progress=progress,
                )
                progress.stage(self.slide.name, "write")
                with self.folder.writing():
                    bag.save(staging / path.name)
                # Another process may have finished it meanwhile: it is not written twice.
                meanwhile, _ = self._compare(opened, record, path, mask, encoder)
                bag = meanwhile or bag
                finished = meanwhile
        message = "; ".join(filter(None, [opened.caveat, *bag_caveats(bag), why]))
        made = finished is None
        size = size_on_disk(path if finished is not None else staging / path.name)
        before = record.row.get("seconds", "") if path.name in record.files else ""
        record.key = key
        record.row = self._row() | {
            **{f"patches_{scale}": count for scale, count in bag.counts().items()},
            **{f"dropped_{scale}": bag.provenance.dropped.get(scale, 0) for scale in SCALES},
            "bag": path.name,
            "status": "ok",
            "message": message,
            "seconds": round(time.perf_counter() - started, 2) if made else before,
            "reader": bag.provenance.reader or "",
            "bytes": size,
        }
        if made:
            self.folder.publish(record, staging)
        else:
            record.files = [path.name]
            self.folder.finish(record)
        if unclaimed:
            self.folder.take_over(record)
        return ExtractionOutcome(self.slide, "ok" if made else "skipped", message, path, record.row)

    def _failed(
        self, record: Record, key: dict[str, str], path: Path, message: str
    ) -> ExtractionOutcome:
        row = self._row() | {"status": "failed", "message": message}
        if path.name in record.files and path.exists():
            row["bag"] = path.name
            row["message"] += "; the bag of an earlier extraction is still there"
        record.key = key
        self.folder.fail(record, row)
        return ExtractionOutcome(self.slide, "failed", message, None, row)

    def _row(self) -> Row:
        row: Row = dict.fromkeys(COLUMNS, "")
        return row | {"slide": written(self.slide.name), "path": source_of(self.slide)}

    def _encoder(self) -> Encoder:
        encoder = self.tools.load().encoder
        if encoder is None:
            raise UsageError("no encoder is given; see --encoder")
        return encoder

    def _own_mask(self) -> Mask | None:
        mask = self.mask
        return find_mask(Path(mask), self.slide) if isinstance(mask, str | Path) else mask

    def _open(self) -> Slide:
        return open_slide(self.slide, mpp=self.options.mpp, power=self.options.power)

    def _key(self, mask: Mask | None, encoder: Encoder) -> dict[str, str]:
        size, mtime = slide_identity(self.slide) if is_there(self.slide) else (0, 0)
        return {
            "slide file": f"{size} {mtime}",
            "scale": f"mpp={self.options.mpp} power={self.options.power}",
            "mask": "" if mask is None else mask_identity(mask),
            "sampling": self.options.sampling.model_dump_json(),
            "encoder": encoder.spec.model_dump_json(),
        }


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
