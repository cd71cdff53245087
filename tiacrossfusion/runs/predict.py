"""One run of predictions: slides or bags, and the patients whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tiacrossfusion.io.paths import absolute
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.patients import PatientOutcome, predict_patients
from tiacrossfusion.runs.prediction import predict_bags, predict_slides
from tiacrossfusion.runs.prediction_task import PredictionOptions
from tiacrossfusion.runs.results_folder import ResultsFolder
from tiacrossfusion.runs.runner import Executor, Outcome
from tiacrossfusion.slides.options import Mask

if TYPE_CHECKING:
    from tiacrossfusion.cohorts.patients import PatientTable


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
    options: PredictionOptions,
    *,
    are_bags: bool = False,
    masks: Sequence[Mask | None] | None = None,
    patients: PatientTable | None = None,
    executor: Executor | None = None,
    show_progress: bool = True,
) -> PredictionRun:
    """Predict slides or bags, and patients; `tiacf predict` and `SurvivalPredictor.run` both call this.

    Args:
        sources: slides (paths or TIAToolbox readers), or paths of bags.
        model: the model and its encoder, or the names from which each process loads them.
        folder: where results go, earlier ones in it are resumed; None keeps them in memory.
        options: how slides are read and results written.
        are_bags: the sources are bags.
        masks: one for each slide, over that of the options.
        patients: the patient of each slide; their table is written too.
        executor: where slides are worked on, such as a `Cluster`; None for this process. Its workers get
            absolute paths.
        show_progress: draw bars and print a line for each slide.

    Raises:
        OutputError: the output folder cannot be written.
        TiacfError: the model cannot be loaded, the cluster is gone, or two slides of the table are one.
    """
    if folder is not None and patients is not None:
        folder.check_patients_free()
    if executor is not None:
        sources = [absolute(source) for source in sources]
        masks = None if masks is None else [absolute(mask) for mask in masks]
        read = replace(options.read, mask=absolute(options.read.mask))
        options = replace(options, read=read)
    how: dict[str, Any] = {"executor": executor, "show_progress": show_progress}
    if are_bags:
        outcomes = predict_bags(sources, model, folder, options, **how)
    else:
        outcomes = predict_slides(sources, model, folder, options, masks=masks, **how)
    if patients is None:
        return PredictionRun(outcomes, [])
    of_patients = predict_patients(patients, outcomes, model.config())
    if folder is not None:
        folder.write_patients([outcome.row for outcome in of_patients])
    return PredictionRun(outcomes, of_patients)
