"""Many slides to bags on disk, one store a slide.

A bag is finished when its record, or failing that its own provenance, says that it would be made the
same again; a bag is only replaced by another bag of the same slide.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.paths import stem_for
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.bags_folder import BagsFolder, stem_of
from tiacrossfusion.runs.extraction_task import ExtractionPlan, ExtractionTask
from tiacrossfusion.runs.runner import Executor, Outcome, Resume, run_tasks
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


def extract_slides(
    slides: Sequence[str | Path],
    folder: str | Path,
    encoder: Encoder | ModelSource,
    options: ExtractionOptions | None = None,
    *,
    masks: Sequence[Mask | None] | None = None,
    shard: tuple[int, int] = (1, 1),
    executor: Executor | None = None,
    show_progress: bool = True,
) -> list[Outcome]:
    """Make feature bags of slides, one store `<stem>.zarr` each.

    Two slides of one stem get `<file name>.zarr`. A bag that is in place is kept while slide, scale,
    mask, sampling and encoder are those that it was made with, and made again when one of them has
    changed. A slide that fails is recorded with its reason and the rest go on; it is not tried again in
    the same way unless `retry_failed` is set.

    Args:
        slides: paths of slides.
        folder: where bags and `extraction.csv` go; made when it does not exist.
        encoder: turns patches into features; a name from which each process loads it, or itself.
        options: how slides are read, and which are made again; None for the defaults.
        masks: one for each slide, over that of the options: an image or GeoJSON file, a folder with one
            file a slide, an array, or None.
        shard: (i, n) takes every n-th slide from the i-th on, 1 <= i <= n; other processes do the rest.
        executor: where slides are worked on, such as a `Cluster`; None for this process.
        show_progress: draw bars and print a line for each slide.

    Returns:
        The outcome of each slide of the shard, in order.

    Raises:
        TiacfError: an option makes no sense, or the cluster is gone.
        OutputError: the folder cannot be written.
    """
    check_shard(shard)
    target = BagsFolder(Path(folder))
    tasks = _tasks(slides, target, encoder, options or ExtractionOptions(), masks, shard)
    return run_tasks(
        tasks,
        _size_of(shard, slides),
        _line,
        folder=target,
        executor=executor,
        show_progress=show_progress,
    )


def plan_extraction(
    slides: Sequence[str | Path],
    folder: str | Path,
    encoder: Encoder | ModelSource,
    options: ExtractionOptions | None = None,
    *,
    masks: Sequence[Mask | None] | None = None,
    shard: tuple[int, int] = (1, 1),
    show_progress: bool = True,
) -> Iterator[ExtractionPlan]:
    """Yield what `extract_slides` would do with each slide, writing nothing.

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
    with Progress(_size_of(shard, slides), show=show_progress) as progress:
        for task in _tasks(slides, target, encoder, options or ExtractionOptions(), masks, shard):
            plan = task.plan(progress)
            progress.slide_done()
            yield plan


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


def _size_of(shard: tuple[int, int], slides: Sequence[str | Path]) -> int:
    return len(range(shard[0] - 1, len(slides), shard[1]))


def _tasks(
    slides: Sequence[str | Path],
    folder: BagsFolder,
    encoder: Encoder | ModelSource,
    options: ExtractionOptions,
    masks: Sequence[Mask | None] | None,
    shard: tuple[int, int],
) -> Iterator[ExtractionTask]:
    paths = [Path(slide) for slide in slides]
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
            model=encoder if isinstance(encoder, ModelSource) else LoadedModel(encoder),
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
