"""Many slides to bags on disk, one store a slide.

A bag is finished when its record, or failing that its own provenance, says that it would be made the
same again; a bag is only replaced by another bag of the same slide.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.paths import absolute, stem_for
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.bags_folder import BagsFolder
from tiacrossfusion.runs.cluster import connect
from tiacrossfusion.runs.extraction_task import ExtractionOptions, ExtractionPlan, ExtractionTask
from tiacrossfusion.runs.record import stem_of
from tiacrossfusion.runs.runner import Executor, Outcome, run_tasks
from tiacrossfusion.slides.files import DEFAULT_FILE_TYPES, find_slides, own_key
from tiacrossfusion.slides.options import Mask
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder


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
        images: paths of slides, each of which is taken once, or a folder or list of slides.
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
    model, options = _model_of(encoder), options or ExtractionOptions()
    if isinstance(images, str | Path):
        found = find_slides(images, file_types)
        slides, options = found.slides, options.with_own(found.own)
    else:
        slides = list({own_key(Path(image)): Path(image) for image in images}.values())
    if cluster is None:
        model.load()  # a wrong name should not wait for the first slide
    else:
        slides, folder = [slide.absolute() for slide in slides], Path(folder).absolute()
        masks = None if masks is None else [absolute(mask) for mask in masks]
        options = options.absolute()
    with connect(cluster, model) as executor:
        target = BagsFolder(Path(folder))
        return run_tasks(
            _tasks(slides, target, model, options, masks, shard),
            len(slides[shard[0] - 1 :: shard[1]]),
            _line,
            folder=target,
            executor=executor,
            show_progress=show_progress,
        )


def plan_extraction(
    slides: Sequence[Path],
    folder: Path,
    encoder: ModelSource | Encoder,
    options: ExtractionOptions | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Iterator[ExtractionPlan]:
    """Yield what `extract` would do with each slide, writing nothing; the arguments are the same."""
    target = BagsFolder(folder, make=False)
    tasks = _tasks(slides, target, _model_of(encoder), options or ExtractionOptions(), None, shard)
    with Progress(len(slides[shard[0] - 1 :: shard[1]])) as progress:
        for task in tasks:
            plan = task.plan(progress)
            progress.slide_done()
            yield plan


def _model_of(encoder: str | ModelSource | Encoder) -> ModelSource | LoadedModel:
    if isinstance(encoder, str):
        return ModelSource(encoder)
    return encoder if isinstance(encoder, ModelSource) else LoadedModel(encoder)


def check_shard(shard: tuple[int, int]) -> None:
    """Raise a `UsageError` for a shard (i, n) unless 1 <= i <= n."""
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
            options=options.with_mask(masks, index),
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
