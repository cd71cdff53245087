"""Judge predictions and the scores of tokens: what `tiacf evaluate` does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import UsageError
from tiacrossfusion.evaluation.added_value import added_value
from tiacrossfusion.evaluation.clinic_files import same_follow_up, write_clinic
from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.competing import competing_risks, incidence_figure
from tiacrossfusion.evaluation.evaluation_files import COMPARISON, COMPETING, read_evaluation
from tiacrossfusion.evaluation.external import read_patient_predictions
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.page_writing import write_page
from tiacrossfusion.evaluation.prediction_files import TABLE, read_predictions
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
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.io.csv_table import read_csv
from tiacrossfusion.io.paths import is_file, is_folder, missing
from tiacrossfusion.text import printable

if TYPE_CHECKING:
    from tiacrossfusion.evaluation.faithfulness import Faithfulness


@dataclass(frozen=True)
class Judgement:
    """Figures of a model, and what else was asked for.

    Attributes:
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

    def json(self) -> str:
        """Return all figures as one JSON object."""
        parts = {
            "model": json.dumps(self.model),
            "evaluation": self.evaluation.model_dump_json(),
            "comparison": self.comparison and self.comparison.model_dump_json(),
            "added_value": self.added and self.added.model_dump_json(),
            "competing_risks": self.competing and self.competing.model_dump_json(),
            "subgroups": f"[{', '.join(group.model_dump_json() for group in self.subgroups)}]",
        }
        given = (f'"{name}": {text}' for name, text in parts.items() if text is not None)
        return f"{{{', '.join(given)}}}"


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
    """

    table: Path
    columns: Columns = field(default_factory=Columns)
    time_unit: str | None = None
    by: tuple[str, ...] = ()
    at: float | None = None
    drop_unusable: bool = False
    cause: str | None = None

    def read(self, unit: str, *needed: str) -> CohortTable:
        """Read follow-up, covariates, columns of subgroups, and other columns that are needed.

        Raises:
            TiacfError: the table is at fault.
        """
        names = dict.fromkeys(
            (*self.columns.covariates, *self.by, *filter(None, [self.cause]), *needed)
        )
        columns = self.columns.model_copy(update={"covariates": tuple(names)})
        return read_table(
            self.table,
            columns,
            self.time_unit or unit,
            drop_unusable=self.drop_unusable,
            covariates_may_miss=True,
        )


def evaluate_predictions(
    predictions: str | Path,
    output_path: str | Path | None = None,
    *,
    against: str | Path | None = None,
    clinic: Clinic | None = None,
    figures: str = "png",
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
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UsageError: a file is not there, or a number is wrong.
        TiacfError: a file is damaged, or the two models do not go together.
    """
    at_least("--draws", draws, 1)
    usable_seed("--seed", seed)
    source = Path(predictions)
    if clinic is not None and is_file(source) and source.name != TABLE:
        if against is not None:
            raise UsageError("--against: compares out-of-fold predictions; leave it out")
        cohort = clinic.read(_unit_of(source))
        fold, model, notes = read_patient_predictions(source, cohort)
        return _judge(
            [fold], model, output_path, clinic, cohort, draws, seed, notes=notes, figures=figures
        )
    folds = read_predictions(source)
    other = None if against is None else read_predictions(Path(against))
    folder = source.parent if is_file(source) else source
    optimistic = read_evaluation(folder).optimistic
    # Before anything is written: the two may not go together.
    comparison = None if other is None else compare(folds, other, draws=draws, seed=seed)
    table = None if clinic is None else clinic.read(folds[0].bins.unit)
    if table is not None:
        same_follow_up(folds, table)
    model = printable(folder.absolute().name)
    return _judge(
        folds,
        model,
        output_path,
        clinic,
        table,
        draws,
        seed,
        comparison=comparison,
        optimistic=optimistic,
        figures=figures,
    )


def evaluate_external(
    model: str | Path,
    bags: str | Path,
    clinic: Clinic,
    output_path: str | Path | None = None,
    *,
    device: str = "cpu",
    figures: str = "png",
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

    at_least("--draws", draws, 1)
    usable_seed("--seed", seed)
    bundle = load_bundle(model, device)
    config = bundle.config
    unit = config.time_bins.unit if config.time_bins is not None else ""
    table = clinic.read(unit or "time", *config.architecture.covariates)
    table, sources = match_bags(table, find_bags(Path(bags)), drop_missing=clinic.drop_unusable)
    found = predict_cohort(bundle, table, sources, progress=progress)
    notes = [*table.messages(), *coverage(table, found.fold)]
    return _judge(
        [found.fold],
        config.name,
        output_path,
        clinic,
        table,
        draws,
        seed,
        notes=notes if found.overlaps else [found.note, *notes],
        optimistic=found.overlaps,
        why=found.note,
        figures=figures,
    )


def _judge(
    folds: Sequence[FoldPredictions],
    model: str,
    output_path: str | Path | None,
    clinic: Clinic | None,
    table: CohortTable | None,
    draws: int,
    seed: int,
    *,
    comparison: Comparison | None = None,
    notes: Sequence[str] = (),
    optimistic: bool = False,
    why: str | None = None,
    figures: str = "png",
) -> Judgement:
    """Compute all that is asked for, then write it."""
    reason = {} if why is None else {"why": why}
    evaluation = evaluate(folds, draws=draws, seed=seed, optimistic=optimistic, **reason)
    evaluation = evaluation.model_copy(update={"notes": (*notes, *evaluation.notes)})
    added: AddedValue | None = None
    groups: tuple[Subgroups, ...] = ()
    competing: CompetingRisks | None = None
    if clinic is not None and table is not None:
        values = table.patients
        if clinic.columns.covariates:
            chosen = values[list(clinic.columns.covariates)]
            added = added_value(folds, chosen, at=clinic.at, draws=draws, seed=seed)
        groups = tuple(subgroups(folds, values[name], draws=draws, seed=seed) for name in clinic.by)
        if clinic.cause is not None:
            competing = competing_risks(folds, values[clinic.cause], draws=draws, seed=seed)
    if output_path is not None:
        output = Path(output_path)
        note = "Research use only."
        pictures = write_evaluation(
            output, folds, evaluation, title=model, note=note, figures=figures
        )
        if comparison is not None:
            write_text(output / COMPARISON, comparison.model_dump_json(indent=1) + "\n")
        pictures = [path for path in pictures if path.suffix == f".{figures}"]
        pictures += write_clinic(output, added, groups, title=model, note=note, figures=figures)
        if competing is not None and clinic is not None and table is not None:
            write_text(output / COMPETING, competing.model_dump_json(indent=1) + "\n")
            pictures.append(output / f"cumulative_incidence.{figures}")
            causes = table.patients[str(clinic.cause)]
            incidence_figure(folds, causes, pictures[-1], title=model, note=note)
        write_page(
            output,
            evaluation,
            title=model,
            pictures=pictures,
            added=added,
            groups=groups,
            comparison=comparison,
            competing=competing,
        )
    return Judgement(model, evaluation, comparison, added, groups, competing)


def _unit_of(path: Path) -> str:
    """Return the unit of time in a `patients.csv`; "time" if it has none, which is refused later."""
    frame = read_csv(
        path,
        columns=["patient", "time_unit"],
        check="give the patients.csv that tiacf predict --patients writes, or a folder of tiacf train",
        dtype=str,
        keep_default_na=False,
    )
    units = [unit for unit in frame["time_unit"].unique() if unit]
    return str(units[0]) if units else "time"


def evaluate_faithfulness(
    bags: str | Path,
    model: str | Path,
    output_path: str | Path | None = None,
    *,
    truth: str | Path | None = None,
    slides: int = 20,
    device: str = "cpu",
    draws: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Faithfulness:
    """Judge the scores of tokens: does deleting the highest move the risk more than deleting others?

    Args:
        bags: folder of feature bags, of slides that the model has not seen.
        model: name of a shipped model, a bundle folder, or a hub id.
        output_path: folder for `faithfulness.json` and `faithfulness.csv`; None writes nothing.
        truth: folder of what `tiacf simulate --slides` planted (`<slide>.npz`).
        slides: most slides to look at, drawn at random.
        device: where the model runs.
        draws: of the bootstrap.
        seed: of everything random.
        progress: draw a bar.

    Raises:
        UsageError: a file is not there, or a number is wrong.
        TiacfError: bags, their truth and the model do not go together.
    """
    from tqdm.auto import tqdm

    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.bags.files import find_bags
    from tiacrossfusion.evaluation.faithfulness import faithfulness
    from tiacrossfusion.evaluation.faithfulness_files import write_faithfulness
    from tiacrossfusion.models.bundle import load_bundle

    at_least("--draws", draws, 1)
    usable_seed("--seed", seed)
    at_least("--slides", slides, 1)
    stores = find_bags(Path(bags))
    if len(stores) > slides:
        drawn = np.random.default_rng(seed).choice(len(stores), slides, replace=False)
        stores = [stores[number] for number in sorted(drawn)]
    regions = None if truth is None else _regions(stores, Path(truth))
    figures = faithfulness(
        (
            FeatureBag.load(store)
            for store in tqdm(stores, desc="Slides", disable=None if progress else True)
        ),
        load_bundle(model, device),
        regions=regions,
        draws=draws,
        seed=seed,
    )
    if output_path is not None:
        write_faithfulness(Path(output_path), figures)
    return figures


def _regions(stores: list[Path], truth: Path) -> Iterable[dict[str, np.ndarray]]:
    """Return which tokens of each bag show what was planted, read one after the other."""
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.evaluation.true_regions import planted_tokens
    from tiacrossfusion.simulation.truth import SlideTruth

    for store in stores:
        if not is_file(truth / f"{store.stem}.npz"):
            reason = f"holds no {store.stem}.npz" if is_folder(truth) else missing(truth)
            raise UsageError(f"{truth}: {reason}; check --truth")
    return (
        planted_tokens(FeatureBag.load(store), SlideTruth.load(truth / f"{store.stem}.npz"))
        for store in stores
    )
