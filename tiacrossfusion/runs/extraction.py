"""Many slides to bags on disk, one store a slide.

A bag is finished when its record, or failing that its own provenance, says that it would be made the
same again; a bag is only replaced by another bag of the same slide.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.paths import absolute, stem_for
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.bags_folder import BagsFolder, stem_of
from tiacrossfusion.runs.cluster import connect
from tiacrossfusion.runs.extraction_task import ExtractionPlan, ExtractionTask
from tiacrossfusion.runs.runner import Executor, Outcome, Resume, run_tasks
from tiacrossfusion.slides.files import DEFAULT_FILE_TYPES, find_slides
from tiacrossfusion.slides.options import Mask, ReadOptions
from tiacrossfusion.slides.spec import SCALES, SamplingSpec

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder


@dataclass(frozen=True)
class ExtractionOptions:
    """How the slides of a run are read, and which are made again.

    Attributes:
        read: how slides are read.
        sampling: how patches are laid and kept.
        overwrite: make finished bags again.
        retry_failed: try again what failed before with the same cache key.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    overwrite: bool = False
    retry_failed: bool = False


def extract(
    images: str | Path | Sequence[str | Path],
    folder: str | Path,
    encoder: str | ModelSource | Encoder = "stain-texture",
    options: ExtractionOptions | None = None,
    *,
    file_types: str = DEFAULT_FILE_TYPES,
    masks: Sequence[Mask | None] | None = None,
    shard: tuple[int, int] = (1, 1),
    cluster: str | Executor | None = None,
    show_progress: bool = True,
) -> list[Outcome]:
    """Make feature bags of slides, one store `<stem>.zarr` each, as `tiacf extract` does.

    Two slides of one stem get `<file name>.zarr`. A bag that is in place is kept while slide, scale,
    mask, sampling and encoder are those that it was made with, and made again when one of them has
    changed. A slide that fails is recorded with its reason and the rest go on; it is not tried again in
    the same way unless `retry_failed` is set.

    Args:
        images: paths of slides, or a folder of slides.
        folder: where bags and `extraction.csv` go; made when it does not exist.
        encoder: turns patches into features: its name; its name with weights, device and precision; or
            itself.
        options: how slides are read, and which are made again; None for the defaults.
        file_types: patterns of the slides in a folder.
        masks: one for each slide, over that of the options: an image or GeoJSON file, a folder with one
            file a slide, an array, or None.
        shard: (i, n) takes every n-th slide from the i-th on, 1 <= i <= n; other processes do the rest.
        cluster: where slides are worked on: address or scheduler file of a Dask cluster, or an executor;
            None for this process. Its workers need the name of the encoder.
        show_progress: draw bars and print a line for each slide.

    Returns:
        The outcome of each slide of the shard, in order.

    Raises:
        UsageError: an option makes no sense, or there is no slide.
        TiacfError: the encoder cannot be loaded, or the cluster is gone.
        OutputError: the folder cannot be written.

    Examples:
        >>> outcomes = extract("slides", "bags", "stain-texture")
        >>> [outcome.status for outcome in outcomes]
        ['ok', 'ok']
    """
    check_shard(shard)
    slides, model = slides_of(images, file_types), _model_of(encoder)
    if cluster is None and isinstance(model, ModelSource):
        model.load()  # a wrong name should not wait for the first slide
    if isinstance(cluster, str) and isinstance(model, LoadedModel):
        raise UsageError("a cluster needs the name of an encoder; its workers load their own")
    settings = options or ExtractionOptions()
    if cluster is not None:
        slides, folder = [slide.absolute() for slide in slides], Path(folder).absolute()
        masks = None if masks is None else [absolute(mask) for mask in masks]
        settings = replace(settings, read=replace(settings.read, mask=absolute(settings.read.mask)))
    with connect(cluster, model) if isinstance(cluster, str) else nullcontext(cluster) as executor:
        target = BagsFolder(Path(folder))
        tasks = _tasks(slides, target, model, settings, masks, shard)
        return run_tasks(
            tasks,
            len(range(shard[0] - 1, len(slides), shard[1])),
            _line,
            folder=target,
            executor=executor,
            show_progress=show_progress,
        )


def plan_extraction(
    images: str | Path | Sequence[str | Path],
    folder: str | Path,
    encoder: str | ModelSource | Encoder = "stain-texture",
    options: ExtractionOptions | None = None,
    *,
    file_types: str = DEFAULT_FILE_TYPES,
    masks: Sequence[Mask | None] | None = None,
    shard: tuple[int, int] = (1, 1),
    show_progress: bool = True,
) -> Iterator[ExtractionPlan]:
    """Yield what `extract` would do with each slide, writing nothing; the arguments are the same.

    Raises:
        UsageError: an option makes no sense, or there is no slide.
    """
    check_shard(shard)
    slides, target = slides_of(images, file_types), BagsFolder(Path(folder), make=False)
    tasks = _tasks(slides, target, _model_of(encoder), options or ExtractionOptions(), masks, shard)
    with Progress(len(range(shard[0] - 1, len(slides), shard[1])), show=show_progress) as progress:
        for task in tasks:
            plan = task.plan(progress)
            progress.slide_done()
            yield plan


def slides_of(images: str | Path | Sequence[str | Path], file_types: str) -> list[Path]:
    """Return the slides of a folder, or those that are given.

    Raises:
        UsageError: the folder does not exist, or holds no slide.
    """
    if isinstance(images, str | Path):
        return find_slides(Path(images), file_types)
    return [Path(image) for image in images]


def _model_of(encoder: str | ModelSource | Encoder) -> ModelSource | LoadedModel:
    if isinstance(encoder, str):
        return ModelSource(encoder)
    return encoder if isinstance(encoder, ModelSource) else LoadedModel(encoder)


def check_shard(shard: tuple[int, int]) -> None:
    """Refuse a shard that does not exist.

    Raises:
        UsageError: it is not one of 1 to n.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise UsageError(
            f"--shard {part}/{parts}: give I/N with I from 1 to N, such as 1/{max(parts, 1)}"
        )


def _tasks(
    paths: Sequence[Path],
    folder: BagsFolder,
    model: ModelSource | LoadedModel,
    options: ExtractionOptions,
    masks: Sequence[Mask | None] | None,
    shard: tuple[int, int],
) -> Iterator[ExtractionTask]:
    # Over all slides, so that each shard gives the same names. A slide that shares its stem is named by
    # its whole file name, which another slide may have as its stem.
    names = Counter(
        name.casefold() for slide in paths for name in {stem_of(slide), stem_for(slide.name)}
    )
    run = uuid.uuid4().hex
    for index in range(shard[0] - 1, len(paths), shard[1]):
        yield ExtractionTask(
            paths[index],
            lone=names[stem_of(paths[index]).casefold()] == 1,
            folder=folder,
            model=model,
            sampling=options.sampling,
            read=options.read if masks is None else replace(options.read, mask=masks[index]),
            resume=Resume("make", options.overwrite, options.retry_failed),
            run_name=run,
        )


def _line(outcome: Outcome) -> str:
    """Return the console's line on a slide."""
    if outcome.status == "failed":
        return f"FAILED  {outcome.message}"
    row = outcome.row
    words = [f"{sum(row[f'patches_{scale}'] for scale in SCALES)} patches"]
    words.append(
        "finished before, skipped" if outcome.status == "skipped" else f"{row['seconds']} s"
    )
    if outcome.message:
        words.append(f"note: {outcome.message}")
    return f"ok      {Path(outcome.source).name}: {', '.join(words)}"
