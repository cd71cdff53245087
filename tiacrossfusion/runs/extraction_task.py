"""The extraction of one slide: its bag, made or found in place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiacrossfusion.bags.bag import FeatureBag, Provenance
from tiacrossfusion.bags.caveats import bag_caveats
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.extraction import bag_provenance, extract_bag, no_tissue, tissue_grids
from tiacrossfusion.inference.slide import load_readers, open_as
from tiacrossfusion.io.paths import size_on_disk
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.bags_folder import COLUMNS, BagsFolder, record_names
from tiacrossfusion.runs.record import Record, source_of
from tiacrossfusion.runs.runner import RecordedTask, failure
from tiacrossfusion.runs.slides import RunOptions, file_content, of_slide, slide_key
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.patches import coarse_base
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.text import written

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder

#: Bytes of a patch in a bag beside its features: bounds and place on the grid, compressed.
_PLACE_BYTES = 6

#: Fields of the provenance that decide a bag, by part of the cache key.
_DECIDING = {
    "slide file": ("slide", "slide_size", "slide_hash", "dimensions", "offset"),
    "scale": ("mpp", "power"),
    "mask": ("mask",),
    "sampling": ("sampling",),
    "encoder": ("encoder",),
}


@dataclass(frozen=True)
class ExtractionOptions(RunOptions):
    """How the slides of a run are read, and which are made again.

    Attributes:
        sampling: how patches are laid and kept.
    """

    sampling: SamplingSpec = field(default_factory=SamplingSpec)


@dataclass(frozen=True)
class ExtractionPlan:
    """What a run would do with one slide.

    Attributes:
        slide: path of the slide as given.
        status: "extract", "skip" (finished before) or "fail".
        message: why it would be made again or fail, or what the user should know of it; may be empty.
        patches: number of patches per scale; empty where it would fail.
        size: bytes on disk that its bag takes, or about those that it will take.
    """

    slide: Path
    status: str
    message: str
    patches: dict[str, int] = field(default_factory=dict)
    size: int = 0


@dataclass(eq=False)
class ExtractionTask(RecordedTask):
    """One slide to one bag.

    Attributes:
        slide: its path.
        lone: no other slide of the run has its stem, be it as stem or as name.
        folder: where the bag goes.
        model: the encoder.
        options: how the slide is read and sampled.
        run_name: names the run.
    """

    slide: Path
    lone: bool
    folder: BagsFolder
    model: LoadedModel | ModelSource
    options: ExtractionOptions
    run_name: str

    def __post_init__(self) -> None:
        """Name the slide."""
        self.given, self.source, self.label = self.slide, source_of(self.slide), str(self.slide)
        self._bag: str | None = None

    @cached_property
    def read(self) -> ReadOptions:
        """How the slide is read, with its own mask."""
        return of_slide(self.options.read, self.slide)

    @property
    def encoder(self) -> Encoder:
        """The encoder, which a process loads once."""
        return self.model.load().need_encoder()

    def prepare(self) -> None:
        """Load the encoder."""
        self.encoder  # noqa: B018

    def names(self) -> tuple[str, ...]:
        """Return names for the record."""
        return record_names(self.slide)

    def files(self, record: Record) -> tuple[str, ...]:
        """Return the name of the bag, which stays the same when other records are added."""
        self._bag = self._bag or self.folder.place(record, self.slide, lone=self.lone).name
        return (self._bag,)

    def content(self) -> str:
        """Return what identifies the slide's file wherever it lies."""
        return file_content(self.slide)

    def key(self, progress: Progress) -> dict[str, str]:  # noqa: ARG002
        """Return the cache key."""
        return {
            **slide_key(self.slide, self.read),
            "sampling": self.options.sampling.model_dump_json(),
            "encoder": self.encoder.spec.model_dump_json(),
        }

    def make(self, record: Record, staging: Path, progress: Progress) -> dict[str, Any]:
        """Extract the bag, unless the one that is in place would be made the same again."""
        load_readers()
        started = time.perf_counter()
        path = self._path(record)
        unrecorded = path.exists() and path.name not in record.files
        sampling = self.options.sampling
        with self._open(progress) as slide:
            in_place, why = self._compare(slide, record, path)
            bag = in_place
            if bag is None:
                bag = extract_bag(slide, sampling, self.encoder, self.read, progress=progress)
                # Another process may have finished it meanwhile.
                in_place, _ = self._compare(slide, record, path)
                bag = in_place or bag
        if in_place is None:
            progress.stage(self.slide.name, "write")
            with self.folder.writing():
                bag.save(staging / path.name)
        if unrecorded:
            self.folder.take_over(path.name, record)
        seconds: Any = round(time.perf_counter() - started, 2)
        if in_place is not None:
            seconds = record.row.get("seconds", "") if path.name in record.files else ""
        counts, dropped = bag.counts(), bag.provenance.dropped
        return self._row() | {
            **{f"patches_{scale}": counts.get(scale, 0) for scale in SCALES},
            **{f"dropped_{scale}": dropped.get(scale, 0) for scale in SCALES},
            "bag": path.name,
            "status": "ok",
            "message": "; ".join(filter(None, [slide.caveat, *bag_caveats(bag), why])),
            "seconds": seconds,
            "reader": bag.provenance.reader or "",
            "bytes": size_on_disk(staging / path.name if in_place is None else path),
        }

    def failed_row(self, message: str) -> dict[str, Any]:
        """Return the row of a slide that failed."""
        return self._row() | {"status": "failed", "message": message}

    def plan(self, progress: Progress) -> ExtractionPlan:
        """Return what `run` would do."""
        self.prepare()
        record = self.folder.find(self.source) or self.folder.new_record(self.source, self.names())
        path = self._path(record)
        try:
            earlier = self.earlier(record, self.key(progress))
            if earlier is not None and earlier.status == "failed":
                return ExtractionPlan(self.slide, "fail", earlier.message)
            if earlier is not None:
                patches = {scale: earlier.row[f"patches_{scale}"] for scale in SCALES}
                size = earlier.row["bytes"]
                return ExtractionPlan(self.slide, "skip", earlier.message, patches, size)
            load_readers()
            with self._open(progress) as slide:
                in_place, why = self._compare(slide, record, path)
                if in_place is not None:
                    size = size_on_disk(path)
                    return ExtractionPlan(self.slide, "skip", why, in_place.counts(), size)
                progress.stage(self.slide.name, "tissue")
                grids, classes = tissue_grids(slide, self.options.sampling, self.read)
                caveat = "; ".join(
                    filter(None, [slide.caveat, coarse_base(slide, self.options.sampling), classes])
                )
            patches = {name: len(grid) for name, grid in grids.items()}
            if not patches["20x"]:
                reason = no_tissue(self.options.sampling, self.read.mask)
                return ExtractionPlan(self.slide, "fail", f"{self.slide}: {reason}")
            size = sum(patches.values()) * (2 * self.encoder.spec.width + _PLACE_BYTES)
            message = "; ".join(filter(None, [caveat, why]))
            return ExtractionPlan(self.slide, "extract", message, patches, size)
        except Exception as error:  # as in a run
            return ExtractionPlan(self.slide, "fail", failure(error, self.label))

    def _path(self, record: Record) -> Path:
        return self.folder.path / self.files(record)[0]

    def _open(self, progress: Progress) -> Slide:
        progress.stage(self.slide.name, "open")
        return open_as(self.slide, self.read)

    def _compare(self, slide: Slide, record: Record, path: Path) -> tuple[FeatureBag | None, str]:
        """Return the bag that is in place if it would be made the same again, else why it is made again.

        Raises:
            TiacfError: something is in place that may not be replaced.
        """
        bag = _stored(path)
        changed = []
        if bag is not None:
            wanted = bag_provenance(slide, self.options.sampling, self.encoder.spec, self.read)
            changed = [part for part in _DECIDING if _differ(part, bag.provenance, wanted)]
            if not changed:
                return (None if self.options.overwrite else bag), ""
        if path.exists() and path.name not in record.files:
            raise TiacfError(
                f"{path}: exists and was not extracted from {self.slide}; move it away or give "
                "another --output-path"
            )
        return None, f"made again, since {' and '.join(changed)} changed" if changed else ""

    def _row(self) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        return row | {"slide": written(self.slide.name), "path": self.source}


def _differ(part: str, one: Provenance, other: Provenance) -> bool:
    return any(getattr(one, name) != getattr(other, name) for name in _DECIDING[part])


def _stored(path: Path) -> FeatureBag | None:
    """Return the bag at a path; None when there is no bag, or it cannot be read."""
    try:
        return FeatureBag.load(path) if path.exists() else None
    except TiacfError:
        return None
