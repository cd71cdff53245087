"""Figures of a model on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tiacrossfusion.evaluation.scores import Evaluation


def echo_figures(model: str, evaluation: Evaluation) -> None:
    """Print the main figures of a model."""
    pooled = evaluation.pooled
    click.echo(f"{model}: {pooled.patients} patients, {pooled.events} events, out of fold")
    for name, figure in (
        ("Harrell's C", pooled.harrell_c),
        ("Uno's C", pooled.uno_c),
        ("integrated Brier score", pooled.brier),
        ("   without a model", pooled.brier_without_model),
    ):
        value = f"{figure.value:.3f} (95 % interval {figure.low:.3f} to {figure.high:.3f})"
        click.echo(f"    {name:24}{figure.note or value}")
    groups = pooled.risk_groups
    click.echo(f"    {'log-rank p':24}{groups.note or format(groups.log_rank_p, '.2g')}")
    for note in evaluation.notes:
        click.echo(f"    note: {note}")
