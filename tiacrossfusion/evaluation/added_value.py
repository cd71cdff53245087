"""What a model adds to clinical covariates.

Cox regression on the covariates, on the model's risk, and on both. Ratios of hazards come from all patients,
stratified by fold; figures of prediction are out of fold: the regressions of a fold are fitted to the
patients of the other folds, with missing values imputed from those. Risks are brought to mean 0 and SD 1 in
each fold, as those of two folds are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.bootstrap import bootstrap_counts, estimate, two_sided_p, widened
from tiacrossfusion.evaluation.dependence import Dependence, dependence_of
from tiacrossfusion.evaluation.horizon import Horizon
from tiacrossfusion.evaluation.measuring import pooled_sums
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import (
    AddedValue,
    CoxFigures,
    DecisionPoint,
    Difference,
    HazardRatio,
)
from tiacrossfusion.survival import decision_curve, stratified_cox, survival_at
from tiacrossfusion.survival.balanced_parts import balanced_parts
from tiacrossfusion.survival.clinical import ClinicalCox
from tiacrossfusion.survival.record import Record

#: Name of the model's risk among the covariates.
RISK = "model risk"

#: The three regressions.
COVARIATES, ALONE, BOTH = "covariates", "risk", "both"

#: Columns of a regression that are no terms.
_OUTCOME = ("time", "event", "entry", "stratum")

#: Parts into which the patients of a single fold are divided.
_PARTS = 5

#: Events that each term of a regression should have.
_EVENTS_PER_TERM = 10

#: Weight of lifelines' ridge penalty where a regression has no solution without one.
_RIDGE = 0.01

#: A standard error of a log hazard ratio above this means that a covariate separates the events.
_SEPARATED = 10.0

#: A term whose rest beyond the others is smaller, relative to itself, follows from them.
_DEPENDENT = 1e-6

_THRESHOLDS = 50


def added_value(
    folds: Sequence[FoldPredictions],
    covariates: pd.DataFrame,
    *,
    record: Record | None = None,
    at: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> AddedValue:
    """Compute what the risk of a model adds to covariates. docs/metrics.md describes each figure.

    Args:
        folds: predictions; those of a single fold are divided into five parts of the patients.
        covariates: index patient, a column a covariate: numbers or text, missing values allowed.
        record: description of the covariates; None takes them for what their values look like.
        at: time of AUC and decision curve; None takes the middle bin edge.
        draws: of the bootstrap.
        seed: of the bootstrap, and of the parts.

    Raises:
        TiacfError: patients are not in the table, no covariate varies, or a regression fails.
    """
    absent = sorted({name for fold in folds for name in fold.patients} - set(covariates.index))
    if absent:
        raise TiacfError(
            f"{len(absent)} patients of the predictions are not in the table, such as {absent[0]}; add them"
        )
    parts = list(folds) if len(folds) > 1 else _parts(folds[0], seed)
    frames = [_frame(part, covariates) for part in parts]
    dependence = dependence_of(folds)
    names = list(covariates.columns)
    notes: list[str] = []
    # A patient who is tested several times has as many rows: joined by name they would multiply.
    rows = pd.concat(frames, ignore_index=True)
    record = record or Record.of(covariates)
    ratios = _ratios(rows, record, dependence, notes)
    models = {
        COVARIATES: _refitted(parts, frames, ClinicalCox(record), notes),
        ALONE: _refitted(parts, frames, ClinicalCox(None, [RISK]), notes),
        BOTH: _refitted(parts, frames, ClinicalCox(record, [RISK]), notes),
    }
    horizon = Horizon.of(parts)
    when = horizon.middle if at is None else at
    if at is not None and not 0 < at <= horizon.end:
        raise TiacfError(
            f"--at {at:g}: the follow-up supports times up to {horizon.end:.3g} only; give one of them"
        )
    figures, differences = _figures(models, horizon, when, draws, seed)
    return AddedValue(
        covariates=tuple(names),
        patients=sum(len(frame) for frame in frames),
        events=int(sum(frame["event"].sum() for frame in frames)),
        missing={name: int(covariates.loc[_names(parts), name].isna().sum()) for name in names},
        **ratios,
        models=figures,
        differences=differences,
        time=when,
        time_unit=parts[0].bins.unit,
        decision_curve=_decision_curve(models, when),
        interval=_interval(dependence, parts),
        notes=tuple(dict.fromkeys(notes)),
    )


def _names(parts: Sequence[FoldPredictions]) -> list[str]:
    return [name for part in parts for name in part.patients]


def _interval(dependence: Dependence, parts: Sequence[FoldPredictions]) -> str:
    """Return what the intervals account for."""
    if dependence.factor == 1:
        return (
            "Hazard ratios: Wald intervals. Figures of prediction: the regressions were fitted in "
            f"{len(parts)} parts of the patients; {dependence_of(parts).sentence}"
        )
    return f"Hazard ratios: Wald intervals, widened alike. {dependence.sentence}"


def _parts(fold: FoldPredictions, seed: int) -> list[FoldPredictions]:
    """Divide the patients of a fold into parts, with the events spread evenly."""
    number = balanced_parts(fold.events, _PARTS, np.random.default_rng(seed))
    return [
        replace(fold.chosen(np.flatnonzero(number == k)), fold=k + 1)
        for k in range(_PARTS)
        if (number == k).any()
    ]


def _frame(part: FoldPredictions, covariates: pd.DataFrame) -> pd.DataFrame:
    """Return follow-up, covariates and standardised risk of the patients of a fold."""
    frame = covariates.loc[list(part.patients)].copy()
    frame[RISK] = part.standardised_risks
    if part.entries is not None:
        frame["entry"] = part.entries
    return frame.assign(time=part.times, event=part.events, stratum=part.fold)


def _ratios(
    frame: pd.DataFrame, record: Record, dependence: Dependence, notes: list[str]
) -> dict[str, object]:
    """Hazard ratios and the likelihood ratio, from all patients, stratified by fold."""
    from scipy.stats import chi2

    terms = ClinicalCox(record).fit(frame)
    notes += terms.messages
    design = _independent(terms.terms(frame), frame["stratum"], notes)
    events = int(frame["event"].sum())
    if events < _EVENTS_PER_TERM * (design.shape[1] + 1):
        notes.append(
            f"{events} events for {design.shape[1] + 1} terms, fewer than {_EVENTS_PER_TERM} for each: "
            "adjusted hazard ratios are uncertain"
        )
    outcome = frame[[name for name in _OUTCOME if name in frame]]
    risk = frame[[RISK]]
    alone, _ = _cox(risk.join(outcome), dependence, notes)
    joint, likelihood = _cox(design.join(risk).join(outcome), dependence, notes)
    statistic = float("nan")
    if likelihood is None:
        notes.append(
            "No likelihood ratio test, which a penalty does not allow; see the p of the risk."
        )
    else:
        _, without = _cox(design.join(outcome), dependence, notes)
        statistic = float("nan") if without is None else max(0.0, 2 * (likelihood - without))
    return {
        "risk_alone": alone[RISK],
        "risk_adjusted": joint[RISK],
        "terms": tuple(ratio for name, ratio in joint.items() if name != RISK),
        "likelihood_ratio": statistic,
        "likelihood_ratio_p": float(chi2.sf(statistic / dependence.factor, 1)),
        "likelihood_ratio_p_of_independent_folds": float(chi2.sf(statistic, 1)),
    }


def _independent(design: pd.DataFrame, strata: pd.Series, notes: list[str]) -> pd.DataFrame:
    """Terms without those that follow from others, as "missing" of two covariates may."""
    centred = (design - design.groupby(strata.to_numpy()).transform("mean")).to_numpy()
    kept: list[int] = []
    for place in range(centred.shape[1]):
        wanted = centred[:, place]
        base = centred[:, kept]
        rest = wanted - base @ np.linalg.lstsq(base, wanted, rcond=None)[0] if kept else wanted
        if float(np.linalg.norm(rest)) > _DEPENDENT * max(float(np.linalg.norm(wanted)), 1e-12):
            kept.append(place)
    lost = [name for place, name in enumerate(design.columns) if place not in kept]
    if lost:
        notes.append(f"left out, as they follow from the other terms: {', '.join(lost)}")
    return design.iloc[:, kept]


def _cox(
    frame: pd.DataFrame, dependence: Dependence, notes: list[str]
) -> tuple[dict[str, HazardRatio], float | None]:
    """Cox regression, stratified by fold: hazard ratios by term, and log-likelihood.

    It has no penalty, unless it has no solution without one; the log-likelihood is then None.
    """
    from scipy.stats import norm

    model = stratified_cox(frame)
    penalised = model is None
    if model is None:
        model = stratified_cox(frame, ridge=_RIDGE)
        notes.append(
            "Hazard ratios with a small ridge penalty: without it the regression has no solution, as some "
            "categories are rare or hardly differ."
        )
    if model is None:
        terms = [str(name) for name in frame if name not in _OUTCOME]
        raise TiacfError(
            f"Cox regression on {', '.join(terms)} has no solution; leave out covariates that follow from "
            "others, or merge rare categories"
        )
    found = {}
    for name, b in model.params_.items():
        spread = float(model.standard_errors_[name])
        separated = spread > _SEPARATED
        if separated:
            notes.append(
                f"{name} separates patients with an event from those without: its hazard ratio has no finite "
                "estimate; merge it with another category, or leave it out"
            )
        wide = 1.96 * spread * np.sqrt(dependence.factor if name == RISK else 1.0)
        deviate = abs(b) / spread / np.sqrt(dependence.factor if name == RISK else 1.0)
        values = (np.nan,) * 4 if separated else (b, b - wide, b + wide, 2 * norm.sf(deviate))
        found[str(name)] = HazardRatio(
            term=str(name),
            value=float(np.exp(values[0])),
            low=float(np.exp(values[1])),
            high=float(np.exp(values[2])),
            p=float(values[3]),
            note="separates the events" if separated else "",
        )
    return found, None if penalised else float(model.log_likelihood_)


def _refitted(
    parts: Sequence[FoldPredictions],
    frames: Sequence[pd.DataFrame],
    model: ClinicalCox,
    notes: list[str],
) -> list[FoldPredictions]:
    """Predict each part by a regression that was fitted to the patients of the others."""
    made = []
    for part, frame in zip(parts, frames, strict=True):
        others = pd.concat([other for other in frames if other is not frame])
        others = others[~others.index.isin(part.patients)]
        others = others[~others.index.duplicated()]
        model.fit(others)
        risks = model.risk(frame)
        made.append(
            replace(
                part,
                risks=risks,
                survival=np.clip(model.survival(frame, part.bins), 0, 1),
                high=risks > np.median(model.risk(others)),
                training_times=others["time"].to_numpy(float),
                training_events=others["event"].to_numpy(int),
            )
        )
        notes += [line for line in model.messages if "is missing for" not in line]
    return made


def _figures(
    models: Mapping[str, Sequence[FoldPredictions]],
    horizon: Horizon,
    at: float,
    draws: int,
    seed: int,
) -> tuple[dict[str, CoxFigures], dict[str, Difference]]:
    """Figures of the three regressions, and of both less those of the covariates, with paired draws."""
    first = models[COVARIATES]
    counts = bootstrap_counts([len(fold.patients) for fold in first], draws, seed)
    dependence = dependence_of(first)
    sums = {
        name: pooled_sums(folds, counts, horizon.end, np.array([at]))
        for name, folds in models.items()
    }
    measures: dict[str, tuple[Callable[[str], np.ndarray], float]] = {
        "harrell_c": (lambda name: sums[name].harrell.ratio, dependence.factor),
        "auc": (lambda name: sums[name].auc[0].ratio, dependence.factor),
        "brier": (
            lambda name: sums[name].brier / len(sums[name].times),
            dependence.repeats,
        ),
    }
    figures = {
        name: CoxFigures(
            **{
                measure: estimate(of(name), "not defined", factor=factor, limits=(0, 1))
                for measure, (of, factor) in measures.items()
            }
        )
        for name in models
    }
    differences = {}
    for measure, (of, factor) in measures.items():
        # A difference of two models follows how they were trained, also in averages over patients.
        values = of(BOTH) - of(COVARIATES)
        wide = max(factor, dependence.factor)
        found = estimate(values, "not defined", factor=wide, limits=(-1, 1))
        differences[measure] = Difference(
            **found.model_dump(), p=two_sided_p(widened(values, wide)[1:])
        )
    return figures, differences


def _decision_curve(
    models: Mapping[str, Sequence[FoldPredictions]], at: float
) -> tuple[DecisionPoint, ...]:
    """Net benefit of the three regressions and of treating all, by threshold."""
    times = np.concatenate([fold.times for fold in models[BOTH]])
    entries = np.concatenate([fold.entered for fold in models[BOTH]])
    events = np.concatenate([fold.events for fold in models[BOTH]])
    probability = {
        name: np.concatenate(
            [1 - survival_at(fold.survival, fold.bins, np.array([at]))[:, 0] for fold in folds]
        )
        for name, folds in models.items()
    }
    highest = min(0.99, max(float(np.quantile(p, 0.99)) for p in probability.values()))
    thresholds = np.linspace(0.01, max(0.02, highest), _THRESHOLDS)
    curves = {
        name: decision_curve(times, events, p, at, thresholds, entries)
        for name, p in probability.items()
    }
    everybody = decision_curve(times, events, np.ones(len(times)), at, thresholds, entries)
    return tuple(
        DecisionPoint(
            threshold=float(threshold),
            covariates=float(curves[COVARIATES][row]),
            risk=float(curves[ALONE][row]),
            both=float(curves[BOTH][row]),
            everybody=float(everybody[row]),
        )
        for row, threshold in enumerate(thresholds)
    )
