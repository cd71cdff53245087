"""Cox regression on clinical covariates alone: the baseline that a model of slides must beat."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from pandas.api.types import is_numeric_dtype

from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.survival import TimeBins
from tiacrossfusion.text import examples

#: Weight of the ridge penalty. lifelines adds `RIDGE / 2 * |b|^2`, b per SD of each term, to the negative
#: log partial likelihood divided by the number of patients. With a third of the patients having an event
#: it shrinks a coefficient by about 3 %, and it keeps a fold solvable in which a rare category has no
#: event or two covariates are collinear.
RIDGE: Final = 0.01

#: Name of the category of patients without a value.
MISSING: Final = "missing"

#: Share of training patients without a number from which on that is a term of its own.
_GAPS: Final = 0.01


class CoxCovariates:
    """Proportional hazards of covariates, fitted by lifelines (Cox, J R Stat Soc B 34:187, 1972).

    The hazard is `h_0(t) exp(b^T x)`. Numeric covariates enter as (value - mean) / SD with the moments
    of the training patients, so that `exp(b)` is the hazard ratio of one SD. Others enter as one
    indicator for each category of the training patients but the most frequent. A category that no
    training patient has takes the mean of the indicators over the training patients. A covariate that
    is the same for all training patients is left out. Missing numbers take the median of the training
    patients, and where 1 % of these or more lack the number, an indicator of that is a further term; missing
    categories are a category of their own. All of this is noted in `messages`.

    Attributes:
        covariates: names of the columns.
        messages: what was left out or replaced, one line each.
        summary: one row a term: coefficient, hazard ratio `exp(coef)`, 95 % limits and p, as lifelines
            has them; the limits and p take no account of the ridge penalty.
    """

    def __init__(self, covariates: Sequence[str]) -> None:
        """Name the covariates.

        Raises:
            UsageError: no covariate is named.
        """
        if not covariates:
            raise UsageError("a Cox model of covariates needs some; name them with --covariates")
        self.covariates = tuple(covariates)
        self.messages: list[str] = []
        self.summary = pd.DataFrame()

    def fit(self, patients: pd.DataFrame) -> CoxCovariates:
        """Estimate the coefficients and the baseline hazard; returns the object itself.

        Args:
            patients: training patients: columns time, event, optionally entry (time at which follow-up
                begins), and the covariates (`CohortTable.patients`).

        Raises:
            TiacfError: no covariate varies, there are fewer events than terms, or the fit fails.
        """
        self.messages = []
        self._moments: dict[str, tuple[float, float]] = {}
        self._medians: dict[str, float] = {}
        self._gaps: dict[str, tuple[float, float]] = {}
        self._categories: dict[str, list[str]] = {}
        for name in self.covariates:
            self._learn(name, patients[name])
        if not self._moments and not self._categories:
            raise TiacfError(
                f"no covariate of {', '.join(self.covariates)} varies among {len(patients)} training "
                "patients; name others with --covariates"
            )
        terms = self._indicators(patients)
        self._shares = terms.mean()
        events = int(patients["event"].sum())
        if terms.shape[1] > events:
            raise TiacfError(
                f"{terms.shape[1]} terms of the covariates {', '.join(self.covariates)} are too many "
                f"for {events} events; name fewer with --covariates, or merge categories"
            )
        self._model = CoxPHFitter(penalizer=RIDGE)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                outcome = [name for name in ("time", "event", "entry") if name in patients]
                entry = "entry" if "entry" in patients else None
                self._model.fit(terms.join(patients[outcome]), "time", "event", entry_col=entry)
        except (ConvergenceError, np.linalg.LinAlgError, TypeError, ValueError) as error:
            raise TiacfError(
                f"Cox regression on {', '.join(self.covariates)} failed for {len(patients)} training "
                f"patients ({one_line(error)}); name fewer covariates, or merge rare categories"
            ) from error
        for warning in caught:
            if issubclass(warning.category, ConvergenceWarning):
                self.messages.append(f"Cox regression: {one_line(Warning(warning.message))}")
        self.summary = self._model.summary
        return self

    def risk(self, patients: pd.DataFrame) -> np.ndarray:
        """Log-hazard relative to the average training patient, (N,); higher is worse."""
        return self._model.predict_log_partial_hazard(self.terms(patients)).to_numpy(float)

    def survival(self, patients: pd.DataFrame, bins: TimeBins) -> np.ndarray:
        """Probability of surviving each bin, (N, K): S at the bin edges e_1 .. e_K.

        `exp(-H_0(t) exp(b^T x))` with Breslow's cumulative baseline hazard of the training patients,
        straight between their times (as lifelines has it) and level beyond the last.
        """
        curves = self._model.predict_survival_function(
            self.terms(patients), times=np.array(bins.edges[1:])
        )
        return curves.to_numpy(float).T

    def _learn(self, name: str, values: pd.Series) -> None:
        """Keep the moments or the categories of a covariate."""
        known = values[values.notna()]
        missing = len(values) - len(known)
        if missing:
            self.messages.append(
                f"covariate {name} is missing for {missing} of {len(values)} training patients"
            )
        if known.empty or (
            (known == known.iloc[0]).all() and (is_numeric_dtype(values) or not missing)
        ):
            same = "missing" if known.empty else known.iloc[0]
            self.messages.append(
                f"covariate {name} is {same} for all {len(values)} training patients"
                f"{' who have it' if missing and len(known) else ''} and is left out"
            )
        elif is_numeric_dtype(values):
            with np.errstate(over="ignore"):  # the fit refuses what no sum can hold
                self._medians[name] = float(known.astype(float).median())
                numbers = values.astype(float).fillna(self._medians[name])
                self._moments[name] = (float(numbers.mean()), float(numbers.std(ddof=0)))
            gaps = values.isna().astype(float)
            if gaps.mean() >= _GAPS:
                self._gaps[name] = (float(gaps.mean()), float(gaps.std(ddof=0)))
        else:
            # the most frequent first: it is the reference; by name where equally frequent
            counts = _categories(values).value_counts().sort_index()
            categories = list(counts.sort_values(ascending=False, kind="stable").index)
            self._categories[name] = sorted(categories, key=lambda category: category == MISSING)

    def terms(self, patients: pd.DataFrame) -> pd.DataFrame:
        """Terms (N, P) of patients: standardised numbers, and 0 or 1 for categories; see the class."""
        terms = self._indicators(patients)
        for name, categories in self._categories.items():
            values = _categories(patients[name])
            unseen = ~values.isin(categories).to_numpy()
            if unseen.any():
                message = (
                    f"covariate {name}: {int(unseen.sum())} of {len(values)} patients have a category "
                    f"that no training patient has ({examples(values[unseen].unique())}); they take "
                    "the average of the training patients"
                )
                if message not in self.messages:
                    self.messages.append(message)
                columns = [f"{name}={category}" for category in categories[1:]]
                terms.loc[unseen, columns] = self._shares[columns].to_numpy()
        return terms

    def _indicators(self, patients: pd.DataFrame) -> pd.DataFrame:
        """Terms (N, P): standardised numbers and indicators of categories."""
        terms = {
            name: (patients[name].astype(float).fillna(self._medians[name]) - mean) / deviation
            for name, (mean, deviation) in self._moments.items()
        }
        for name, (mean, deviation) in self._gaps.items():
            terms[f"{name} {MISSING}"] = (patients[name].isna().astype(float) - mean) / deviation
        for name, categories in self._categories.items():
            values = _categories(patients[name])
            for category in categories[1:]:
                terms[f"{name}={category}"] = (values == category).astype(float)
        return pd.DataFrame(terms, index=patients.index)


def _categories(values: pd.Series) -> pd.Series:
    """Categories (N,) as text, `MISSING` where there is none."""
    return values.astype(object).where(values.notna(), MISSING).astype(str)
