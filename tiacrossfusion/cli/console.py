"""What several commands print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tiacrossfusion.cli.log_file import LOG_FILE

if TYPE_CHECKING:
    from tiacrossfusion.evaluation.scores import AddedValue, Evaluation, Subgroups
    from tiacrossfusion.runs.runner import Outcome


def print_done(outcomes: Sequence[Outcome], what: str, where: object) -> None:
    """Print how many slides are done, and where the results are.

    Args:
        outcomes: of the slides.
        what: such as "slides done".
        where: path of the table or folder.
    """
    done = sum(outcome.status != "failed" for outcome in outcomes)
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    before = f" ({skipped} finished before)" if skipped else ""
    click.echo(f"{done} of {len(outcomes)} {what}{before}: {where}")


def exit_if_failed(outcomes: Sequence[Outcome], folder: Path, complaint: str = "") -> None:
    """Print how many slides failed, and another complaint, if there is any, and exit with 1."""
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        click.echo(f"{failed} failed; details in {folder / LOG_FILE}", err=True)
    if complaint:
        click.echo(complaint, err=True)
    if failed or complaint:
        sys.exit(1)


def print_figures(model: str, evaluation: Evaluation, where: str = "out of fold") -> None:
    """Print the main figures of a model, and `where` they are from."""
    pooled = evaluation.pooled
    click.echo(f"{model}: {pooled.patients} patients, {pooled.events} events, {where}")
    for name, figure in (
        ("Harrell's C", pooled.harrell_c),
        ("Uno's C", pooled.uno_c),
        ("integrated Brier score", pooled.brier),
        ("   without a model", pooled.brier_without_model),
    ):
        value = f"{figure.value:.3f} (95 % interval {figure.low:.3f} to {figure.high:.3f})"
        click.echo(f"    {name:24}{figure.note or value}")
    click.echo(f"    {'p of association':24}{format(pooled.association_p, '.2g')}")
    if evaluation.permutation_p is not None:
        p = f"{evaluation.permutation_p:.2g} ({evaluation.permutations} refitted)"
        click.echo(f"    {'p by permutation':24}{p}")
    groups = pooled.risk_groups
    click.echo(f"    {'log-rank p':24}{groups.note or format(groups.log_rank_p, '.2g')}")
    click.echo(f"    {evaluation.interval}")
    for note in evaluation.notes:
        click.echo(f"    note: {note}")


def print_added_value(added: AddedValue) -> None:
    """Print what a model adds to covariates."""
    click.echo(f"Added to {', '.join(added.covariates)}:")
    for name, ratio in (("alone", added.risk_alone), ("adjusted", added.risk_adjusted)):
        value = f"{ratio.value:.2f} (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
        click.echo(f"    {'hazard ratio per SD, ' + name:34}{ratio.note or value}")
    click.echo(f"    {'likelihood ratio p':34}{added.likelihood_ratio_p:.2g}")
    titles = {"harrell_c": "Harrell's C", "auc": f"AUC at {added.time:.3g} {added.time_unit}"}
    for measure, difference in added.differences.items():
        of = [getattr(added.models[name], measure).value for name in ("covariates", "risk", "both")]
        name = titles.get(measure, "integrated Brier score")
        click.echo(
            f"    {name:34}covariates {of[0]:.3f}, risk {of[1]:.3f}, both {of[2]:.3f}; both less covariates "
            f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f}), "
            f"p = {difference.p:.2g}"
        )
    missing = ", ".join(f"{name} {count}" for name, count in added.missing.items() if count)
    if missing:
        click.echo(f"    missing, imputed inside the folds: {missing} of {added.patients} patients")
    for note in added.notes:
        click.echo(f"    note: {note}")


def print_subgroups(groups: Subgroups) -> None:
    """Print the figures of subgroups."""
    p = f"p of interaction {groups.interaction_p:.2g}"
    click.echo(f"By {groups.column}: {p if isfinite(groups.interaction_p) else groups.note}")
    for level in groups.levels:
        c, ratio = level.harrell_c, level.hazard_ratio
        values = (
            f"C {c.value:.3f} ({c.low:.3f} to {c.high:.3f}), hazard ratio per SD {ratio.value:.2f} "
            f"({ratio.low:.2f} to {ratio.high:.2f})"
        )
        count = f"{level.patients} patients, {level.events} events"
        click.echo(f"    {level.level:24}{count}: {level.note or values}")


def bytes_text(count: float) -> str:
    """Write a number of bytes with the unit that fits, such as "1.4 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds_text(seconds: float) -> str:
    """Write a time, such as "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
