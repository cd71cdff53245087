"""Cox regression on a clinical record: the baseline that a model of slides must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.survival.proportional_hazards import breslow_increments
from tiacrossfusion.survival.record import Record, RecordTerms
from tiacrossfusion.survival.ridge_cox import choose_ridge, fit_ridge
from tiacrossfusion.survival.time_bins import TimeBins

#: Penalty of terms beside the record, such as a model's risk: next to none.
UNPENALISED = 1e-3


class ClinicalCox:
    """Proportional hazards of the terms of a record (Cox, J R Stat Soc B 34, 1972), with a ridge penalty.

    The hazard is `h_0(t) exp(w^T z)`, with z as `RecordTerms` makes them. The penalty of w is chosen by
    cross-validated partial likelihood among the training patients. Patients without some values stay in.

    Attributes:
        record: the variables.
        beside: columns of numbers that enter besides, all but unpenalised.
        messages: what was left out or taken as missing, one line each.
    """

    def __init__(self, record: Record | None, beside: Sequence[str] = ()) -> None:
        """Name the variables, or None for the columns `beside` alone."""
        self.record, self.beside = record, tuple(beside)
        self.messages: list[str] = []

    def fit(self, patients: pd.DataFrame, *, seed: int = 0) -> ClinicalCox:
        """Estimate coefficients and baseline hazard; returns the object itself.

        Args:
            patients: training patients: columns time, event, optionally entry (time at which follow-up
                begins), and those of the variables (`CohortTable.patients`).
            seed: of the folds in which the penalty is chosen.

        Raises:
            TiacfError: no variable varies, or there is no event.
        """
        self.messages = []
        self._terms = self._moments = None
        if self.record is not None:
            codes, notes = self.record.codes(patients)
            self._terms = RecordTerms.fit(self.record, codes)
            self.messages += [*notes, *self._left_out(codes)]
        if self.beside:
            beside = patients[list(self.beside)].to_numpy(float)
            spread = beside.std(axis=0)
            self._moments = beside.mean(axis=0), np.where(spread > 0, spread, 1.0)
        z = self._z(patients)
        if not z.any():
            raise TiacfError(
                f"no covariate of {', '.join(self._names())} varies among {len(patients)} training patients; "
                "name others with --covariates"
            )
        self._follow_up = (
            patients["time"].to_numpy(float),
            patients["event"].to_numpy(int),
            patients["entry"].to_numpy(float) if "entry" in patients else None,
        )
        times, events, entries = self._follow_up
        count = z.shape[1] - len(self.beside)
        fixed = np.array([np.nan] * count + [UNPENALISED] * len(self.beside))
        penalties, _ = choose_ridge(z, times, events, fixed, seed=seed, entries=entries)
        self.coefficients = fit_ridge(z, times, events, penalties, entries)
        self._training = z @ self.coefficients
        return self

    def risk(self, patients: pd.DataFrame) -> np.ndarray:
        """Log-hazard relative to the average training patient, (N,); higher is worse."""
        return self._z(patients) @ self.coefficients

    def log_hazard(self, codes: np.ndarray) -> np.ndarray:
        """Log-hazard (N,) of the codes (N, V) of records; columns beside them are average."""
        assert self._terms is not None  # noqa: S101 - fitted on a record
        z = self._terms.encode(codes)
        return z @ self.coefficients[: z.shape[1]]

    def survival(self, patients: pd.DataFrame, bins: TimeBins) -> np.ndarray:
        """Probability of surviving each bin, (N, K): `exp(-H_0(e_k) exp(w^T z))`, H_0 by Breslow."""
        times, events, entries = self._follow_up
        increments = breslow_increments(self._training, times, events, bins, entries)
        return np.exp(-np.outer(np.exp(self.risk(patients)), np.cumsum(increments)))

    def terms(self, patients: pd.DataFrame) -> pd.DataFrame:
        """Terms of the record that are in use, (N, P'), by name; of a category without its first level.

        The first level, the most frequent, is the reference of the hazard ratios of the others.
        """
        if self.record is None or self._terms is None:
            return pd.DataFrame(index=patients.index)
        kept = self._terms.used & ~((self._terms.kind == 2) & (self._terms.level == 0))
        z = self._terms.encode(self.record.codes(patients)[0])
        names = np.array(self._terms.names(self.record))
        return pd.DataFrame(z[:, kept], columns=names[kept], index=patients.index)

    def _z(self, patients: pd.DataFrame) -> np.ndarray:
        """Terms (N, P) of the record, then the standardised columns beside it."""
        parts = []
        if self.record is not None and self._terms is not None:
            codes, notes = self.record.codes(patients)
            self.messages += [note for note in notes if note not in self.messages]
            parts.append(self._terms.encode(codes))
        if self._moments is not None:
            mean, sd = self._moments
            parts.append((patients[list(self.beside)].to_numpy(float) - mean) / sd)
        return np.concatenate(parts, axis=1)

    def _names(self) -> list[str]:
        return [*(self.record.names if self.record is not None else ()), *self.beside]

    def _left_out(self, codes: np.ndarray) -> list[str]:
        """Return lines on missing values, and on variables without any term."""
        assert self.record is not None  # noqa: S101 - the caller has looked
        assert self._terms is not None  # noqa: S101 - the caller has looked
        lines = []
        for place, name in enumerate(self.record.names):
            missing = int(np.isnan(codes[:, place]).sum())
            if missing:
                lines.append(
                    f"covariate {name} is missing for {missing} of {len(codes)} training patients"
                )
            if not self._terms.used[self._terms.variable == place].any():
                lines.append(
                    f"covariate {name} is the same for all {len(codes)} training patients"
                    f"{' who have it' if missing else ''} and is left out"
                )
        return lines
