"""Many slides or bags to predictions, in a folder or in memory, and the patients whose they are."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.paths import absolute
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.patients import PatientOutcome, predict_patients
from tiacrossfusion.runs.prediction_task import BagTask, PredictionOptions, SlideTask
from tiacrossfusion.runs.results_folder import ResultsFolder
from tiacrossfusion.runs.runner import Executor, Outcome, run_tasks
from tiacrossfusion.slides.options import Mask
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.cohorts.patients import PatientTable
    from tiacrossfusion.models.config import BundleConfig


@dataclass(frozen=True)
class PredictionRun:
    """The results of a run.

    Attributes:
        outcomes: of the slides or bags, in order.
        patients: of the patients, in the order of their table; empty without one.
    """

    outcomes: list[Outcome]
    patients: list[PatientOutcome]


def predict(
    sources: Sequence[Any],
    model: LoadedModel | ModelSource,
    folder: ResultsFolder | None,
    options: PredictionOptions | None = None,
    *,
    are_bags: bool = False,
    masks: Sequence[Mask | None] | None = None,
    patients: PatientTable | None = None,
    executor: Executor | None = None,
    show_progress: bool = True,
) -> PredictionRun:
    """Predict slides or bags, and patients; `tiacf predict` and `SurvivalPredictor.run` both call this.

    Finished slides are skipped, a slide that cannot be predicted is recorded with its reason, and the
    rest go on. From bags the outputs are the same, but for the overview of the slide and its patches.

    Args:
        sources: slides (paths or TIAToolbox readers), or paths of bags.
        model: the model and its encoder, or the names from which each process loads them.
        folder: where results go, earlier ones in it are resumed; None keeps them in memory.
        options: how slides are read and results written; None for the defaults.
        are_bags: the sources are bags.
        masks: one for each slide, over that of the options.
        patients: the patient of each slide, and the covariates that the model takes; the table of patients is
            written too.
        executor: where slides are worked on, such as a `Cluster`; None for this process. Its workers get
            absolute paths.
        show_progress: draw bars and print a line for each slide.

    Raises:
        OutputError: the output folder cannot be written.
        TiacfError: the model cannot be loaded, the cluster is gone, two slides of the table are one, or the
            table lacks a covariate that the model takes.
    """
    options = options or PredictionOptions()
    if folder is not None:
        folder.check_own(patients=patients is not None)
    if executor is not None:
        sources = [absolute(source) for source in sources]
        masks = None if masks is None else [absolute(mask) for mask in masks]
        options = options.absolute()
    run = uuid.uuid4().hex
    kind = BagTask if are_bags else SlideTask
    config = model.config()
    covariates, remarks = _covariates(config, patients, sources)
    tasks = (
        kind(
            source,
            model,
            folder,
            options.with_mask(masks, index),
            run,
            covariates[index],
            remarks[index],
        )
        for index, source in enumerate(sources)
    )
    outcomes = run_tasks(
        tasks,
        len(sources),
        lambda outcome: _line(outcome, config),
        folder=folder,
        executor=executor,
        show_progress=show_progress,
    )
    if folder is not None:
        folder.write_report(config)
    if patients is None:
        return PredictionRun(outcomes, [])
    of_patients = predict_patients(patients, outcomes, config)
    if folder is not None:
        folder.write_patients([outcome.row for outcome in of_patients])
    return PredictionRun(outcomes, of_patients)


def _covariates(
    config: BundleConfig, patients: PatientTable | None, sources: Sequence[Any]
) -> tuple[list[tuple[float, ...] | None], list[str]]:
    """Return the covariates that the model takes for each source, and what is to be said of each.

    None for a source of no patient.
    """
    nothing = [""] * len(sources)
    record = config.architecture.record
    if record is not None:
        if patients is None:
            return [None] * len(sources), nothing
        codes, remarks = patients.records(record)
        rows = [None if slide is None else slide for slide in _slides_of(patients, sources)]
        return (
            [None if slide is None else codes[slide] for slide in rows],
            ["" if slide is None else remarks[slide] for slide in rows],
        )
    names = config.architecture.covariates
    if not names:
        return [None] * len(sources), nothing
    if patients is None:
        raise UsageError(
            f"{config.name} needs the covariates {', '.join(names)}; give a table of the slides with "
            "these columns with --patients"
        )
    numbers = patients.numbers(names)
    slides = _slides_of(patients, sources)
    found = [None if slide is None else tuple(numbers[slide].values()) for slide in slides]
    return found, nothing


def _slides_of(patients: PatientTable, sources: Sequence[Any]) -> list[str | None]:
    """Return the name of each source in the table."""
    return patients.find([s if isinstance(s, str | Path) else s.input_path or "" for s in sources])


def _line(outcome: Outcome, config: BundleConfig) -> str:
    """Return the console's line on a slide."""
    if outcome.status == "failed":
        return f"FAILED  {outcome.message}"
    row = outcome.row
    words = [f"risk {row['risk']:.3f}"]
    if row.get("risk_sd") is not None:
        words.append(f"SD {row['risk_sd']:.3f}")
    if row["percentile"] is not None:
        words.append(f"percentile {row['percentile']:.0f} of {config.name}'s training patients")
        uncertain = " (uncertain)" if row.get("risk_group_uncertain") else ""
        words.append(f"{row['risk_group']} risk group{uncertain}")
    if outcome.status == "skipped":
        words.append("finished before, skipped")
    else:
        words.append(f"{sum(row.get(f'patches_{scale}', 0) for scale in SCALES)} patches")
        words.append(f"{row['seconds']:.0f} s")
    if row["message"]:
        words.append(f"note: {row['message']}")
    return f"ok      {row['slide']}: {', '.join(words)}"
