"""The prediction of one slide or bag."""

from __future__ import annotations

import hashlib
import json
import time
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.explain.extent import why_no_maps
from tiacrossfusion.explain.hotspots import HotspotsBy
from tiacrossfusion.explain.scores import SCORES
from tiacrossfusion.inference.budget import Budget
from tiacrossfusion.inference.reading import Checkpoint
from tiacrossfusion.inference.slide import SlideResult, load_readers, predict_slide, predict_stored
from tiacrossfusion.io.paths import stem_for
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.outputs.files import output_suffixes, write_outputs
from tiacrossfusion.outputs.report.making import make_fragment
from tiacrossfusion.outputs.values import prediction_dict, prediction_row
from tiacrossfusion.runs.record import Record, names_for, source_of, stem_of
from tiacrossfusion.runs.results_folder import FRAGMENT, ResultsFolder
from tiacrossfusion.runs.runner import Outcome, RecordedTask
from tiacrossfusion.runs.slides import RunOptions, file_content, of_slide, slide_key
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.text import written

if TYPE_CHECKING:
    from tiacrossfusion.models.bundle import ModelBundle


#: Parts of the cache key that decide the features of a slide.
_OF_FEATURES = ("slide file", "encoder", "mask", "scale")


@dataclass(frozen=True)
class PredictionOptions(RunOptions):
    """How slides are read and their predictions written.

    Attributes:
        output_type: a name in `outputs.writers.WRITERS`; ignored when nothing is written.
        attribution: compute what raises and what lowers the risk, and attention rollout.
        hotspots: find hotspots by "attribution", or by "attention".
        gzip: compress GeoJSON.
        budget: how much of each slide is read.
    """

    retry_failed: bool = True
    output_type: str = "qupath"
    attribution: bool = True
    hotspots: HotspotsBy = "attribution"
    gzip: bool = False
    budget: Budget = field(default_factory=Budget)


@dataclass(eq=False)
class PredictionTask(RecordedTask):
    """One slide or bag to its prediction, which is written, or returned where there is no folder.

    Attributes:
        image: path of the slide or bag, or a TIAToolbox reader.
        model: the model, and the encoder for slides.
        results: where results go; None keeps them in memory.
        options: how the slide is read and its results written.
        run_name: names the run.
        covariates: (C,) of the patient, for a model that takes covariates.
        record_remark: what is to be said of the patient's record; empty if nothing is.
        stem: preferred beginning of the names of its files.
        title: name of the slide in the table.
    """

    image: Any
    model: LoadedModel | ModelSource
    results: ResultsFolder | None
    options: PredictionOptions
    run_name: str
    covariates: tuple[float, ...] | None = None
    record_remark: str = ""
    folder: ResultsFolder = field(init=False)
    checkpoint: Checkpoint | None = field(init=False, default=None)
    stem: str = field(init=False)
    title: str = field(init=False)

    refuse_other_key = True

    def __post_init__(self) -> None:
        """Find out the names."""
        self.identify()
        self.label = self.source
        if self.results is not None:
            self.folder = self.results

    @property
    def bundle(self) -> ModelBundle:
        """The model, which a process loads once."""
        return self.model.load().need_bundle()

    def prepare(self) -> None:
        """Load the model."""
        self.bundle  # noqa: B018

    def attempt(self, progress: Progress) -> Outcome:
        """Predict into the folder, or in memory."""
        if self.results is not None:
            return super().attempt(progress)
        self.load_readers()
        started = time.perf_counter()
        result = self.predict(progress)
        row = self._row(result, started)
        return Outcome(self.given, "ok", row["message"], row=row, value=prediction_dict(result))

    def _finished(self, record: Record, key: dict[str, str]) -> Outcome | None:
        done = super()._finished(record, key)
        # A row that was changed may have hazards of another number than the model's bins.
        num_bins = self.bundle.config.architecture.num_bins
        return done if len(record.row.get("hazards", [])) == num_bins else None

    def failed(self, message: str) -> Outcome:
        """Record the failure, where there is a folder."""
        if self.results is not None:
            return super().failed(message)
        return Outcome(self.given, "failed", message, row=self.failed_row(message))

    def names(self) -> tuple[str, ...]:
        """Return names for the record."""
        return self.stem, *names_for(self.stem, self.source)

    def files(self, record: Record) -> tuple[str, ...]:
        """Return the names of the files of the output type."""
        options = self.options
        suffixes = output_suffixes(
            options.output_type,
            gzip=options.gzip,
            maps=self.has_maps() and options.budget.share > 0,
            families=self.has_maps() and not options.budget.reads_all,
        )
        return tuple(f"{record.name}{suffix}" for suffix in suffixes)

    def make(self, record: Record, staging: Path, progress: Progress) -> dict[str, Any]:
        """Predict and write the files."""
        self.folder.check_free(record, self.files(record))
        self.load_readers()
        started = time.perf_counter()
        self.checkpoint = self._checkpoint_of(record)
        result = self.predict(progress)
        progress.stage(self.title, "write")
        options = self.options
        with self.folder.writing():
            write_outputs(staging, record.name, options.output_type, result, gzip=options.gzip)
            make_fragment(result).save(staging / FRAGMENT)
        return self._row(result, started) | {"output": record.name}

    def _checkpoint_of(self, record: Record) -> Checkpoint | None:
        """Return where what was read of a part of the slide is kept."""
        if self.options.budget.reads_all or self._key is None:
            return None
        # Another budget may go on from what an interrupted run has read.
        parts = {name: part for name, part in self._key.items() if name in _OF_FEATURES}
        parts["sampling"] = self.bundle.config.sampling.model_dump_json()
        path = self.folder.records_path / f"{record.name}.families.safetensors"
        return Checkpoint(path, json.dumps(parts, sort_keys=True))

    def failed_row(self, message: str) -> dict[str, Any]:
        """Return the row of a slide that failed."""
        return {
            "slide": self.title,
            "model": self.bundle.config.name,
            "status": "failed",
            "message": message,
            "path": self.source,
        }

    @abstractmethod
    def identify(self) -> None:
        """Set `given`, `source`, `stem` and `title`."""

    @abstractmethod
    def predict(self, progress: Progress) -> SlideResult:
        """Predict."""

    def explain_key(self) -> dict[str, str]:
        """Return the part of the cache key that slides and bags have in common."""
        key = {
            "attribution": str(self.options.attribution),
            "hotspots": self.options.hotspots,
            "scores": ", ".join(SCORES.names()),
        }
        if not self.options.budget.reads_all:
            key["budget"] = str(self.options.budget)
        return key if self.covariates is None else key | {"covariates": str(self.covariates)}

    def model_options(self) -> dict[str, Any]:
        """Return what `predict_slide` and `predict_stored` take besides the slide and the model."""
        given = self.covariates
        covariates = None if given is None else np.array(given)
        return {
            "attribution": self.options.attribution,
            "hotspots": self.options.hotspots,
            "covariates": covariates,
            "budget": self.options.budget,
        }

    def load_readers(self) -> None:
        """Import what reads the slide, so that these seconds do not count for it."""

    def has_maps(self) -> bool:
        """Return whether it is known where the patches lie."""
        return True

    def _row(self, result: SlideResult, started: float) -> dict[str, Any]:
        mpp = result.bag.provenance.mpp
        return {
            "slide": self.title,
            **prediction_row(result.prediction, self.bundle.config),
            **{f"patches_{scale}": count for scale, count in result.patches().items()},
            "seconds": round(time.perf_counter() - started, 2),
            "status": "ok",
            "message": "; ".join(filter(None, (result.message, self.record_remark))),
            "mpp": None if mpp is None else max(mpp),
            "path": self.source,
        }


class SlideTask(PredictionTask):
    """One slide to its prediction; the mask of its options may be a folder to look in."""

    def identify(self) -> None:
        """Name it by its path, or an image in memory by a hash of its pixels."""
        image = self.image
        path = image if isinstance(image, str | Path) else image.input_path
        if path is not None:
            path = Path(path)
            self.source, self.stem, self.title = source_of(path), stem_of(path), written(path.name)
        else:
            digest = hashlib.sha256(np.ascontiguousarray(image.img).tobytes()).hexdigest()
            self.source = f"array {digest}"
            self.stem = self.title = f"array-{digest[:8]}"
        self.given = image if isinstance(image, str | Path) else (image.input_path or self.title)

    def content(self) -> str:
        """Return what identifies the slide's file wherever it lies."""
        return file_content(Path(self.source))

    @cached_property
    def read(self) -> ReadOptions:
        """How the slide is read, with its own scale and mask."""
        return of_slide(self.options.read, Path(self.given))

    def key(self, progress: Progress) -> dict[str, str]:  # noqa: ARG002
        """Return the cache key."""
        parts = slide_key(Path(self.source), self.read)
        if not isinstance(self.image, str | Path):  # its owner may have given it a scale
            info = self.image.info
            parts["scale"] += f" reader mpp={info.mpp} power={info.objective_power}"
        return {
            "slide file": parts["slide file"],
            "model": self.bundle.fingerprint,
            "encoder": self.model.load().need_encoder().spec.model_dump_json(),
            "mask": parts["mask"],
            "scale": parts["scale"],
            **self.explain_key(),
        }

    def load_readers(self) -> None:
        """Import TIAToolbox's readers."""
        load_readers()

    def predict(self, progress: Progress) -> SlideResult:
        """Predict."""
        progress.stage(self.title, "open")
        return predict_slide(
            self.image,
            self.bundle,
            self.model.load().need_encoder(),
            self.read,
            **self.model_options(),
            checkpoint=self.checkpoint,
            progress=progress,
        )


class BagTask(PredictionTask):
    """One bag to its prediction."""

    def identify(self) -> None:
        """Name it by its path."""
        self.given = store = Path(self.image)
        self.source, self.stem = source_of(store), stem_for(store.name.removesuffix(".zarr"))
        self.title = written(store.name)  # until the bag is read

    @cached_property
    def _bag(self) -> FeatureBag:
        bag = FeatureBag.load(Path(self.given))
        self.title = bag.provenance.slide
        return bag

    def key(self, progress: Progress) -> dict[str, str]:
        """Return the cache key, of the features: a store that was copied holds the same bag."""
        progress.stage(self.title, "read")
        content = hashlib.sha256(self._bag.provenance.model_dump_json().encode())
        for scale in self._bag.scales.values():
            for array in (scale.features, scale.bounds, scale.grid):
                content.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return {"bag": content.hexdigest(), "model": self.bundle.fingerprint, **self.explain_key()}

    def has_maps(self) -> bool:
        """Return whether the bag says where its patches lie."""
        return not why_no_maps(self._bag)

    def predict(self, progress: Progress) -> SlideResult:
        """Predict."""
        bag = self._bag
        progress.stage(self.title, "predict")
        return predict_stored(bag, self.bundle, **self.model_options())
