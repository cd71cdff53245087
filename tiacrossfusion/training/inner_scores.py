"""Slide scores of training patients out of fold, from inner folds that are kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tiacrossfusion.cohorts.folds import Fold
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.fused import log_cumulative_hazard
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.devices import Devices
from tiacrossfusion.training.fold import fit_fold
from tiacrossfusion.training.patients import patient_hazards, patients_of
from tiacrossfusion.training.plan import INNER_FOLDS, Plan, divide

#: File of the scores, in the folder of a fold of the slide's network.
SCORES = "inner_scores.csv"

#: Folder of an inner fold that is being trained.
_WORK = "inner"


def inner_scores(
    plan: Plan,
    model: str,
    fold: Fold,
    bags: CohortBags,
    *,
    devices: Devices,
    say: Callable[[str], None],
) -> pd.Series[float]:
    """Return slide scores of the patients outside the test part, by networks not trained on the patient.

    The patients are divided into five parts; for each, a network is trained and stopped on the others. A
    score is the log of the cumulative hazard at the last bin edge, less its mean over the patients whom its
    network was trained and stopped on, as scores of two networks differ by a constant. They are kept after
    each part: a killed run goes on with the next, and all models of slide and record share them.

    Args:
        plan: folds and settings.
        model: the slide's network.
        fold: its test patients are left out.
        bags: of all patients.
        devices: where networks are trained.
        say: gets a line for each part.

    Raises:
        TiacfError: a part cannot be trained, or the file of scores is damaged.
    """
    place = plan.fold_folder(model, fold)
    names = fold.outside_test
    table = plan.cohort.table.of(names)
    share = plan.config.protocol.validation_share
    seed = plan.config.seed * 1000 + fold.number
    parts, _ = divide(table, INNER_FOLDS, share, seed=seed + 500)
    made = _read(place / SCORES)
    for part in parts:
        if (made["part"] == part.number).any():
            continue
        say(
            f"{model}: part {part.number + 1} of {len(parts)} of the training patients, out of fold"
        )
        shutil.rmtree(place / _WORK, ignore_errors=True)
        training, validation = (
            patients_of(table, group) for group in (part.train, part.validation)
        )
        fitted = fit_fold(
            model,
            plan.config,
            bags,
            training,
            validation,
            place / _WORK,
            seed=seed + part.number,
            devices=devices,
            show_progress=False,
        )
        scores = raw_scores(fitted.network, bags, table, part.test)
        centre = raw_scores(fitted.network, bags, table, (*part.train, *part.validation)).mean()
        rows = {"part": part.number, "patient": part.test, "score": scores - centre}
        made = pd.concat([made, pd.DataFrame(rows)], ignore_index=True)
        write_text(place / SCORES, made.to_csv(index=False, lineterminator="\n"))
        shutil.rmtree(place / _WORK, ignore_errors=True)
    return made.set_index("patient")["score"].loc[list(names)]


def raw_scores(
    network: SurvivalNetwork, bags: CohortBags, table: CohortTable, names: tuple[str, ...]
) -> np.ndarray:
    """Return the log of the cumulative hazard (N,) at the last bin edge of patients."""
    hazards = torch.from_numpy(patient_hazards(network, bags, patients_of(table, names)))
    return log_cumulative_hazard(torch.logit(hazards.clamp(1e-12, 1 - 1e-12))).numpy()


def _read(path: Path) -> pd.DataFrame:
    """Read the scores that are made."""
    empty = pd.DataFrame({"part": [], "patient": [], "score": []})
    if not path.is_file():
        return empty.astype({"part": int, "patient": str, "score": float})
    try:
        types = {"part": int, "patient": str, "score": float}
        frame = pd.read_csv(path, dtype=types, float_precision="round_trip", keep_default_na=False)
        return frame[["part", "patient", "score"]]
    except (OSError, ValueError, KeyError) as error:
        raise TiacfError(
            f"{path}: cannot be read ({one_line(error)}); remove it to have the scores made again"
        ) from error
