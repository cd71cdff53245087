"""Many slides or bags: each predicted and written on its own, so that a bad one costs only itself."""

from __future__ import annotations

import gc
import hashlib
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import UsageError
from tiacrossfusion.explain.extent import why_no_maps
from tiacrossfusion.inference.extraction import mask_identity
from tiacrossfusion.inference.slide import SlideResult, load_readers, predict_slide, predict_stored
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.paths import is_folder, is_there, stem_for
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.io.text import written
from tiacrossfusion.outputs.files import (
    ALL_SUFFIXES,
    output_suffixes,
    prediction_dict,
    prediction_row,
    write_outputs,
)
from tiacrossfusion.outputs.report.making import make_fragment
from tiacrossfusion.runs.jobs import Job, SlideOptions, ToolNames, Tools, carry_out, failure
from tiacrossfusion.runs.records import Record
from tiacrossfusion.runs.results_folder import ResultsFolder, row_of
from tiacrossfusion.slides.files import slide_identity
from tiacrossfusion.slides.options import Mask
from tiacrossfusion.slides.tissue import find_mask

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.runs.cluster import Cluster


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide or bag of a cohort.

    Attributes:
        source: path of the slide or bag as given, or a name for a reader without one.
        status: "ok", "skipped" (finished before) or "failed".
        message: why it failed; empty otherwise.
        output: the main output file; None when it failed or nothing is written.
        prediction: the prediction as a dictionary when nothing is written; None otherwise.
        row: the slide's row of `predictions.csv`, and its hazards.
    """

    source: str | Path
    status: str
    message: str
    output: Path | None
    prediction: dict[str, Any] | None
    row: dict[str, Any]


@dataclass(frozen=True)
class RunOptions(SlideOptions):
    """How the slides of a run are read and written.

    Attributes:
        output_type: "qupath", "zarr" or "annotationstore"; not looked at when nothing is written.
        attribution: find out what raises and what lowers the risk, and roll attention back.
        gzip: compress GeoJSON.
    """

    output_type: str = "qupath"
    attribution: bool = True
    gzip: bool = False


def predict_cohort(
    images: Sequence[str | Path | WSIReader],
    bundle: ModelBundle,
    encoder: Encoder | None,
    folder: ResultsFolder | None,
    options: RunOptions,
    *,
    masks: Sequence[Mask | None] | None = None,
    cluster: Cluster | None = None,
    show_progress: bool = True,
) -> list[SlideOutcome]:
    """Predict slides one by one and write their results.

    Finished slides are skipped, a slide that cannot be predicted is recorded with its reason, and the
    rest go on.

    Args:
        images: paths of slides or TIAToolbox readers.
        bundle: the model.
        encoder: the bundle's encoder; None with a cluster, whose workers load their own.
        folder: where results go, earlier ones in it are resumed; None keeps them in memory.
        options: how slides are read and written.
        masks: one for each image: an image or GeoJSON file, a folder to look in, an array, or None.
        cluster: where slides are worked on; None for this process.
        show_progress: draw bars and print a line for each slide.

    Returns:
        What became of each image, in order.

    Raises:
        OutputError: the output folder cannot be written.
    """
    tools = Tools(encoder, bundle) if cluster is None else cluster.tools
    run = uuid.uuid4().hex
    jobs = (
        _SlideJob(image, masks[index] if masks is not None else None, tools, folder, options, run)
        for index, image in enumerate(images)
    )
    return _go_through(jobs, len(images), bundle, folder, cluster, show_progress=show_progress)


def predict_bags(
    stores: Sequence[str | Path],
    bundle: ModelBundle,
    folder: ResultsFolder | None,
    options: RunOptions | None = None,
    *,
    cluster: Cluster | None = None,
    show_progress: bool = True,
) -> list[SlideOutcome]:
    """Predict slides of which there are bags; neither slides nor encoder are needed.

    As `predict_cohort`, and with the same outputs, but that the picture of the attention shows no
    slide.

    Args:
        stores: paths of bags, as `FeatureBag.save` and `tiacf extract` write them.
        bundle: the model; a bag made with another encoder or sampling is recorded as failed.
        folder: where results go, earlier ones in it are resumed; None keeps them in memory.
        options: how results are made and written, None for the defaults; those for slides are not
            looked at.
        cluster: where bags are worked on; None for this process.
        show_progress: draw bars and print a line for each bag.

    Returns:
        What became of each bag, in order.

    Raises:
        OutputError: the output folder cannot be written.
    """
    tools = Tools(None, bundle) if cluster is None else cluster.tools
    run = uuid.uuid4().hex
    settings = options or RunOptions()
    jobs = (_BagJob(Path(store), tools, folder, settings, run) for store in stores)
    return _go_through(jobs, len(stores), bundle, folder, cluster, show_progress=show_progress)


def _go_through(
    jobs: Iterable[_Job],
    total: int,
    bundle: ModelBundle,
    folder: ResultsFolder | None,
    cluster: Cluster | None,
    *,
    show_progress: bool,
) -> list[SlideOutcome]:
    if folder is not None:
        folder.check_report_free()
    outcomes = carry_out(
        jobs,
        total,
        folder,
        cluster,
        lambda outcome: _line(outcome, bundle),
        show_progress=show_progress,
    )
    if folder is not None:
        folder.write_report(bundle.config)
    return outcomes


class _Job(Job[SlideOutcome], ABC):
    """One slide or bag of a run: predicted, and kept in a folder or given back.

    Attributes:
        source: identifies it.
        stem: wished-for beginning of the names of its files.
        label: its name in the table.
        given: what the user gave.
    """

    source: str
    stem: str
    label: str
    given: str | Path
    progress: Progress

    def __init__(
        self,
        tools: Tools | ToolNames,
        folder: ResultsFolder | None,
        options: RunOptions,
        run_name: str,
    ) -> None:
        self.tools, self.folder, self.options = tools, folder, options
        self.run_name = run_name

    @property
    def bundle(self) -> ModelBundle:
        """The model."""
        bundle = self.tools.load().bundle
        if bundle is None:
            raise UsageError("no model is given; see --model")
        return bundle

    def run(self, progress: Progress) -> SlideOutcome:
        """Predict."""
        self.progress = progress
        return self._keep(self.folder) if self.folder is not None else self._give()

    def lost(self, message: str) -> SlideOutcome:
        """Record it as failed."""
        message = f"{self.source}: {message}"
        if self.folder is None:
            return self._failed(message)
        return self._record_failure(self.folder, message)

    def _keep(self, folder: ResultsFolder) -> SlideOutcome:
        """Predict into a folder, unless it is finished there."""
        bundle, record = self.bundle, self._claim(folder)
        try:
            key = self._key() | {"attribution": str(self.options.attribution)}
            suffixes = output_suffixes(
                self.options.output_type, gzip=self.options.gzip, maps=self._has_maps()
            )
            if (outcome := self._finished(folder, record, key, suffixes)) is not None:
                return outcome
            folder.check_free(record, suffixes)
            cut = [] if self.options.overwrite else folder.cut_files(record, suffixes)
            with folder.making(record, self.run_name) as staging:
                self._load_readers()
                started = time.perf_counter()
                result = self._predict()
                self.progress.stage(self.label, "write")
                with folder.writing():
                    write_outputs(
                        staging,
                        record.name,
                        self.options.output_type,
                        result,
                        bundle,
                        gzip=self.options.gzip,
                    )
                fragment = make_fragment(result, bundle)
                seconds = round(time.perf_counter() - started, 2)
                # Another run may have finished it meanwhile, with other settings perhaps.
                record = self._claim(folder)
                if (outcome := self._finished(folder, record, key, suffixes)) is not None:
                    return outcome
                record.row = {**self._row(result, seconds), "output": record.name}
                record.key = key
                record.remark = f"made again, since {', '.join(cut)} had been cut" if cut else ""
                with folder.writing():
                    fragment.save(folder.fragment(record))
                folder.publish(record, staging)
        except OutputError:
            raise
        except Exception as error:  # the other slides go on: it is recorded, the trace logged
            return self._record_failure(folder, failure(error, self.source))
        return self._done("ok", folder, record, suffixes)

    def _finished(
        self, folder: ResultsFolder, record: Record, key: dict[str, str], suffixes: Sequence[str]
    ) -> SlideOutcome | None:
        """What became of it before; None when it is to be made.

        Raises:
            TiacfError: it is finished with another key.
        """
        if self.options.overwrite or not folder.finished(record, key, suffixes):
            return None
        # A result of before patients were predicted has no hazards.
        if len(record.row.get("hazards", [])) != self.bundle.config.architecture.num_bins:
            return None
        folder.remark(record, "")
        return self._done("skipped", folder, record, suffixes)

    def _done(
        self, status: str, folder: ResultsFolder, record: Record, suffixes: Sequence[str]
    ) -> SlideOutcome:
        output = folder.path / f"{record.name}{suffixes[0]}"
        return SlideOutcome(self.given, status, "", output, None, row_of(record))

    def _give(self) -> SlideOutcome:
        """Predict in memory."""
        self._load_readers()
        started = time.perf_counter()
        try:
            result = self._predict()
        except Exception as error:  # as above
            return self._failed(failure(error, self.source))
        row = self._row(result, round(time.perf_counter() - started, 2))
        return SlideOutcome(self.given, "ok", "", None, prediction_dict(result, self.bundle), row)

    def _claim(self, folder: ResultsFolder) -> Record:
        return folder.claim(self.source, self.stem, ALL_SUFFIXES)

    def _record_failure(self, folder: ResultsFolder, message: str) -> SlideOutcome:
        outcome = self._failed(message)
        record = self._claim(folder)
        if record.status == "ok":  # an earlier result stands, or another run's, and so does its row
            folder.remark(record, f"the last attempt failed: {message}")
        else:
            folder.fail(record, outcome.row)
        return outcome

    def _failed(self, message: str) -> SlideOutcome:
        row = {
            "slide": self.label,
            "model": self.bundle.config.name,
            "status": "failed",
            "message": message,
            "path": self.source,
        }
        return SlideOutcome(self.given, "failed", message, None, None, row)

    @abstractmethod
    def _key(self) -> dict[str, str]:
        """What decides the result, but for the versions of the packages."""

    @abstractmethod
    def _predict(self) -> SlideResult:
        """Predict."""

    def _has_maps(self) -> bool:
        """Whether it is known where the patches lie."""
        return True

    def _load_readers(self) -> None:
        """Import what reads it, which takes seconds that are not the first slide's."""

    def _row(self, result: SlideResult, seconds: float) -> dict[str, Any]:
        mpp = result.bag.provenance.mpp
        return {
            "slide": self.label,
            **prediction_row(result.prediction, self.bundle.config),
            **{f"patches_{scale}": count for scale, count in result.bag.counts().items()},
            "seconds": seconds,
            "status": "ok",
            "message": result.message,
            "mpp": None if mpp is None else max(mpp),
            "path": self.source,
        }


class _SlideJob(_Job):
    """One slide of a run."""

    def __init__(
        self,
        image: str | Path | WSIReader,
        mask: Mask | None,
        tools: Tools | ToolNames,
        folder: ResultsFolder | None,
        options: RunOptions,
        run_name: str,
    ) -> None:
        super().__init__(tools, folder, options, run_name)
        self.image, self.mask = image, mask
        self.source, self.stem, self.label = _identity(image)
        self.given = image if isinstance(image, str | Path) else (image.input_path or self.label)

    @property
    def encoder(self) -> Encoder:
        """The model's encoder."""
        encoder = self.tools.load().encoder
        if encoder is None:
            raise UsageError("no encoder is given; see --encoder-weights")
        return encoder

    @cached_property
    def _own_mask(self) -> Mask | None:
        if isinstance(self.mask, str | Path):
            return find_mask(Path(self.mask), Path(self.given))
        return self.mask

    def _predict(self) -> SlideResult:
        self.progress.stage(self.label, "open")
        try:
            return predict_slide(
                self.image,
                self.bundle,
                self.encoder,
                mask=self._own_mask,
                mpp=self.options.mpp,
                power=self.options.power,
                batch_size=self.options.batch_size,
                num_workers=self.options.num_workers,
                attribution=self.options.attribution,
                progress=self.progress,
            )
        finally:
            gc.collect()  # readers hold file handles and caches in cycles

    def _key(self) -> dict[str, str]:
        mask = self._own_mask
        path = Path(self.source)
        size, mtime = slide_identity(path) if is_there(path) else (0, 0)
        scale = f"mpp={self.options.mpp} power={self.options.power}"
        if not isinstance(self.image, str | Path):  # its owner may have given it a scale
            info = self.image.info
            scale += f" reader mpp={info.mpp} power={info.objective_power}"
        return {
            "slide file": f"{size} {mtime}",
            "model": self.bundle.fingerprint,
            "encoder": self.encoder.spec.model_dump_json(),
            "mask": "" if mask is None else mask_identity(mask),
            "scale": scale,
        }

    def _load_readers(self) -> None:
        load_readers()


class _BagJob(_Job):
    """One bag of a run."""

    def __init__(
        self,
        store: Path,
        tools: Tools | ToolNames,
        folder: ResultsFolder | None,
        options: RunOptions,
        run_name: str,
    ) -> None:
        super().__init__(tools, folder, options, run_name)
        self.given = store
        self.source = written(str(store.absolute()))
        self.stem = stem_for(store.name.removesuffix(".zarr"))
        self.label = written(store.name)  # until the bag says what its slide is called

    @cached_property
    def _bag(self) -> FeatureBag:
        self.progress.stage(self.label, "read")
        bag = FeatureBag.load(Path(self.given))
        self.label = bag.provenance.slide
        return bag

    def _key(self) -> dict[str, str]:
        # The features themselves: a store that was copied or packed anew holds the same bag.
        content = hashlib.sha256(self._bag.provenance.model_dump_json().encode())
        for scale in self._bag.scales.values():
            for array in (scale.features, scale.bounds, scale.grid):
                content.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return {"bag": content.hexdigest(), "model": self.bundle.fingerprint}

    def _has_maps(self) -> bool:
        return not why_no_maps(self._bag)

    def _predict(self) -> SlideResult:
        bag = self._bag
        self.progress.stage(self.label, "predict")
        return predict_stored(bag, self.bundle, attribution=self.options.attribution)


def _identity(image: str | Path | WSIReader) -> tuple[str, str, str]:
    """Source, wished-for stem and label of an image."""
    if isinstance(image, str | Path) or image.input_path is not None:
        path = Path(image if isinstance(image, str | Path) else image.input_path)
        stem = stem_for(path.name if is_folder(path) else path.stem)
        return written(str(path.absolute())), stem, written(path.name)
    digest = hashlib.sha256(np.ascontiguousarray(image.img).tobytes()).hexdigest()
    return f"array {digest}", f"array-{digest[:8]}", f"array-{digest[:8]}"


def _line(outcome: SlideOutcome, bundle: ModelBundle) -> str:
    """The console's line on a slide."""
    if outcome.status == "failed":
        return f"FAILED  {outcome.message}"
    row = outcome.row
    words = [f"risk {row['risk']:.3f}"]
    if row.get("risk_sd") is not None:
        words.append(f"SD over the ensemble {row['risk_sd']:.3f}")
    if row["percentile"] is not None:
        words.append(
            f"percentile {row['percentile']:.0f} of {bundle.config.name}'s training patients"
        )
        words.append(f"{row['risk_group']} risk group")
    if outcome.status == "skipped":
        words.append("finished before, skipped")
    else:
        words.append(f"{sum(row[f'patches_{s}'] for s in ('5x', '10x', '20x'))} patches")
        words.append(f"{row['seconds']:.0f} s")
    if row["message"]:
        words.append(f"note: {row['message']}")
    return f"ok      {row['slide']}: {', '.join(words)}"
