"""The clinical record of a patient: its variables, and the terms that models make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from scipy.stats import skew

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.text import examples, printable

Kind = Literal["number", "skewed", "ordinal", "category"]

#: Training patients with a level, with a missing value, or with a value that is there, for a term of it.
FEWEST = 8

#: Standardised numbers end here.
_LARGEST = 4.0

#: Numbers of 0 or more with a larger skewness enter as their logarithm.
_SKEWED = 1.5

#: A number this many ranges of the training patients beyond them is of another unit, or a slip.
_IMPLAUSIBLE = 2.0


class Variable(BaseModel):
    """A variable of the record.

    Attributes:
        name: column of the table.
        kind: "number"; "skewed", a number or count of 0 or more that enters as log(1 + value); "ordinal", the
            place of a level; "category".
        levels: of an ordinal from low to high, names of one level separated by "|"; of a category by name.
        unit: as the user names it; empty if unknown.
        missing: share of the training patients without a value.
        low: smallest value of the training patients; of numbers only.
        high: largest value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    kind: Kind
    levels: tuple[str, ...] = ()
    unit: str = ""
    missing: Annotated[float, Field(ge=0, le=1)] = 0.0
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None

    @property
    def terms(self) -> int:
        """Number of terms: one a level or one for a number, and one for a missing value."""
        return (len(self.levels) if self.kind == "category" else 1) + 1


class Record(BaseModel):
    """The variables of a record, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variables: tuple[Variable, ...] = Field(min_length=1)

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        *,
        kinds: dict[str, Kind] | None = None,
        ordinal: dict[str, tuple[str, ...]] | None = None,
        units: dict[str, str] | None = None,
    ) -> Record:
        """Describe the columns of a table of training patients.

        Args:
            frame: a row a patient, a column a variable; ordinals as the numbers of their levels.
            kinds: of columns, where they are to differ from what their values look like.
            ordinal: levels of ordinals, from low to high.
            units: of columns.

        Raises:
            TiacfError: a column is missing for all patients, or cannot be of the kind that is given.
        """
        kinds, ordinal, units = kinds or {}, ordinal or {}, units or {}
        return cls(
            variables=tuple(
                _describe(frame[name], kinds.get(name), ordinal.get(name), units.get(name, ""))
                for name in map(str, frame.columns)
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(variable.name for variable in self.variables)

    @property
    def num_terms(self) -> int:
        """Number of terms P that a model makes of the record."""
        return sum(variable.terms for variable in self.variables)

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return of each term (P,) the number of its variable, its kind and its level.

        Kinds are 0 for a number, 1 for its logarithm, 2 for a level, 3 for a missing value; the level is 0
        for the other kinds. All follow from the variables alone, so that all models of a record have the same
        terms.
        """
        rows = []
        for place, variable in enumerate(self.variables):
            if variable.kind == "category":
                rows += [(place, 2, level) for level in range(len(variable.levels))]
            else:
                rows.append((place, int(variable.kind == "skewed"), 0))
            rows.append((place, 3, 0))
        variables, kinds, levels = np.array(rows, int).T
        return variables, kinds, levels

    def of_training(self, codes: np.ndarray) -> Record:
        """Return the record with missing shares and ranges of training patients, from codes (N, V)."""
        found = []
        for variable, values in zip(self.variables, codes.T, strict=True):
            known = values[np.isfinite(values)]
            changed: dict[str, float] = {"missing": 1 - len(known) / len(values)}
            if variable.low is not None and len(known):
                changed |= {"low": float(known.min()), "high": float(known.max())}
            found.append(variable.model_copy(update=changed))
        return Record(variables=tuple(found))

    def codes(self, frame: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
        """Return the values of patients as numbers.

        Args:
            frame: a row a patient; a variable that is not among the columns is missing for all.

        Returns:
            (N, V) float64: numbers as they are, levels as their number, NaN where missing or unknown; and
            notes on unknown levels and implausible numbers.
        """
        notes: list[str] = []
        columns = [
            _codes(variable, frame[variable.name], notes)
            if variable.name in frame
            else np.full(len(frame), np.nan)
            for variable in self.variables
        ]
        absent = [name for name in self.names if name not in frame]
        if absent:
            notes.append(f"the table has no column {', '.join(absent)}: taken as missing")
        return np.column_stack(columns), notes


@dataclass(frozen=True, eq=False)
class RecordTerms:
    """How the values of a record become P terms, learnt from training patients.

    A number enters as (value - mean) / SD, at most 4; a category as an indicator of each level less the share
    of the patients who have it; a missing value as 0, the average, with an indicator less its share. Levels,
    and missing values, of fewer than eight patients have no term, nor do missing values of the same patients
    as those of an earlier variable: their terms are 0.

    Attributes:
        variable: (P,) number of the variable of each term.
        kind: (P,) 0 for a number, 1 for its logarithm, 2 for a level, 3 for a missing value.
        level: (P,) number of the level; 0 for the other kinds.
        centre: (P,) mean or share of the training patients.
        scale: (P,) SD, 1 for indicators; 0 for terms that are left out.
    """

    variable: np.ndarray
    kind: np.ndarray
    level: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, record: Record, codes: np.ndarray) -> RecordTerms:
        """Learn from the codes (N, V) of training patients, see `Record.codes`."""
        variables, kinds, levels = record.places()
        centre, scale = np.zeros(len(kinds)), np.zeros(len(kinds))
        gaps: list[bytes] = []
        for term, (place, kind, level) in enumerate(zip(variables, kinds, levels, strict=True)):
            values = codes[:, place]
            known = np.isfinite(values)
            if kind == 2:
                count = int((values == level).sum())
                centre[term], scale[term] = count / len(values), FEWEST <= count < len(values)
            elif kind == 3:
                gap = (~known).tobytes()
                enough = FEWEST <= (~known).sum() <= len(values) - FEWEST and gap not in gaps
                gaps.append(gap)
                centre[term], scale[term] = (~known).mean(), enough
            elif known.any():
                numbers = np.log1p(np.maximum(values[known], 0)) if kind == 1 else values[known]
                with np.errstate(over="ignore"):  # the fit refuses what no sum can hold
                    centre[term], spread = numbers.mean(), numbers.std()
                if not np.isfinite(spread):
                    raise TiacfError(
                        f"covariate {record.names[place]} has values too large to be added up; check its unit"
                    )
                scale[term] = 0.0 if spread <= 1e-9 * max(1.0, abs(centre[term])) else spread
        return cls(variables, kinds, levels, centre, scale)

    @property
    def used(self) -> np.ndarray:
        """(P,) which terms are not left out."""
        return self.scale > 0

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Return the terms (N, P) of codes (N, V)."""
        values = codes[:, self.variable]
        missing = np.isnan(values)
        number = np.where(self.kind == 1, np.log1p(np.maximum(values, 0)), values)
        scale = np.where(self.used, self.scale, 1.0)
        number = np.clip((number - self.centre) / scale, -_LARGEST, _LARGEST)
        level = (values == self.level) - self.centre
        terms = np.where(self.kind == 2, level, number)
        terms = np.where(self.kind == 3, missing - self.centre, np.where(missing, 0.0, terms))
        return np.where(self.used, terms, 0.0)

    def names(self, record: Record) -> list[str]:
        """Names of the P terms, such as "age", "stage=II" and "age missing"."""
        found = []
        for place, kind, level in zip(self.variable, self.kind, self.level, strict=True):
            variable = record.variables[place]
            suffix = f"={variable.levels[level]}" if kind == 2 else " missing" if kind == 3 else ""
            found.append(f"{variable.name}{suffix}")
        return found


def _describe(
    values: pd.Series, kind: Kind | None, levels: tuple[str, ...] | None, unit: str
) -> Variable:
    """Describe a column."""
    name, known = str(values.name), values[values.notna()]
    if known.empty:
        raise TiacfError(
            f"covariate {name} is missing for all {len(values)} patients; leave it out of --covariates"
        )
    missing = 1 - len(known) / len(values)
    numbers = is_numeric_dtype(values) or is_bool_dtype(values)
    if levels is not None:
        return Variable(name=name, kind="ordinal", levels=levels, unit=unit, missing=missing)
    if kind is None:
        kind = "category"
        if numbers:
            plain = known.to_numpy(float)
            several = len(np.unique(plain)) > 5
            skewed = several and plain.min() >= 0 and float(skew(plain)) > _SKEWED
            kind = "skewed" if skewed else "number"
    if kind == "category":
        names = [f"{v:g}" if isinstance(v, float) else str(v) for v in known]
        found = pd.Series(names).value_counts()
        ordered = sorted(found.index, key=lambda level: (-found[level], level))
        return Variable(name=name, kind=kind, levels=tuple(ordered), unit=unit, missing=missing)
    if not numbers:
        raise TiacfError(
            f"covariate {name} is to be a {kind}, and holds text such as {examples(known.unique())}; "
            "mend the values, or its kind"
        )
    low, high = float(known.astype(float).min()), float(known.astype(float).max())
    if kind == "skewed" and low < 0:
        raise TiacfError(
            f"covariate {name} is to be skewed, and is below 0 for a patient ({low:g}); make it a number"
        )
    return Variable(
        name=name,
        kind=kind,
        unit=unit,
        missing=missing,
        low=low,
        high=high,
    )


def _codes(variable: Variable, values: pd.Series, notes: list[str]) -> np.ndarray:
    """Numbers (N,) of a variable."""
    known = values.notna() & (values.astype(str).str.strip() != "")
    if variable.kind == "category":
        place = {level.casefold(): number for number, level in enumerate(variable.levels)}
        text = [f"{v:g}" if isinstance(v, float) else str(v).strip() for v in values]
        found = [place.get(level.casefold(), np.nan) for level in text]
    elif variable.kind == "ordinal":
        place = {
            name.strip().casefold(): number
            for number, level in enumerate(variable.levels)
            for name in level.split("|")
        }
        numbers = pd.to_numeric(values, errors="coerce") if is_numeric_dtype(values) else None
        found = (
            list(numbers.astype(float))
            if numbers is not None
            else [place.get(str(v).strip().casefold(), np.nan) for v in values]
        )
    else:
        found = list(pd.to_numeric(values, errors="coerce").astype(float))
    codes = np.where(known, np.array(found, float), np.nan)
    codes[~np.isfinite(codes)] = np.nan
    unknown = known.to_numpy() & np.isnan(codes)
    if unknown.any():
        given = sorted({printable(str(v)) for v in values[unknown]})
        near = get_close_matches(given[0], variable.levels, n=1, cutoff=0.4)
        hint = f" (nearest to {given[0]}: {near[0]})" if near else ""
        what = "levels" if variable.levels else "values"
        notes.append(
            f"{variable.name}: {int(unknown.sum())} unknown {what} taken as missing, such as "
            f"{examples(given)}{hint}"
        )
    notes += _implausible(variable, codes, list(values.index))
    return codes


def _implausible(variable: Variable, codes: np.ndarray, patients: Sequence[object]) -> list[str]:
    """Return a note on numbers far outside those of the training patients."""
    if variable.low is None or variable.high is None:
        return []
    margin = _IMPLAUSIBLE * max(variable.high - variable.low, 1e-9)
    far = (codes < variable.low - margin) | (codes > variable.high + margin)
    if not far.any():
        return []
    shown = [f"{patients[int(row)]}: {codes[row]:g}" for row in np.flatnonzero(far)]
    unit = f" {variable.unit}" if variable.unit else ""
    return [
        f"{variable.name} is far outside the training patients' {variable.low:g} to {variable.high:g}{unit} "
        f"for {int(far.sum())} patients, such as {examples(shown)}; check the unit"
    ]
