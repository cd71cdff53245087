"""The figures of an evaluation, as data that is valid JSON: NaN is written as null."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

#: A number that may be unknown: NaN in Python, null in JSON.
Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]


class FrozenModel(BaseModel):
    """Base of figures: read-only, and valid JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


#: The C-index of a model that knows nothing.
CHANCE = 0.5


class Estimate(FrozenModel):
    """A figure with its 95 % interval, from `low` to `high`.

    Attributes:
        value: NaN where it is not defined.
        unwidened_low: lower end if the folds were independent (see `Evaluation.interval`).
        unwidened_high: upper end.
        note: why something is not defined; else empty.
    """

    value: Number
    low: Number
    high: Number
    unwidened_low: Number = float("nan")
    unwidened_high: Number = float("nan")
    note: str = ""


class TimeEstimate(Estimate):
    """A figure at a time, in the unit of the evaluation."""

    time: float


class CalibrationRow(FrozenModel):
    """Patients with similar predicted survival at a time.

    Attributes:
        events: how many of them had the event up to that time.
        predicted: mean predicted survival.
        observed: Kaplan-Meier estimate, with its 95 % interval from `low` to `high`.
        note: why something is not defined; else empty.
    """

    patients: int
    events: int
    predicted: Number
    observed: Number
    low: Number
    high: Number
    note: str = ""


class CalibrationTable(FrozenModel):
    """Calibration at a time, in the unit of the evaluation.

    Attributes:
        observed_over_expected: share of patients with the event up to that time, observed over
            predicted.
        slope: coefficient of `log(-log S)` in a Cox regression stratified by fold; below 1 the predictions
            differ too much between patients. None for one fold of several.
        intercept: logarithm of observed over expected events; above 0 the model is too optimistic.
        rows: groups by rising predicted survival.
        note: why there are fewer than 4 groups; else empty.
    """

    time: float
    observed_over_expected: Estimate
    slope: Estimate | None
    intercept: Estimate
    rows: tuple[CalibrationRow, ...]
    note: str = ""


class RiskGroups(FrozenModel):
    """Patients at or below the cut-off (low) and above it (high), and how many of them had the event.

    Attributes:
        log_rank_p: p of the log-rank test, its chi-square divided by the variance factor of the evaluation.
        log_rank_p_of_independent_folds: the same, not divided.
        note: why p is not defined; else empty.
    """

    low_patients: int
    low_events: int
    high_patients: int
    high_events: int
    log_rank_p: Number
    log_rank_p_of_independent_folds: Number
    note: str = ""


class Scores(FrozenModel):
    """Figures of one fold, or of all folds pooled.

    Attributes:
        association_p: one-sided p that the risk does not order the patients of a fold: Cox's score test of
            the rank within the fold, stratified by fold, with the variance factor of the evaluation.
        uno_c: Uno's C, truncated at the horizon.
        auc: cumulative/dynamic AUC at the evaluation's times.
        brier: integrated Brier score from 0 to the horizon.
        brier_without_model: the same of the Kaplan-Meier curve of the training patients.
        calibration: at the evaluation's times.
    """

    patients: int
    events: int
    harrell_c: Estimate
    association_p: Number
    uno_c: Estimate
    auc: tuple[TimeEstimate, ...]
    brier: Estimate
    brier_without_model: Estimate
    calibration: tuple[CalibrationTable, ...]
    risk_groups: RiskGroups


class FoldScores(Scores):
    """Figures of one fold, by its number."""

    fold: int


class Evaluation(FrozenModel):
    """Figures of a model in all folds.

    Attributes:
        time_unit: unit of all times.
        times: at which AUC and calibration are taken: the inner bin edges, averaged over the folds.
        horizon: last time that every fold's training patients support.
        pooled: all folds together; pairs of patients are compared within a fold only.
        harrell_c_mean: mean of Harrell's C over the folds, as papers report it.
        harrell_c_sd: its standard deviation over the folds (n - 1).
        auc_over_time: pooled AUC at times closer together.
        interval: what the intervals take into account, in a sentence.
        variance_factor: of pooled figures against independent folds, see `dependence`.
        optimistic: whether the patients reported on also helped to choose the model.
        notes: what a reader has to know.
        permutation_p: p of the pooled C where follow-up is permuted and all folds are refitted; None if that
            was not asked for.
        permutations: how many.
    """

    time_unit: str
    times: tuple[float, ...]
    horizon: Number
    folds: tuple[FoldScores, ...]
    pooled: Scores
    harrell_c_mean: Number
    harrell_c_sd: Number
    auc_over_time: tuple[TimeEstimate, ...]
    interval: str
    variance_factor: float
    optimistic: bool
    draws: int
    seed: int
    notes: tuple[str, ...]
    permutation_p: float | None = None
    permutations: int = 0


class Comparison(FrozenModel):
    """Two models on the same patients and folds.

    Attributes:
        first: pooled Harrell's C of the first model; `second` that of the other.
        difference: first less second, of the same bootstrap draws.
        p: two-sided, that the difference is 0.
        interval: what the intervals take into account, in a sentence.
        variance_factor: of the draws against independent folds, see `dependence`.
    """

    patients: int
    events: int
    first: Estimate
    second: Estimate
    difference: Estimate
    p: Number
    interval: str
    variance_factor: float
    draws: int
    seed: int


class HazardRatio(FrozenModel):
    """A hazard ratio of one SD of a number, or of a category, with its 95 % interval and two-sided p."""

    term: str
    value: Number
    low: Number
    high: Number
    p: Number
    note: str = ""


class CoxFigures(FrozenModel):
    """Figures of prediction of a regression, out of fold."""

    harrell_c: Estimate
    auc: Estimate
    brier: Estimate


class Difference(Estimate):
    """A difference with a two-sided p that it is 0."""

    p: Number


class DecisionPoint(FrozenModel):
    """Net benefit at a threshold of the predicted probability of an event."""

    threshold: float
    covariates: float
    risk: float
    both: float
    everybody: float


class AddedValue(FrozenModel):
    """What the risk of a model adds to clinical covariates.

    Attributes:
        missing: number of patients without each covariate.
        risk_alone: hazard ratio of one SD of the risk.
        risk_adjusted: the same, adjusted for the covariates.
        terms: of the covariates, adjusted for each other and for the risk.
        likelihood_ratio: chi-square (1 degree of freedom) of the risk beyond the covariates.
        likelihood_ratio_p: its p, the chi-square divided by the variance factor of the folds.
        likelihood_ratio_p_of_independent_folds: the same, not divided.
        models: of the regressions on "covariates", on the "risk", and on "both".
        differences: "both" less "covariates", for each measure.
        time: of AUC and decision curve.
        decision_curve: by rising threshold.
        interval: what the intervals take into account.
    """

    covariates: tuple[str, ...]
    patients: int
    events: int
    missing: dict[str, int]
    risk_alone: HazardRatio
    risk_adjusted: HazardRatio
    terms: tuple[HazardRatio, ...]
    likelihood_ratio: Number
    likelihood_ratio_p: Number
    likelihood_ratio_p_of_independent_folds: Number
    models: dict[str, CoxFigures]
    differences: dict[str, Difference]
    time: float
    time_unit: str
    decision_curve: tuple[DecisionPoint, ...]
    interval: str
    notes: tuple[str, ...]


class Subgroup(FrozenModel):
    """Figures of the patients with one value of a column.

    Attributes:
        hazard_ratio: of one SD of the risk, SD of all patients.
        note: why figures are not given; else empty.
    """

    level: str
    patients: int
    events: int
    harrell_c: Estimate
    observed_over_expected: Estimate
    hazard_ratio: HazardRatio
    note: str = ""


class Subgroups(FrozenModel):
    """Subgroups by one column.

    Attributes:
        interaction_p: of the likelihood ratio test that the hazard ratio of the risk is the same in all
            subgroups with enough events.
        time: of `observed_over_expected`.
    """

    column: str
    levels: tuple[Subgroup, ...]
    interaction_p: Number
    time: Number
    note: str = ""


class Incidence(FrozenModel):
    """Cumulative incidence of a cause in a risk group (Aalen-Johansen), at the evaluation's times."""

    risk_group: str
    cause: str
    patients: int
    events: int
    at_times: tuple[TimeEstimate, ...]


class CompetingRisks(FrozenModel):
    """Figures where other causes end follow-up, too.

    Attributes:
        column: of the causes.
        cause_specific_c: Harrell's C of the event, patients with a competing event censored then.
        c_with_competing_events_kept: the same, these patients kept as never having the event.
    """

    column: str
    cause_specific_c: Estimate
    c_with_competing_events_kept: Estimate
    incidence: tuple[Incidence, ...]
    interval: str


def figure_row(pooled: Scores) -> dict[str, float]:
    """Return the main figures of a model by column of a table."""
    row: dict[str, float] = {"patients": pooled.patients, "events": pooled.events}
    for name in ("harrell_c", "uno_c", "brier"):
        figure = getattr(pooled, name)
        row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return row | {
        "association_p": pooled.association_p,
        "log_rank_p": pooled.risk_groups.log_rank_p,
    }
