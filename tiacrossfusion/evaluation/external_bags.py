"""Predict the patients of another cohort from bags, with a finished model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.identity import bag_identities
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.external import locked_predictions, overlap
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.inference.prediction import Prediction, predict_bag, read_off

if TYPE_CHECKING:
    from tiacrossfusion.models.bundle import ModelBundle


@dataclass(frozen=True)
class ExternalPredictions:
    """Predictions for another cohort.

    Attributes:
        fold: the predictions.
        overlaps: whether the model was trained on some of the patients.
        note: names those patients, or says that the model was trained on no patient of the cohort.
        of_record: what is to be said of the clinical records, of a model that reads them.
    """

    fold: FoldPredictions
    overlaps: bool
    note: str
    of_record: tuple[str, ...] = ()


def predict_cohort(
    bundle: ModelBundle,
    table: CohortTable,
    sources: Mapping[str, Path],
    *,
    progress: bool = False,
) -> ExternalPredictions:
    """Predict the patients of a table: the mean hazards of their slides, as in training.

    Args:
        bundle: the model.
        table: follow-up, with the covariates that the model takes, if any.
        sources: the bag of each slide.
        progress: draw a bar.

    Raises:
        TiacfError: the model has no time bins or no cut-off, or a bag does not go with it.
    """
    config = bundle.config
    if config.time_bins is None or config.risk_reference is None:
        raise TiacfError(
            f"{config.name}: has no time bins or no training risks, so that nothing of time can be judged; "
            "train it with tiacf train"
        )
    cutoff, trained_on = config.risk_reference.cutoff, set(config.training_slides)
    record, of_record, codes = config.architecture.record, list[str](), dict[str, np.ndarray]()
    if record is not None:
        values, of_record = record.codes(table.patients)
        codes = dict(zip(table.patients.index, values, strict=True))
        used = np.isfinite(values)
        without = int((~used.any(axis=1)).sum())
        of_record.append(
            f"Of the clinical records {used.mean():.0%} of the values are there; {without} of {len(used)} "
            "patients have none and are predicted from the slide alone."
        )
    hazards: dict[str, list[np.ndarray]] = {}
    known: dict[str, bool] = {}
    rows = list(table.slides.itertuples(index=False))
    for row in tqdm(rows, desc="Slides", disable=None if progress else True):
        bag = FeatureBag.load(sources[row.slide])
        covariates = codes.get(row.patient)
        if config.architecture.covariates:
            covariates = bundle.covariates_of(table.patients.loc[row.patient].to_dict())
        hazards.setdefault(row.patient, []).append(predict_bag(bag, bundle, covariates).hazards)
        seen = bool(trained_on & set(bag_identities(bag)))
        known[row.patient] = known.get(row.patient, False) or seen
    made: dict[str, Prediction] = {
        name: read_off(np.mean(values, axis=0), config) for name, values in hazards.items()
    }
    fold = locked_predictions(
        table,
        {name: prediction.risk for name, prediction in made.items()},
        {name: prediction.survival for name, prediction in made.items()},
        {name: prediction.risk > cutoff for name, prediction in made.items()},
        config.time_bins,
    )
    note = (
        overlap(known) if trained_on else "The model does not say which slides it was trained on."
    )
    return ExternalPredictions(fold, any(known.values()), note, tuple(of_record))
