"""Discrete time: the bins in which hazards are predicted, and what is read off the curve.

With edges e_0 = 0 < e_1 < ... < e_K and a hazard h_k for each bin [e_{k-1}, e_k), the survival at the
end of bin k is S(e_k) = prod_{j <= k} (1 - h_j) and S(0) = 1 (Soraki et al., MIDL 2026, section 3.4;
facts of the release: `survival = cumprod(1 - hazards)`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.text import FORMULA_SIGNS, printable


def check_unit(unit: str) -> str:
    """Check a unit of time, which is written beside times in tables and figures, and return it.

    Raises:
        ValueError: it holds control characters, or begins as a formula of a spreadsheet.
    """
    if unit != printable(unit):
        raise ValueError("a unit of time holds no control characters")
    if unit.startswith(FORMULA_SIGNS):
        raise ValueError(
            f"a unit of time begins with no {unit[0]!r}, a formula's sign to spreadsheets"
        )
    return unit


class TimeBins(BaseModel):
    """The time axis of a model.

    Attributes:
        edges: K + 1 rising times from 0; the last one is the end of follow-up in training.
        unit: unit of the edges, such as "months".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...]
    unit: str

    @field_validator("edges")
    @classmethod
    def _rising_from_zero(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        finite = bool(np.isfinite(edges).all())
        if len(edges) < 2 or edges[0] != 0 or not finite or not (np.diff(edges) > 0).all():
            raise ValueError(f"bin edges rise from 0 and are finite, these do not: {edges}")
        return edges

    @field_validator("unit")
    @classmethod
    def _plain(cls, unit: str) -> str:
        return check_unit(unit)

    @property
    def num_bins(self) -> int:
        """Number of bins, K."""
        return len(self.edges) - 1

    def index(self, times: np.ndarray) -> np.ndarray:
        """Bin of each time, (N,) in 0 .. K - 1; times beyond the last edge fall in the last bin."""
        return np.clip(np.searchsorted(self.edges, times, side="right") - 1, 0, self.num_bins - 1)


def quantile_bins(
    times: Sequence[float] | np.ndarray,
    events: Sequence[int] | np.ndarray,
    num_bins: int,
    unit: str,
) -> TimeBins:
    """Bins that hold equal numbers of observed events.

    The inner edges are quantiles of the uncensored times (docs/crossfusion.md). Give training patients
    only: edges that have seen the test patients leak their follow-up.

    Args:
        times: (N,) follow-up times, above 0.
        events: (N,) 1 where the event was observed, 0 where the patient was censored.
        num_bins: number of bins, K.
        unit: unit of the times.

    Raises:
        TiacfError: too few different event times for that many bins.
    """
    times, events = np.asarray(times, float), np.asarray(events, bool)
    inner = (
        np.quantile(times[events], np.linspace(0, 1, num_bins + 1)[1:-1]) if events.any() else []
    )
    edges = (0.0, *(float(edge) for edge in inner), float(times.max()))
    if len(set(edges)) < num_bins + 1 or len(np.unique(times[events])) < num_bins:
        raise TiacfError(
            f"{int(events.sum())} observed events are too few for {num_bins} time bins; "
            "take fewer bins"
        )
    return TimeBins(edges=edges, unit=unit)


def median_survival(survival: np.ndarray, bins: TimeBins) -> float | None:
    """Time at which the survival curve (K,) falls to one half.

    The curve is taken as straight between its values at the bin edges, with S(0) = 1: the discrete
    model says nothing of the shape inside a bin, and a straight line is the shape with a constant
    density of events.

    Returns:
        The median in the unit of the bins, or None when the curve stays above 0.5 up to the last edge.
    """
    curve = np.concatenate([[1.0], survival])
    below = np.flatnonzero(curve <= 0.5)
    if len(below) == 0:
        return None
    end = int(below[0])
    start = end - 1
    share = (curve[start] - 0.5) / (curve[start] - curve[end])
    return float(bins.edges[start] + share * (bins.edges[end] - bins.edges[start]))
