"""Predictions of patients from those of their slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.cohorts.patients import PatientTable
from tiacrossfusion.inference.prediction import (
    Prediction,
    read_off,
    record_use,
    risk_caveat,
    with_nuisance,
)
from tiacrossfusion.outputs.values import prediction_row

if TYPE_CHECKING:
    from tiacrossfusion.models.config import BundleConfig
    from tiacrossfusion.runs.runner import Outcome


@dataclass(frozen=True)
class PatientOutcome:
    """The result for one patient.

    Attributes:
        patient: identifier.
        slides: the patient's slides, as the table names them.
        predicted: those of them that have been predicted.
        prediction: of the patient; None when no slide has been predicted.
        message: what is missing or unknown; empty when all is well.
        row: the patient's row of `patients.csv`.
    """

    patient: str
    slides: tuple[str, ...]
    predicted: tuple[str, ...]
    prediction: Prediction | None
    message: str
    row: dict[str, Any]


def predict_patients(
    table: PatientTable, outcomes: Sequence[Outcome], config: BundleConfig
) -> list[PatientOutcome]:
    """Predict patients from their slides: the mean of the slides' hazards, as in training.

    `BundleConfig.patient_hazards` records that rule. The curve and all that follows are read off the
    mean hazards. The spread over the members of an ensemble is not given: it would need the hazards
    of each member, of which slides keep the mean only.

    Args:
        table: which slide is of which patient.
        outcomes: of the slides of a run of this model.
        config: of the model.

    Returns:
        The result for each patient of the table, in its order, also for those without a predicted slide.

    Raises:
        TiacfError: slides cannot be told apart, or the table has no slide of the run.
    """
    found = table.find([outcome.source for outcome in outcomes])
    of_slide = {slide: outcome for slide, outcome in zip(found, outcomes, strict=True) if slide}
    patients: dict[str, list[str]] = {}
    for slide, patient in table.owners.items():
        patients.setdefault(patient, []).append(slide)
    return [_predict(patient, slides, of_slide, config) for patient, slides in patients.items()]


def _predict(
    patient: str, slides: list[str], outcomes: dict[str, Outcome], config: BundleConfig
) -> PatientOutcome:
    hazards, predicted, lacking = [], [], []
    for slide in slides:
        if slide not in outcomes:
            lacking.append(f"{slide} (not in this run)")
        elif outcomes[slide].status == "failed":
            lacking.append(f"{slide} (failed)")
        else:
            predicted.append(slide)
            hazards.append(outcomes[slide].row["hazards"])
    row: dict[str, Any] = {
        "patient": patient,
        "slides": len(slides),
        "slides_predicted": len(predicted),
        "model": config.name,
        "status": "ok" if predicted else "failed",
    }
    messages = []
    if lacking:
        messages.append(
            f"{len(lacking)} of {len(slides)} slides not predicted: {', '.join(lacking)}"
        )
    prediction = None
    if hazards:
        prediction = read_off(np.mean(hazards, axis=0), config)
        rows = [outcomes[slide].row for slide in predicted]
        if config.architecture.record is not None and "record_used" in rows[0]:
            names = config.architecture.record.names
            used = rows[0]["record_used"].split(", ")
            known = np.array([name in used for name in names])
            without = np.mean([one["hazards_without_record"] for one in rows], axis=0)
            prediction = replace(prediction, record=record_use(names, known, without))
        if all(one.get("risk_nuisance_sd") is not None for one in rows):
            # The same stain and scanner would move all slides of a patient alike.
            sd = float(np.mean([one["risk_nuisance_sd"] for one in rows]))
            prediction = with_nuisance(prediction, sd, config.risk_reference)
        messages += [prediction.unknown, risk_caveat(prediction, config)]
        row |= prediction_row(prediction, config)
    message = "; ".join(filter(None, messages))
    row["message"] = message
    return PatientOutcome(patient, tuple(slides), tuple(predicted), prediction, message, row)
