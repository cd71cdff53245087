"""Judge predictions: compute all that is asked for, then write it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.added_value import added_value
from tiacrossfusion.evaluation.clinic_files import write_clinic
from tiacrossfusion.evaluation.competing import competing_risks, incidence_figure
from tiacrossfusion.evaluation.dependence_figure import dependence_figure
from tiacrossfusion.evaluation.evaluation_files import COMPARISON, COMPETING
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.page_writing import write_page
from tiacrossfusion.evaluation.partial_figure import partial_figure
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.report import write_evaluation
from tiacrossfusion.evaluation.scores import (
    AddedValue,
    Comparison,
    CompetingRisks,
    Evaluation,
    Subgroups,
)
from tiacrossfusion.evaluation.subgroups import subgroups
from tiacrossfusion.evaluation.table_files import write_tables
from tiacrossfusion.evaluation.tables import evaluation_tables
from tiacrossfusion.io.atomic import write_text

if TYPE_CHECKING:
    import pandas as pd

_RESEARCH = "Research use only."
_DEPENDENCE = (
    "Mean log-hazard over the training patients by the value of one variable, a line a fold; dashed: the "
    "variable alone."
)


@dataclass(frozen=True)
class Judgement:
    """Figures of a model, and what else was asked for.

    Attributes:
        model: its name.
        evaluation: figures of its predictions.
        comparison: with another model.
        added: what the model adds to clinical covariates.
        subgroups: by each column that was named.
        competing: figures where other causes end follow-up, too.
    """

    model: str
    evaluation: Evaluation
    comparison: Comparison | None = None
    added: AddedValue | None = None
    subgroups: tuple[Subgroups, ...] = ()
    competing: CompetingRisks | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as values that JSON has."""
        parts = {
            "evaluation": self.evaluation,
            "comparison": self.comparison,
            "added_value": self.added,
            "competing_risks": self.competing,
        }
        given = {
            name: json.loads(part.model_dump_json())  # which writes NaN as null
            for name, part in parts.items()
            if part is not None
        }
        groups = [json.loads(group.model_dump_json()) for group in self.subgroups]
        return {"model": self.model, **given, "subgroups": groups}


@dataclass(frozen=True)
class Clinic:
    """What is asked of a table of patients, beside their follow-up.

    Attributes:
        table: CSV or Parquet, a row a slide or a patient.
        columns: names of its columns; with `covariates`, what the model adds to them is judged.
        time_unit: of its times; None takes that of the predictions.
        by: columns whose values make subgroups.
        at: time of the decision curve; None takes the middle bin edge.
        cause: column with 0 for censored, 1 for the event, 2 for another cause.
        drop_unusable: leave out rows without follow-up or bag instead of refusing the table.

    Raises:
        UsageError: a cause together with times of entry.
    """

    table: Path
    columns: Columns = field(default_factory=Columns)
    time_unit: str | None = None
    by: tuple[str, ...] = ()
    at: float | None = None
    drop_unusable: bool = False
    cause: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be computed together."""
        if self.cause is not None and self.columns.entry is not None:
            raise UsageError(
                "--cause with --entry-time: incidence with late entry is not computed; leave one of them out"
            )

    def read(self, unit: str, *needed: str) -> CohortTable:
        """Read follow-up, covariates, columns of subgroups, and other columns that are needed.

        Raises:
            TiacfError: the table is at fault.
        """
        further = (*self.by, *filter(None, [self.cause]), *needed)
        columns = self.columns.model_copy(update={"further": further})
        return read_table(
            self.table,
            columns,
            self.time_unit or unit,
            drop_unusable=self.drop_unusable,
            covariates_may_miss=True,
        )


def entered(folds: Sequence[FoldPredictions], table: CohortTable) -> list[FoldPredictions]:
    """Return predictions with the times of entry of a table, if it has any.

    Raises:
        TiacfError: a patient enters when the follow-up has ended.
    """
    if "entry" not in table.patients:
        return list(folds)
    times = table.patients["entry"]
    return [replace(fold, entries=times.loc[list(fold.patients)].to_numpy(float)) for fold in folds]


def judge(
    folds: Sequence[FoldPredictions],
    model: str,
    clinic: Clinic | None = None,
    table: CohortTable | None = None,
    *,
    draws: int,
    seed: int,
    comparison: Comparison | None = None,
    notes: Sequence[str] = (),
    optimistic: bool = False,
    why: str | None = None,
) -> Judgement:
    """Compute all that is asked for.

    Args:
        folds: predictions.
        model: its name.
        clinic: what is asked of the table; None asks for figures of the predictions alone.
        table: patients, read by `clinic`.
        draws: of the bootstrap.
        seed: of the bootstrap.
        comparison: with another model.
        notes: that come before those of the evaluation.
        optimistic: the patients were also used to train or choose the model.
        why: says how; None is the sentence on the authors' protocol.

    Raises:
        TiacfError: predictions and table do not go together, or a regression fails.
    """
    reason = {} if why is None else {"why": why}
    evaluation = evaluate(folds, draws=draws, seed=seed, optimistic=optimistic, **reason)
    evaluation = evaluation.model_copy(update={"notes": (*notes, *evaluation.notes)})
    if clinic is None or table is None:
        return Judgement(model, evaluation, comparison)
    values, added, competing = table.patients, None, None
    if clinic.columns.covariates:
        chosen = values[list(clinic.columns.covariates)]
        added = added_value(folds, chosen, at=clinic.at, draws=draws, seed=seed)
    groups = tuple(subgroups(folds, values[name], draws=draws, seed=seed) for name in clinic.by)
    if clinic.cause is not None:
        competing = competing_risks(folds, values[clinic.cause], draws=draws, seed=seed)
    return Judgement(model, evaluation, comparison, added, groups, competing)


def write_judgement(
    folder: Path,
    folds: Sequence[FoldPredictions],
    judged: Judgement,
    *,
    title: str,
    causes: pd.Series | None = None,
    figures: str = "png",
    tables: str | None = None,
    learning_curves: Mapping[int, pd.DataFrame] | None = None,
    dependence: Sequence[pd.DataFrame] = (),
    parts: Sequence[pd.DataFrame] = (),
    settings: Mapping[str, object] | None = None,
) -> None:
    """Write figures, pictures and `report.html` into a folder.

    Args:
        folder: made if it does not exist.
        folds: the predictions that were judged.
        judged: their figures.
        title: heading of pictures and page.
        causes: cause by patient, if competing risks were judged.
        figures: format of the pictures, "png", "svg" or "pdf".
        tables: format of a file of tables, "xlsx" or "tex"; None writes none.
        learning_curves: for each fold one row per epoch, see `learning_figure`.
        dependence: of each fold, how the log-hazard depends on the variables of a record.
        parts: of each fold, risks of its slides from parts of them, see `partial_figure`.
        settings: of the run, for the page.

    Raises:
        TiacfError: the folder cannot be written.
    """
    written = write_evaluation(
        folder,
        folds,
        judged.evaluation,
        title=title,
        learning_curves=learning_curves,
        note=_RESEARCH,
        figures=figures,
    )
    pictures = [path for path in written if path.suffix == f".{figures}"]
    if judged.comparison is not None:
        write_text(folder / COMPARISON, judged.comparison.model_dump_json(indent=1) + "\n")
    pictures += write_clinic(
        folder, judged.added, judged.subgroups, title=title, note=_RESEARCH, figures=figures
    )
    if any(len(frame) for frame in dependence):
        pictures.append(folder / f"partial_dependence.{figures}")
        dependence_figure(dependence, pictures[-1], title=title, note=_DEPENDENCE)
    if len(parts):
        pictures.append(folder / f"partial_reading.{figures}")
        partial_figure(parts, pictures[-1], title=title, note=_RESEARCH)
    if judged.competing is not None and causes is not None:
        write_text(folder / COMPETING, judged.competing.model_dump_json(indent=1) + "\n")
        pictures.append(folder / f"cumulative_incidence.{figures}")
        incidence_figure(folds, causes, pictures[-1], title=title, note=_RESEARCH)
    made = evaluation_tables(
        judged.evaluation, judged.added, judged.subgroups, judged.comparison, judged.competing
    )
    if tables is not None:
        write_tables(folder, made, tables)
    write_page(
        folder,
        judged.evaluation,
        title=title,
        pictures=pictures,
        tables=made,
        added=judged.added,
        groups=judged.subgroups,
        settings=settings,
    )
