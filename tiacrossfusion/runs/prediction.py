"""Many slides or bags to predictions in a folder, or in memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.prediction_task import (
    BagTask,
    PredictionOptions,
    PredictionTask,
    SlideTask,
)
from tiacrossfusion.runs.results_folder import ResultsFolder
from tiacrossfusion.runs.runner import Executor, Outcome, run_tasks
from tiacrossfusion.slides.options import Mask
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

    from tiacrossfusion.models.config import BundleConfig


def predict_slides(
    images: Sequence[str | Path | WSIReader],
    model: LoadedModel | ModelSource,
    folder: ResultsFolder | None,
    options: PredictionOptions | None = None,
    *,
    masks: Sequence[Mask | None] | None = None,
    executor: Executor | None = None,
    show_progress: bool = True,
) -> list[Outcome]:
    """Predict slides one by one and write their results.

    Finished slides are skipped, a slide that cannot be predicted is recorded with its reason, and the
    rest go on.

    Args:
        images: paths of slides or TIAToolbox readers.
        model: the model and its encoder, or the names from which each process loads them.
        folder: where results go, earlier ones in it are resumed; None keeps them in memory.
        options: how slides are read and written; None for the defaults.
        masks: one for each image, over that of the options: an image or GeoJSON file, a folder with one
            file a slide, an array, or None.
        executor: where slides are worked on, such as a `Cluster`; None for this process.
        show_progress: draw bars and print a line for each slide.

    Returns:
        The outcome of each image, in order.

    Raises:
        OutputError: the output folder cannot be written.
        TiacfError: the model cannot be loaded, or the cluster is gone.
    """
    settings, run = options or PredictionOptions(), uuid.uuid4().hex
    tasks = (
        SlideTask(
            image,
            settings.read if masks is None else replace(settings.read, mask=masks[index]),
            model,
            folder,
            settings,
            run,
        )
        for index, image in enumerate(images)
    )
    return _run(tasks, len(images), model.config(), folder, executor, show_progress=show_progress)


def predict_bags(
    stores: Sequence[str | Path],
    model: LoadedModel | ModelSource,
    folder: ResultsFolder | None,
    options: PredictionOptions | None = None,
    *,
    executor: Executor | None = None,
    show_progress: bool = True,
) -> list[Outcome]:
    """Predict slides from their bags; neither slides nor encoder are needed.

    As `predict_slides`, and with the same outputs, but the picture of the attention shows no slide.

    Args:
        stores: paths of bags, as `FeatureBag.save` and `tiacf extract` write them.
        model: the model, or its name; a bag made with another encoder or sampling is recorded as failed.
        folder: where results go, earlier ones in it are resumed; None keeps them in memory.
        options: how results are made and written, None for the defaults; `read` is ignored.
        executor: where bags are worked on; None for this process.
        show_progress: draw bars and print a line for each bag.

    Returns:
        The outcome of each bag, in order.

    Raises:
        OutputError: the output folder cannot be written.
        TiacfError: the model cannot be loaded, or the cluster is gone.
    """
    settings, run = options or PredictionOptions(), uuid.uuid4().hex
    tasks = (BagTask(Path(store), model, folder, settings, run) for store in stores)
    return _run(tasks, len(stores), model.config(), folder, executor, show_progress=show_progress)


def _run(
    tasks: Iterable[PredictionTask],
    total: int,
    config: BundleConfig,
    folder: ResultsFolder | None,
    executor: Executor | None,
    *,
    show_progress: bool,
) -> list[Outcome]:
    if folder is not None:
        folder.check_report_free()
    outcomes = run_tasks(
        tasks,
        total,
        lambda outcome: _line(outcome, config),
        folder=folder,
        executor=executor,
        show_progress=show_progress,
    )
    if folder is not None:
        folder.write_report(config)
    return outcomes


def _line(outcome: Outcome, config: BundleConfig) -> str:
    """Return the console's line on a slide."""
    if outcome.status == "failed":
        return f"FAILED  {outcome.message}"
    row = outcome.row
    words = [f"risk {row['risk']:.3f}"]
    if row.get("risk_sd") is not None:
        words.append(f"SD over the ensemble {row['risk_sd']:.3f}")
    if row["percentile"] is not None:
        words.append(f"percentile {row['percentile']:.0f} of {config.name}'s training patients")
        words.append(f"{row['risk_group']} risk group")
    if outcome.status == "skipped":
        words.append("finished before, skipped")
    else:
        words.append(f"{sum(row[f'patches_{scale}'] for scale in SCALES)} patches")
        words.append(f"{row['seconds']:.0f} s")
    if row["message"]:
        words.append(f"note: {row['message']}")
    return f"ok      {row['slide']}: {', '.join(words)}"
