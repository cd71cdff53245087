"""Competing risks: what a risk tells of one cause, where other causes end follow-up, too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.bootstrap import bootstrap_counts, estimate
from tiacrossfusion.evaluation.dependence import dependence_of
from tiacrossfusion.evaluation.figures import COLOURS, DASHED, add_axes, add_legend, new_figure
from tiacrossfusion.evaluation.horizon import Horizon
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import CompetingRisks, Incidence, TimeEstimate
from tiacrossfusion.outputs.figures import Style, in_own_style, save_figure
from tiacrossfusion.survival import cumulative_incidence, harrell_pairs
from tiacrossfusion.text import examples

_NAMES = {1: "the event", 2: "a competing event"}


def causes_of(folds: Sequence[FoldPredictions], column: pd.Series) -> list[np.ndarray]:
    """Return the causes (N,) of each fold: 0 censored, 1 the event, 2 and higher competing events.

    Raises:
        TiacfError: a cause is missing, no whole number, or 0 for a patient with an event.
    """
    found = []
    for fold in folds:
        values = pd.to_numeric(column.loc[list(fold.patients)], errors="coerce").to_numpy(float)
        wrong = ~np.isfinite(values) | (values < 0) | (values != np.rint(values))
        lost = (fold.events == 1) & (values == 0)
        for rows, fault in ((wrong, "no whole number of 0 or more"), (lost, "0 beside an event")):
            if rows.any():
                names = [fold.patients[row] for row in np.flatnonzero(rows)]
                raise TiacfError(
                    f"--cause {column.name}: {fault} for {len(names)} patients of fold {fold.fold}, such as "
                    f"{examples(names)}; write 0 for censored, 1 for the event, 2 for another cause"
                )
        found.append(values.astype(int))
    if not any((causes == 1).any() for causes in found):
        raise TiacfError(f"--cause {column.name}: no patient has the cause 1, the event")
    if not any((causes > 1).any() for causes in found):
        raise TiacfError(
            f"--cause {column.name}: no patient has a competing event (2); leave it out"
        )
    return found


def competing_risks(
    folds: Sequence[FoldPredictions], column: pd.Series, *, draws: int = 1000, seed: int = 0
) -> CompetingRisks:
    """Compute incidence by risk group (Aalen-Johansen), and two C-indices of the event.

    The cause-specific C takes patients with a competing event for censored then. The other keeps them as
    patients who never have the event (Wolbers et al., Epidemiology 20, 2009, 555-561), so that it asks who
    has the event at all.

    Args:
        folds: predictions.
        column: cause of each patient, see `causes_of`.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        TiacfError: see `causes_of`.
    """
    causes = causes_of(folds, column)
    dependence, horizon = dependence_of(folds), Horizon.of(folds)
    counts = bootstrap_counts([len(fold.patients) for fold in folds], draws, seed)
    specific, at_all = [], []
    for fold, mine, drawn in zip(folds, causes, counts, strict=True):
        event = (mine == 1).astype(int)
        never = np.where(mine > 1, np.inf, fold.times)
        specific.append(harrell_pairs(fold.times, event, fold.risks, drawn))
        at_all.append(harrell_pairs(never, event, fold.risks, drawn))
    times = np.concatenate([fold.times for fold in folds])
    every, high = np.concatenate(causes), np.concatenate([fold.high for fold in folds]).astype(bool)
    drawn = np.concatenate(counts, axis=1)
    at = horizon.times if len(horizon.times) else np.array([horizon.middle])
    incidence = []
    for name, members in (("low", ~high), ("high", high)):
        for cause in (1, 2):
            mine = np.minimum(every[members], 2)  # all competing causes together
            values = cumulative_incidence(times[members], mine, cause, at, drawn[:, members])
            incidence.append(
                Incidence(
                    risk_group=name,
                    cause=_NAMES[cause],
                    patients=int(members.sum()),
                    events=int((mine == cause).sum()),
                    at_times=tuple(
                        TimeEstimate(
                            time=float(time),
                            **estimate(
                                values[:, k], factor=dependence.repeats, limits=(0, 1)
                            ).model_dump(),
                        )
                        for k, time in enumerate(at)
                    ),
                )
            )
    of_cause = sum(specific[1:], start=specific[0]).ratio
    kept = sum(at_all[1:], start=at_all[0]).ratio
    no_pair = "no pair of patients can be compared"
    limits, factor = (0.0, 1.0), dependence.factor
    return CompetingRisks(
        column=str(column.name),
        cause_specific_c=estimate(of_cause, no_pair, factor=factor, limits=limits),
        c_with_competing_events_kept=estimate(kept, no_pair, factor=factor, limits=limits),
        incidence=tuple(incidence),
        interval=dependence.sentence,
    )


@in_own_style
def incidence_figure(
    folds: Sequence[FoldPredictions], column: pd.Series, path: Path, *, title: str, note: str
) -> None:
    """Draw the cumulative incidence of the event and of competing events by risk group."""
    times = np.concatenate([fold.times for fold in folds])
    causes = np.minimum(np.concatenate(causes_of(folds, column)), 2)
    high = np.concatenate([fold.high for fold in folds]).astype(bool)
    figure = new_figure(9.6, 4.6, title=title, note=note)
    for cause, left in ((1, 0.9), (2, 5.4)):
        axes = add_axes(figure, left, 1.0, 3.9, 3.0)
        for name, members, colour, style in (
            ("low", ~high, COLOURS[0], "-"),
            ("high", high, COLOURS[1], DASHED),
        ):
            at = np.unique(times[members])
            at = at[[(times[members] >= time).sum() >= 10 for time in at]]  # as in Kaplan-Meier
            curve = cumulative_incidence(times[members], causes[members], cause, at)
            line: Style = {"color": colour, "linestyle": style, "linewidth": 2}
            label = f"{name} risk ({int((causes[members] == cause).sum())} events)"
            axes.step([0, *at], [0, *curve], where="post", label=label, **line)
        axes.set(ylim=(0, 1), xlim=(0, None))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel(f"time ({folds[0].bins.unit})", fontsize=11)
        axes.set_ylabel(f"cumulative incidence of {_NAMES[cause]}", fontsize=10)
        add_legend(axes, 9, loc="upper left")
    save_figure(figure, path)
