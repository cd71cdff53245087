"""The figures of an evaluation as tables of text, for the page, spreadsheets and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tiacrossfusion.evaluation.scores import (
    AddedValue,
    Comparison,
    CompetingRisks,
    Estimate,
    Evaluation,
    HazardRatio,
    Scores,
    Subgroups,
)


@dataclass(frozen=True)
class Table:
    """A table, all cells of which are text."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""


def evaluation_tables(
    evaluation: Evaluation,
    added: AddedValue | None = None,
    groups: Sequence[Subgroups] = (),
    comparison: Comparison | None = None,
    competing: CompetingRisks | None = None,
) -> list[Table]:
    """Return all figures as tables of text."""
    tables = [_main(evaluation), _calibration(evaluation)]
    if len(evaluation.folds) > 1:
        tables.insert(1, _folds(evaluation))
    if comparison is not None:
        row = (
            _text(comparison.first),
            _text(comparison.second),
            _text(comparison.difference, "+"),
            f"{comparison.p:.2g}",
        )
        head = ("this model", "other model", "difference", "p")
        tables.append(Table("Harrell's C of two models", head, [row]))
    if competing is not None:
        tables.append(_competing(competing))
    if added is not None:
        tables += [_ratios(added), _added(added)]
    return tables + [_subgroups(group) for group in groups]


def _text(figure: Estimate | HazardRatio, sign: str = "") -> str:
    """Return a figure with its interval, or the reason why it is not defined."""
    if not np.isfinite(figure.value):
        return figure.note or "not defined"
    known = np.isfinite(figure.low) and np.isfinite(figure.high)
    interval = f" ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})" if known else ""
    return f"{figure.value:{sign}.3f}{interval}"


def _main(evaluation: Evaluation) -> Table:
    pooled, unit = evaluation.pooled, evaluation.time_unit
    groups = pooled.risk_groups
    rows: list[tuple[str, ...]] = [
        ("Harrell's C", _text(pooled.harrell_c)),
        (f"Uno's C up to {evaluation.horizon:.3g} {unit}", _text(pooled.uno_c)),
        *((f"AUC at {auc.time:.3g} {unit}", _text(auc)) for auc in pooled.auc),
        ("Integrated Brier score", _text(pooled.brier)),
        ("Integrated Brier score without a model", _text(pooled.brier_without_model)),
        ("p of association (ranks within folds, one-sided)", f"{pooled.association_p:.2g}"),
        (
            "Risk groups, events of patients",
            f"low {groups.low_events} of {groups.low_patients}, high {groups.high_events} of "
            f"{groups.high_patients}",
        ),
        ("Log-rank p of the risk groups", groups.note or f"{groups.log_rank_p:.2g}"),
    ]
    if evaluation.permutation_p is not None:
        name = f"p of Harrell's C by {evaluation.permutations} permutations, all folds refitted"
        rows.append((name, f"{evaluation.permutation_p:.2g}"))
    return Table("Figures", ("figure", "value (95 % interval)"), rows)


def _folds(evaluation: Evaluation) -> Table:
    def row(label: str, scores: Scores) -> tuple[str, ...]:
        figures = (scores.harrell_c, scores.uno_c, scores.brier)
        return (label, str(scores.patients), str(scores.events), *map(_text, figures))

    rows: list[tuple[str, ...]] = [row(str(fold.fold), fold) for fold in evaluation.folds]
    head = ("fold", "patients", "events", "Harrell's C", "Uno's C", "Brier score")
    return Table("Folds", head, [*rows, row("pooled", evaluation.pooled)])


def _calibration(evaluation: Evaluation) -> Table:
    tables = evaluation.pooled.calibration
    rows: list[tuple[str, ...]] = [
        (
            f"{table.time:.3g} {evaluation.time_unit}",
            _text(table.observed_over_expected),
            "" if table.slope is None else _text(table.slope),
            _text(table.intercept, "+"),
        )
        for table in tables
    ]
    head = ("time", "observed / expected (1 is right)", "slope (1)", "intercept (0)")
    notes = dict.fromkeys(table.note for table in tables if table.note)
    return Table("Calibration", head, rows, "; ".join(notes))


def _ratios(added: AddedValue) -> Table:
    named = [("model risk alone", added.risk_alone), ("model risk adjusted", added.risk_adjusted)]
    named += [(term.term, term) for term in added.terms]
    rows: list[tuple[str, ...]] = [(name, _text(ratio), f"{ratio.p:.2g}") for name, ratio in named]
    note = f"Likelihood ratio p of the risk beyond the covariates: {added.likelihood_ratio_p:.2g}. "
    missing = ", ".join(f"{name} {count}" for name, count in added.missing.items() if count)
    note += f"Missing and imputed: {missing or 'none'}. {added.interval} {' '.join(added.notes)}"
    return Table("Hazard ratios (numbers per SD)", ("term", "hazard ratio", "p"), rows, note)


def _added(added: AddedValue) -> Table:
    titles = {"harrell_c": "Harrell's C", "auc": f"AUC at {added.time:.3g} {added.time_unit}"}
    rows: list[tuple[str, ...]] = []
    for measure, difference in added.differences.items():
        figures = [getattr(added.models[name], measure) for name in ("covariates", "risk", "both")]
        name = titles.get(measure, "Integrated Brier score")
        rows.append((name, *map(_text, figures), _text(difference, "+"), f"{difference.p:.2g}"))
    head = ("figure", "covariates", "risk", "both", "both less covariates", "p")
    return Table("Added value, out of fold", head, rows)


def _competing(competing: CompetingRisks) -> Table:
    rows: list[tuple[str, ...]] = [
        ("cause-specific C", _text(competing.cause_specific_c)),
        (
            "C with patients of competing events kept",
            _text(competing.c_with_competing_events_kept),
        ),
    ]
    for row in competing.incidence:
        name = f"incidence of {row.cause}, {row.risk_group} risk ({row.events}/{row.patients})"
        rows += [(f"{name}, {at.time:.3g}", _text(at)) for at in row.at_times]
    note = "Incidence by Aalen-Johansen, which is not one less Kaplan-Meier."
    return Table(
        f"Competing risks by {competing.column}", ("figure", "value (95 % interval)"), rows, note
    )


def _subgroups(group: Subgroups) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            level.level,
            str(level.patients),
            str(level.events),
            level.note or _text(level.harrell_c),
            "" if level.note else _text(level.observed_over_expected),
            "" if level.note else _text(level.hazard_ratio),
        )
        for level in group.levels
    ]
    head = (
        "level",
        "patients",
        "events",
        "Harrell's C",
        "observed / expected",
        "hazard ratio per SD",
    )
    tested = (
        f"p of interaction {group.interaction_p:.2g}" if np.isfinite(group.interaction_p) else ""
    )
    return Table(f"By {group.column}", head, rows, "; ".join(filter(None, (tested, group.note))))
