"""Clinical records with a planted, known prognosis, beside simulated slides."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tiacrossfusion.errors import UsageError
from tiacrossfusion.simulation.checks import require
from tiacrossfusion.simulation.follow_up import MEDIAN_MONTHS, follow_up

Values = npt.NDArray[np.float64]

#: Variables of a record, all of which read the clinical score.
VARIABLES = ("age", "albumin", "nodes", "size_mm", "performance", "stage", "smoker", "grade")

#: Standard deviation of the noise of one variable, with which all eight together read the score at about .83.
_NOISE = 1.4

_HOSPITALS = ("north", "south", "east", "west")


@dataclass(frozen=True)
class RecordOptions:
    """How a record is planted: `log h = a g_slide + b g_clinic + c g_slide g_clinic`.

    Attributes:
        effect: b; that of the slide, a, is the strength of the cohort.
        product: c.
        correlation: rho of g_slide and g_clinic.
        missing: share of the values that are missing.
        by_value: the higher g_clinic, the more are missing; else all alike.
        exact: age reads g_clinic without noise.

    Raises:
        UsageError: a number is out of range.
    """

    effect: float = 1.0
    product: float = 0.0
    correlation: float = 0.5
    missing: float = 0.0
    by_value: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        require(-1 <= self.correlation <= 1, "correlation", self.correlation, "-1 to 1")
        require(0 <= self.missing <= 0.9, "missing", self.missing, "a share from 0 to 0.9")
        for name in ("effect", "product"):
            value = getattr(self, name)
            require(-10 <= value <= 10, name, value, "-10 to 10")


def clinical_score(slide_score: Values, correlation: float, rng: np.random.Generator) -> Values:
    """Return g_clinic (N,), of SD 1 and with a correlation with the slide's score (N,)."""
    noise = rng.standard_normal(len(slide_score))
    return correlation * slide_score + np.sqrt(1 - correlation**2) * noise


def draw_record(
    score: Values, rng: np.random.Generator, options: RecordOptions | None = None
) -> pd.DataFrame:
    """Draw the eight variables of patients from their clinical scores (N,).

    Numbers, a count, levels and words: each reads the score with noise. Missing values are NaN or None.

    Args:
        score: g_clinic.
        rng: source of chance.
        options: what is missing, and whether age is exact; None for nothing.
    """
    options = options or RecordOptions()
    noise = _NOISE * rng.standard_normal((len(score), len(VARIABLES)))
    if options.exact:
        noise[:, 0] = 0.0
    read = score[:, None] + noise
    frame = pd.DataFrame(
        {
            "age": 65 + 8 * read[:, 0],
            "albumin": 40 - 3 * read[:, 1],
            "nodes": np.floor(np.exp(0.6 + 0.7 * read[:, 2])),
            "size_mm": 30 + 9 * read[:, 3],
            "performance": np.digitize(read[:, 4], [-0.8, 0.8, 2.2]).astype(float),
            "stage": np.array(["I", "II", "III", "IV"])[np.digitize(read[:, 5], [-1.2, 0, 1.2])],
            "smoker": np.where(read[:, 6] > 0, "yes", "no"),
            "grade": np.array(["low", "middle", "high"])[np.digitize(read[:, 7], [-0.8, 0.8])],
        }
    )
    if options.missing:
        share = np.full(len(score), options.missing)
        if options.by_value:  # twice the share at the highest scores, none at the lowest
            share = np.clip(2 * options.missing / (1 + np.exp(-2 * score)), 0, 0.95)
        gone = rng.random((len(score), len(VARIABLES))) < share[:, None]
        for column, name in enumerate(VARIABLES):
            frame[name] = frame[name].mask(gone[:, column])
    return frame


def with_record(
    cohort: pd.DataFrame, planted: dict[str, Any], options: RecordOptions | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return a cohort and what determines it, with a record by `add_record` unless `options` is None.

    Args:
        cohort: table of a simulated cohort.
        planted: arguments of `draw_planted_cohort` by name.
        options: of the record.

    Raises:
        UsageError: the cohort has no strength.
    """
    if options is None:
        return cohort, planted
    taken = {name: planted[name] for name in ("seed", "strength", "censored_share")}
    return add_record(cohort, options=options, **taken), planted | {"record": asdict(options)}


def add_record(
    cohort: pd.DataFrame,
    seed: int,
    options: RecordOptions,
    *,
    strength: float,
    censored_share: float,
) -> pd.DataFrame:
    """Give the patients of a cohort a record, and draw their follow-up anew.

    The slide's score is the log-hazard of the cohort over its strength, so that the new log-hazard is
    `log_hazard + b g_clinic + c g_slide g_clinic`.

    Args:
        cohort: table of a simulated cohort, a row a slide.
        seed: of record and follow-up.
        options: what is planted.
        strength: of the cohort, not 0.
        censored_share: share of the patients whose death is not observed.

    Returns:
        The table with the variables, `hospital` (a site, unrelated to survival), and the truth: `g_slide`,
        `g_clinic` and the new `log_hazard`.

    Raises:
        UsageError: the cohort has no strength.
    """
    if strength <= 0:
        raise UsageError(
            "a record is planted beside a slide that tells something; raise --strength"
        )
    rng = np.random.default_rng([seed, 17])
    patients = cohort.drop_duplicates("patient").set_index("patient")
    slide = patients["log_hazard"].to_numpy(float) / strength
    clinic = clinical_score(slide, options.correlation, rng)
    log_hazards = strength * slide + options.effect * clinic + options.product * slide * clinic
    record = draw_record(clinic, rng, options).set_index(patients.index)
    time, event = follow_up(
        log_hazards,
        rng.standard_exponential(len(slide)),
        rng.standard_exponential(len(slide)),
        censored_share=censored_share,
        median_months=MEDIAN_MONTHS,
    )
    record["hospital"] = rng.choice(_HOSPITALS, len(slide))
    truth = pd.DataFrame(
        {
            "g_slide": slide,
            "g_clinic": clinic,
            "log_hazard": log_hazards,
            "time": time,
            "event": event,
        },
        index=patients.index,
    )
    kept = cohort.drop(columns=["log_hazard", "time", "event"])
    return kept.join(record, on="patient").join(truth, on="patient")
