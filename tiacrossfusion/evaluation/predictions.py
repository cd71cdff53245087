"""Predictions for patients that a model has not been trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.survival import Censoring, TimeBins

#: Rounding that a survival curve may rise by.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class FoldPredictions:
    """Predictions of one fold's model for the patients held out from its training.

    Attributes:
        fold: number of the fold.
        patients: N names, all different.
        times: (N,) follow-up, above 0, in the unit of `bins`.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        risks: (N,) higher is worse; comparable within the fold only.
        survival: (N, K) predicted survival at the end of each bin, never rising.
        high: (N,) bool, risk above the cut-off taken from the training patients.
        bins: time bins of the fold, from its training patients.
        training_times: (M,) follow-up of the training patients.
        training_events: (M,) as `events`, of the training patients.
        entries: (N,) times at which follow-up begins, below `times` (left truncation); None is 0 for all.

    Raises:
        TiacfError: values are missing, out of range or inconsistent; names the first.
    """

    fold: int
    patients: tuple[str, ...]
    times: np.ndarray
    events: np.ndarray
    risks: np.ndarray
    survival: np.ndarray
    high: np.ndarray
    bins: TimeBins
    training_times: np.ndarray
    training_events: np.ndarray
    entries: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check shapes and values."""
        count, where = len(self.patients), f"fold {self.fold}"
        if count == 0:
            raise TiacfError(f"{where}: has no patients; leave the fold out")
        if len(set(self.patients)) < count:
            raise TiacfError(
                f"{where}: {count - len(set(self.patients))} patients stand there twice"
            )
        for name in ("times", "events", "risks", "high", "entered"):
            if np.shape(getattr(self, name)) != (count,):
                raise TiacfError(f"{where}: {name} are not one for each of {count} patients")
        if np.shape(self.survival) != (count, self.bins.num_bins):
            raise TiacfError(
                f"{where}: survival has the shape {np.shape(self.survival)}, where {count} patients "
                f"and {self.bins.num_bins} time bins need ({count}, {self.bins.num_bins})"
            )
        if len(self.training_times) == 0 or len(self.training_times) != len(self.training_events):
            raise TiacfError(
                f"{where}: {len(self.training_times)} times and {len(self.training_events)} events of "
                "training patients; give one of each for every training patient"
            )
        inside = (self.survival >= -_ROUNDING) & (self.survival <= 1 + _ROUNDING)
        for name, wrong in (
            ("time that is not a number above 0", ~_positive(self.times)),
            ("event that is neither 0 nor 1", ~np.isin(self.events, (0, 1))),
            ("entry that is not before the end of follow-up", ~self._enters_before_end()),
            ("risk that is not a finite number", ~np.isfinite(self.risks)),
            ("survival outside 0 to 1", ~inside.all(axis=1)),
            ("survival that rises", (np.diff(self.survival, axis=1) > _ROUNDING).any(axis=1)),
        ):
            if wrong.any():
                first = self.patients[int(np.flatnonzero(wrong)[0])]
                raise TiacfError(
                    f"{where}: {int(wrong.sum())} of {count} patients have a {name}, first {first}"
                )
        wrong = ~_positive(self.training_times) | ~np.isin(self.training_events, (0, 1))
        if wrong.any():
            raise TiacfError(
                f"{where}: {int(wrong.sum())} of {len(wrong)} training patients have a time that is "
                "not a number above 0 or an event that is neither 0 nor 1"
            )

    @property
    def entered(self) -> np.ndarray:
        """Times (N,) at which follow-up begins."""
        return np.zeros(len(self.patients)) if self.entries is None else self.entries

    @property
    def enters_late(self) -> bool:
        """Return whether follow-up begins later than at 0 for a patient."""
        return bool(self.entered.any())

    def _enters_before_end(self) -> np.ndarray:
        return np.isfinite(self.entered) & (self.entered >= 0) & (self.entered < self.times)

    @property
    def censoring(self) -> Censoring:
        """Censoring distribution of the training patients."""
        return Censoring(self.training_times, self.training_events)

    @property
    def standardised_risks(self) -> np.ndarray:
        """Risks (N,) with mean 0 and SD 1 over the patients; equal risks become 0."""
        spread = self.risks.std()
        return (self.risks - self.risks.mean()) / (spread if spread > 0 else 1.0)

    def chosen(self, rows: np.ndarray) -> FoldPredictions:
        """Return the predictions of the patients at some positions, in that order."""
        return replace(
            self,
            patients=tuple(self.patients[row] for row in rows),
            times=self.times[rows],
            events=self.events[rows],
            risks=self.risks[rows],
            survival=self.survival[rows],
            high=self.high[rows],
            entries=None if self.entries is None else self.entries[rows],
        )


def check_predictions(folds: Sequence[FoldPredictions]) -> None:
    """Refuse folds that cannot be reported together.

    Raises:
        TiacfError: there are no folds, two have the same number, or units or numbers of bins differ.
    """
    if not folds:
        raise TiacfError("there are no predictions to evaluate; give those of one fold or more")
    numbers = [fold.fold for fold in folds]
    if len(set(numbers)) < len(numbers):
        raise TiacfError(f"the folds are numbered {numbers}; each needs its own number")
    units = sorted({fold.bins.unit for fold in folds})
    if len(units) > 1:
        raise TiacfError(f"the folds give times in {' and '.join(units)}; bring them to one unit")
    bins = sorted({fold.bins.num_bins for fold in folds})
    if len(bins) > 1:
        raise TiacfError(f"the folds have {bins} time bins; train them with the same number")


def _positive(times: np.ndarray) -> np.ndarray:
    """(N,): times are numbers above 0."""
    return np.isfinite(times) & (np.asarray(times) > 0)
