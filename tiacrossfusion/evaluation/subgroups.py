"""Figures of subgroups of the patients, and whether the risk tells as much in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from tiacrossfusion.evaluation.bootstrap import bootstrap_counts, estimate
from tiacrossfusion.evaluation.dependence import Dependence, dependence_of
from tiacrossfusion.evaluation.horizon import Horizon
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import Estimate, HazardRatio, Subgroup, Subgroups
from tiacrossfusion.survival import (
    harrell_pairs,
    observed_over_expected,
    stratified_cox,
    survival_at,
)

if TYPE_CHECKING:
    pass

#: Fewer events than this in a subgroup give no figures.
FEW_EVENTS = 10

#: A column of numbers with more values than this is cut at its median.
_MOST_LEVELS = 5

_MISSING = "missing"
_UNKNOWN = Estimate(value=np.nan, low=np.nan, high=np.nan)


def subgroups(
    folds: Sequence[FoldPredictions], column: pd.Series, *, draws: int = 1000, seed: int = 0
) -> Subgroups:
    """Compute figures of the patients with each value of a column.

    Risks are compared within a fold. Hazard ratios are of one SD of the risk of all patients of the fold, and
    the interaction is a likelihood ratio test of Cox regressions, stratified by fold, with and without the
    product of risk and subgroup, over the subgroups with 10 events or more.

    Args:
        folds: predictions.
        column: index patient, with all patients of the predictions; numbers with more than five values are
            cut at their median.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    levels, note = _levels(column)
    dependence, horizon = dependence_of(folds), Horizon.of(folds)
    frame = pd.concat((_frame(fold, levels) for fold in folds), ignore_index=True)
    found, enough = [], []
    for level in sorted(frame["level"].unique(), key=lambda name: (name == _MISSING, name)):
        events = int(frame.loc[frame["level"] == level, "event"].sum())
        patients = int((frame["level"] == level).sum())
        if events < FEW_EVENTS:
            found.append(_without_figures(level, patients, events))
            continue
        enough.append(level)
        mine = [_of_level(fold, levels, level) for fold in folds]
        parts = [fold for fold in mine if fold is not None]
        drawn = bootstrap_counts([len(fold.patients) for fold in parts], draws, seed)
        found.append(
            Subgroup(
                level=level,
                patients=patients,
                events=events,
                harrell_c=_concordance(parts, drawn, dependence),
                observed_over_expected=_ratio(parts, drawn, horizon.middle, dependence),
                hazard_ratio=_hazard_ratio(frame[frame["level"] == level], dependence),
            )
        )
    p, why = _interaction(frame[frame["level"].isin(enough)], dependence)
    return Subgroups(
        column=str(column.name),
        levels=tuple(found),
        interaction_p=p,
        time=horizon.middle,
        note="; ".join(filter(None, (note, why))),
    )


def _levels(column: pd.Series) -> tuple[pd.Series, str]:
    """Return the level of each patient as text, and how numbers were cut."""
    missing = column.isna()
    if is_numeric_dtype(column) and column.nunique() > _MOST_LEVELS:
        middle = float(column.median())
        above = np.where(column > middle, f"above {middle:.4g}", f"up to {middle:.4g}")
        levels = pd.Series(above, index=column.index, dtype=object)
        note = f"cut at the median, {middle:.4g}"
    else:
        text = [f"{v:g}" if isinstance(v, float) else str(v) for v in column]
        levels, note = pd.Series(text, index=column.index, dtype=object), ""
    return levels.where(~missing, _MISSING), note


def _frame(fold: FoldPredictions, levels: pd.Series) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "time": fold.times,
            "event": fold.events,
            "stratum": fold.fold,
            **({} if fold.entries is None else {"entry": fold.entries}),
            "risk": fold.standardised_risks,
            "level": levels.loc[list(fold.patients)].to_numpy(),
        }
    )


def _of_level(fold: FoldPredictions, levels: pd.Series, level: str) -> FoldPredictions | None:
    rows = np.flatnonzero(levels.loc[list(fold.patients)].to_numpy() == level)
    return fold.chosen(rows) if len(rows) else None


def _without_figures(level: str, patients: int, events: int) -> Subgroup:
    note = f"{events} events, fewer than {FEW_EVENTS}: no figures"
    unknown = HazardRatio(term=level, value=np.nan, low=np.nan, high=np.nan, p=np.nan)
    return Subgroup(
        level=level,
        patients=patients,
        events=events,
        harrell_c=_UNKNOWN,
        observed_over_expected=_UNKNOWN,
        hazard_ratio=unknown,
        note=note,
    )


def _concordance(
    parts: Sequence[FoldPredictions], drawn: Sequence[np.ndarray], dependence: Dependence
) -> Estimate:
    pairs = [
        harrell_pairs(part.times, part.events, part.risks, counts, part.entered)
        for part, counts in zip(parts, drawn, strict=True)
    ]
    pooled = sum(pairs[1:], start=pairs[0])
    return estimate(
        pooled.ratio, "no pair of patients can be compared", factor=dependence.factor, limits=(0, 1)
    )


def _ratio(
    parts: Sequence[FoldPredictions],
    drawn: Sequence[np.ndarray],
    at: float,
    dependence: Dependence,
) -> Estimate:
    survival = np.concatenate(
        [survival_at(part.survival, part.bins, np.array([at]))[:, 0] for part in parts]
    )
    times = np.concatenate([part.times for part in parts])
    events = np.concatenate([part.events for part in parts])
    entries = np.concatenate([part.entered for part in parts])
    counts = np.concatenate(drawn, axis=1)
    ratio = observed_over_expected(times, events, survival, at, counts, entries)
    undefined = "nobody is followed up to this time, or no event is predicted"
    return estimate(ratio, undefined, factor=dependence.repeats, limits=(0, np.inf))


def _hazard_ratio(frame: pd.DataFrame, dependence: Dependence) -> HazardRatio:
    from scipy.stats import norm

    unknown = HazardRatio(
        term=str(frame["level"].iloc[0]), value=np.nan, low=np.nan, high=np.nan, p=np.nan
    )
    model = stratified_cox(frame.drop(columns="level"))
    if model is None:
        return unknown.model_copy(update={"note": "the regression has no solution"})
    b, error = float(model.params_["risk"]), float(model.standard_errors_["risk"])
    error *= np.sqrt(dependence.factor)
    low, high = np.exp([b - 1.96 * error, b + 1.96 * error])
    values = {"value": np.exp(b), "low": low, "high": high, "p": 2 * norm.sf(abs(b) / error)}
    return unknown.model_copy(update={name: float(value) for name, value in values.items()})


def _interaction(frame: pd.DataFrame, dependence: Dependence) -> tuple[float, str]:
    """Likelihood ratio test of the product of risk and level."""
    from scipy.stats import chi2

    levels = sorted(frame["level"].unique())
    if len(levels) < 2:
        return np.nan, f"no test: fewer than two subgroups have {FEW_EVENTS} events"
    base = frame.drop(columns="level")
    for number, level in enumerate(levels[1:]):
        base[f"level {number}"] = (frame["level"] == level).astype(float)
    full = base.copy()
    for number in range(len(levels) - 1):
        full[f"product {number}"] = base[f"level {number}"] * base["risk"]
    one, two = stratified_cox(base), stratified_cox(full)
    if one is None or two is None:
        return np.nan, "no test: the regression has no solution"
    statistic = max(0.0, 2 * float(two.log_likelihood_ - one.log_likelihood_))
    return float(chi2.sf(statistic / dependence.factor, len(levels) - 1)), ""
