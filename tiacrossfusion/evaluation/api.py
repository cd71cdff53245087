"""Judge predictions of a model, or a finished model on another cohort: what `tiacf evaluate` does."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.cohorts.table_file import table_columns
from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.clinic_files import same_follow_up
from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.evaluation_files import read_evaluation
from tiacrossfusion.evaluation.external import PatientPredictions
from tiacrossfusion.evaluation.judging import Clinic, Judgement, entered, judge, write_judgement
from tiacrossfusion.evaluation.judging_scores import evaluate_faithfulness
from tiacrossfusion.evaluation.prediction_files import TABLE, read_predictions
from tiacrossfusion.evaluation.table_files import check_format
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.io.paths import is_file
from tiacrossfusion.text import printable

__all__ = [
    "Clinic",
    "Judgement",
    "evaluate_external",
    "evaluate_faithfulness",
    "evaluate_predictions",
]


def evaluate_predictions(
    predictions: str | Path,
    output_path: str | Path | None = None,
    *,
    against: str | Path | None = None,
    clinic: Clinic | None = None,
    figures: str = "png",
    tables: str | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Judgement:
    """Judge the predictions of a model, and compare them with those of another.

    Args:
        predictions: folder of a model in the output of `train`, or the `out_of_fold.csv` in it; or the
            `patients.csv` of `tiacf predict`, with the follow-up in `clinic`.
        output_path: folder for `evaluation.json`, pictures and what else was asked for; None writes nothing.
        against: the same of another model, trained on the same folds.
        clinic: a table of the patients, for covariates, subgroups, or the follow-up of a `patients.csv`.
        figures: format of the pictures, "png", "svg" or "pdf".
        tables: format of a file of tables, "xlsx" or "tex"; None writes none.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UsageError: a file is not there, or a number is wrong.
        TiacfError: a file is damaged, or the two models do not go together.
    """
    _check(draws, seed, tables)
    source = Path(predictions)
    if clinic is not None and is_file(source) and source.name != TABLE:
        if against is not None:
            raise UsageError("--against: compares out-of-fold predictions; leave it out")
        given = PatientPredictions.read(source)
        cohort = clinic.read(given.bins.unit)
        fold, notes = given.of(cohort)
        folds = entered([fold], cohort)
        judged = judge(folds, given.model, clinic, cohort, draws=draws, seed=seed, notes=notes)
        title, causes = given.model, _causes(clinic, cohort)
    else:
        folds = read_predictions(source)
        others = None if against is None else read_predictions(Path(against))
        folder = source.parent if is_file(source) else source
        optimistic = read_evaluation(folder).optimistic
        table = None if clinic is None else clinic.read(folds[0].bins.unit)
        if table is not None:
            same_follow_up(folds, table)
            folds = entered(folds, table)
            others = None if others is None else entered(others, table)
        comparison = None if others is None else compare(folds, others, draws=draws, seed=seed)
        title, causes = printable(folder.absolute().name), _causes(clinic, table)
        judged = judge(
            folds,
            title,
            clinic,
            table,
            draws=draws,
            seed=seed,
            comparison=comparison,
            optimistic=optimistic,
        )
    if output_path is not None:
        write_judgement(
            Path(output_path),
            folds,
            judged,
            title=title,
            causes=causes,
            figures=figures,
            tables=tables,
        )
    return judged


def evaluate_external(
    model: str | Path,
    bags: str | Path,
    clinic: Clinic,
    output_path: str | Path | None = None,
    *,
    device: str = "cpu",
    figures: str = "png",
    tables: str | None = None,
    draws: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Judgement:
    """Judge a finished model on another cohort: its weights, time bins and cut-off stay as they are.

    Args:
        model: name of a shipped model, a bundle folder, or a hub id.
        bags: folder of feature bags of the cohort.
        clinic: table of its follow-up, and what else is asked.
        output_path: folder for `evaluation.json`, pictures and what else was asked for; None writes nothing.
        device: where the model runs.
        figures: format of the pictures, "png", "svg" or "pdf".
        tables: format of a file of tables, "xlsx" or "tex"; None writes none.
        draws: of the bootstrap.
        seed: of the bootstrap.
        progress: draw a bar.

    Raises:
        UsageError: a file is not there, or a number is wrong.
        TiacfError: bags, table and model do not go together.
    """
    from tiacrossfusion.bags.files import find_bags
    from tiacrossfusion.cohorts.matching import match_bags
    from tiacrossfusion.evaluation.external import coverage
    from tiacrossfusion.evaluation.external_bags import predict_cohort
    from tiacrossfusion.models.bundle import load_bundle

    _check(draws, seed, tables)
    bundle = load_bundle(model, device)
    config = bundle.config
    unit = config.time_bins.unit if config.time_bins is not None else ""
    record, needed = config.architecture.record, config.architecture.covariates
    if record is not None:  # what is not there is missing, and said
        there = table_columns(clinic.table)
        needed = tuple(name for name in record.names if name in there)
    table = clinic.read(unit or "time", *needed)
    table, sources = match_bags(table, find_bags(Path(bags)), drop_missing=clinic.drop_unusable)
    found = predict_cohort(bundle, table, sources, progress=progress)
    notes = [*table.messages(), *coverage(table, found.fold), *found.of_record]
    folds = entered([found.fold], table)
    judged = judge(
        folds,
        config.name,
        clinic,
        table,
        draws=draws,
        seed=seed,
        notes=notes if found.overlaps else [found.note, *notes],
        optimistic=found.overlaps,
        why=found.note,
    )
    if output_path is not None:
        write_judgement(
            Path(output_path),
            folds,
            judged,
            title=config.name,
            causes=_causes(clinic, table),
            figures=figures,
            tables=tables,
        )
    return judged


def _causes(clinic: Clinic | None, table: CohortTable | None) -> pd.Series | None:
    """Return the cause by patient, if competing risks are asked for."""
    if clinic is None or table is None or clinic.cause is None:
        return None
    return table.patients[clinic.cause]


def _check(draws: int, seed: int, tables: str | None) -> None:
    """Refuse what no figure can be computed with, before anything is read."""
    at_least("--draws", draws, 1)
    usable_seed("--seed", seed)
    if tables is not None:
        check_format(tables)
