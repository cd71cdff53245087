"""Contents of the TCGA tables: patients, bins, folds, leakage in the given splits, and clinical baselines.

    python benchmarks/tcga_tables.py --data FOLDER > benchmarks/tcga_tables.md

FOLDER holds the tables and split files of the CrossFusion release, `tcga_<cohort>_all_clean.csv(.zip)` and
`splits_<cohort>/splits_<k>.csv`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.folds import Fold, check_folds, nested_folds
from tiacrossfusion.cohorts.splits import given_folds, official_folds, read_splits
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.survival import quantile_bins
from tiacrossfusion.survival.clinical import ClinicalCox
from tiacrossfusion.survival.record import Record

COHORTS = ("blca", "coad", "luad", "ucec")
BINS, FOLDS, SEED, DRAWS = 4, 5, 0, 1000

#: TCGA barcodes name the patient by their first 12 characters. COAD's patient column holds slides.
BARCODE = 12

#: Covariates that the tables have; none has stage or grade, COAD's has no covariate at all.
MODELS = {
    "blca": [("age", "is_female")],
    "luad": [("age", "is_female")],
    "ucec": [("age", "is_female"), ("age", "is_female", "oncotree_code")],
}


def columns(cohort: str, covariates: tuple[str, ...] = ()) -> Columns:
    """Columns of a table of the release."""
    return Columns(
        slide="slide_id",
        patient="case_id",
        time="survival_months",
        censorship="censorship",
        covariates=covariates,
        patient_characters=BARCODE if cohort == "coad" else None,
    )


def path_of(data: Path, cohort: str) -> Path:
    """The table of a cohort."""
    (path,) = data.glob(f"tcga_{cohort}_all_clean.csv*")
    return path


def load(data: Path, cohort: str, covariates: tuple[str, ...] = ()) -> CohortTable:
    """Read a table, without the rows that cannot be used."""
    path = path_of(data, cohort)
    return read_table(path, columns(cohort, covariates), "months", drop_unusable=True)


def print_table(header: str, rows: Iterable[list[object]]) -> None:
    """Print a table in Markdown; the header names the columns, separated by commas."""
    names = header.split(", ")
    click.echo(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        click.echo(f"| {' | '.join(str(value) for value in row)} |")
    click.echo()


def tidy(message: str, data: Path) -> str:
    """A message without the folder it was read from, as an item of a list."""
    return f"- {message.replace(f'{data}/', '')}"


def cohort_rows(data: Path) -> Iterable[list[object]]:
    """Size and follow-up of each cohort."""
    for cohort in COHORTS:
        table = load(data, cohort)
        times, events = table.patients["time"], table.patients["event"]
        follow_up = KaplanMeierFitter().fit(times, 1 - events).median_survival_time_
        yield [
            cohort.upper(),
            len(table.patients),
            len(table.slides),
            int((table.slides["patient"].value_counts() > 1).sum()),
            f"{int(events.sum())} ({events.mean():.0%})",
            f"{times.median():.1f}",
            f"{follow_up:.1f}",
            ", ".join(f"{len(rows)} ({why})" for why, rows in table.left_out.items()) or 0,
        ]


def refusals(data: Path) -> Iterable[str]:
    """What a reader is told of the tables that have rows without use, before leaving these out."""
    for cohort in COHORTS:
        wanted = {name for model in MODELS.get(cohort, [()]) for name in model}
        try:
            read_table(path_of(data, cohort), columns(cohort, tuple(sorted(wanted))), "months")
        except TiacfError as error:
            yield tidy(str(error), data)


def barcodes_in_both(path: Path) -> int:
    """Patients in both columns of a split file, by the first 12 characters of the ids alone."""
    frame = pd.read_csv(path, dtype=str)
    train, val = (set(frame[name].dropna().str[:BARCODE]) for name in ("train", "val"))
    return len(train & val)


def sizes(table: CohortTable, patients: Iterable[str]) -> str:
    """Patients and events of a part."""
    chosen = table.patients.loc[list(patients)]
    return f"{len(chosen)} / {int(chosen['event'].sum())}"


def edges(table: CohortTable, patients: Iterable[str]) -> str:
    """Bin edges of training patients."""
    chosen = table.patients.loc[list(patients)]
    bins = quantile_bins(chosen["time"], chosen["event"], BINS, table.time_unit)
    return ", ".join(f"{edge:.1f}" for edge in bins.edges[1:])


def split_rows(data: Path) -> Iterable[list[object]]:
    """Sizes of each given split, and what does not fit."""
    for cohort in COHORTS:
        table = load(data, cohort)
        splits = read_splits(data / f"splits_{cohort}", table)
        check_folds(official_folds(splits), table, BINS)
        check_folds(given_folds(splits, table, seed=SEED), table, BINS)
        for split in splits:
            elsewhere = {name for other in splits if other is not split for name in other.val}
            yield [
                f"{cohort.upper()} {split.number}",
                sizes(table, split.train),
                sizes(table, split.val),
                len(split.unknown),
                len(split.unusable),
                len(split.unnamed),
                len(split.leaked),
                barcodes_in_both(split.source),
                len(elsewhere & set(split.val)),
                edges(table, split.train),
            ]


def nested_rows(data: Path) -> Iterable[list[object]]:
    """Sizes of the folds made here."""
    for cohort in COHORTS:
        table = load(data, cohort)
        folds = nested_folds(table, FOLDS, seed=SEED)
        check_folds(folds, table, BINS)
        for fold in folds:
            parts = [sizes(table, part) for part in (fold.train, fold.validation, fold.test)]
            yield [f"{cohort.upper()} {fold.number}", *parts, edges(table, fold.train)]


def predict(
    table: CohortTable, fold: Fold, covariates: tuple[str, ...]
) -> tuple[FoldPredictions, list[str]]:
    """Cox on covariates of the training part, for the test part."""
    train, test = (table.patients.loc[list(part)] for part in (fold.train, fold.test))
    model = ClinicalCox(Record.of(train[list(covariates)])).fit(train)
    bins = quantile_bins(train["time"], train["event"], BINS, table.time_unit)
    risks = model.risk(test)
    predictions = FoldPredictions(
        fold=fold.number,
        patients=fold.test,
        times=test["time"].to_numpy(),
        events=test["event"].to_numpy(),
        risks=risks,
        survival=model.survival(test, bins),
        high=risks > np.median(model.risk(train)),
        bins=bins,
        training_times=train["time"].to_numpy(),
        training_events=train["event"].to_numpy(),
    )
    return predictions, model.messages


def hazard_ratios(table: CohortTable, covariates: tuple[str, ...]) -> str:
    """Hazard ratios with 95 % intervals, fitted on all patients; age per ten years."""
    found = []
    patients = table.patients
    terms = ClinicalCox(Record.of(patients[list(covariates)])).fit(patients).terms(patients)
    model = CoxPHFitter(penalizer=0.01).fit(
        terms.join(patients[["time", "event"]]), "time", "event"
    )
    for term, row in model.summary.iterrows():
        name, step = str(term), 1.0
        if name in table.patients:  # standardised: back to its own unit
            step = 1 / table.patients[name].std(ddof=0) * (10 if name == "age" else 1)
        label = {"age": "age, 10 years"}.get(name, name)
        ratio, low, high = np.exp(step * row[["coef", "coef lower 95%", "coef upper 95%"]])
        found.append(f"{label} {ratio:.2f} ({low:.2f} to {high:.2f})")
    return "; ".join(found)


def baseline_rows(data: Path, notes: list[str]) -> Iterable[list[object]]:
    """Cox on covariates, out of fold; fills `notes` with what the fits tell."""
    for cohort, models in MODELS.items():
        everybody = len(load(data, cohort).patients)
        for covariates in models:
            table = load(data, cohort, covariates)
            folds = nested_folds(table, FOLDS, seed=SEED)
            predicted, messages = zip(*(predict(table, f, covariates) for f in folds), strict=True)
            for fold, lines in zip(folds, messages, strict=True):
                notes += [f"- {cohort.upper()}, fold {fold.number}: {line}" for line in lines]
            scores = evaluate(predicted, draws=DRAWS, seed=SEED)
            c, per_fold = scores.pooled.harrell_c, [fold.harrell_c.value for fold in scores.folds]
            yield [
                cohort.upper(),
                ", ".join(covariates),
                f"{len(table.patients)} ({everybody - len(table.patients)} left out)",
                f"{c.value:.3f} ({c.low:.3f} to {c.high:.3f})",
                f"{scores.harrell_c_mean:.3f} ({scores.harrell_c_sd:.3f})",
                " ".join(f"{value:.3f}" for value in per_fold),
                f"{scores.pooled.risk_groups.log_rank_p:.2g}",
                hazard_ratios(table, covariates),
            ]


@click.command()
@click.option("--data", type=Path, required=True, help="Folder with tables and split files.")
def main(data: Path) -> None:
    """Print the report."""
    click.echo(
        "# The TCGA tables of the CrossFusion release\n\n"
        "Written by `tcga_tables.py`. Times are in months. Parts are given as patients / events. Bins are "
        f"{BINS} quantile bins of the uncensored training patients, and the upper edges e_1 .. e_{BINS} "
        f"are shown. Seed {SEED}.\n\n## Cohorts\n\n"
        "All are read with `slide_id`, `case_id`, `survival_months` and `censorship`. COAD's `case_id` "
        "names slides, so the first 12 characters of the barcode are taken as the patient. "
        "Follow-up is the median of the times, and by the reverse Kaplan-Meier estimate (Schemper and "
        "Smith, Control Clin Trials 17:343, 1996).\n"
    )
    print_table(
        "cohort, patients, slides, patients of several slides, events, median time, "
        "median follow-up by reverse Kaplan-Meier, rows left out",
        cohort_rows(data),
    )
    click.echo("Unless told to leave them out, rows that cannot be used stop the reading:\n")
    click.echo("\n".join(refusals(data)))
    click.echo(
        "\n## Given splits\n\n"
        '"Unknown" ids are not in the table, "left out" ones had no usable follow-up, "unnamed" are '
        "usable patients in neither column. Leakage is counted twice: patients of the table in both "
        "columns, by any of their slides, and barcodes of 12 characters in both columns of the file. "
        "All splits pass the checks made before training, both as the authors use them and with a "
        "validation part drawn from train.\n"
    )
    print_table(
        "split, train, val, unknown, left out, unnamed, patients in both, barcodes in both, "
        "val patients also in another val, bins",
        split_rows(data),
    )
    click.echo("## Nested folds\n")
    print_table("fold, train, validation, test, bins", nested_rows(data))
    click.echo(
        "## Clinical baseline\n\n"
        f"Cox regression on covariates, {FOLDS}-fold nested, trained on the training parts alone (as the "
        "models of slides are), judged on the test parts. Harrell's C counts pairs within folds and adds "
        f"them up; 95 % interval by a bootstrap of patients within folds, {DRAWS} draws. The log-rank "
        "test compares patients above and below the median risk of the training patients. Hazard ratios are "
        "of all patients, with 95 % limits that take no account of the small ridge penalty. No table has "
        "stage or grade; COAD's has no covariate. UCEC's `oncotree_code` is the histology: endometrioid UEC "
        "(the reference), serous USC, not specified UCEC.\n"
    )
    notes: list[str] = []
    print_table(
        "cohort, covariates, patients, C pooled (95 %), C mean of folds (SD), C by fold, log-rank p, "
        "hazard ratios",
        baseline_rows(data, notes),
    )
    click.echo("\n".join(dict.fromkeys(notes)))


if __name__ == "__main__":
    main()
