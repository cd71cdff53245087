"""A predicted survival curve, as the figure and the report draw it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tiacrossfusion.models.config import RiskGroup

if TYPE_CHECKING:
    from tiacrossfusion.inference.prediction import Prediction
    from tiacrossfusion.models.config import BundleConfig


class PlainValues(BaseModel):
    """Values stored as JSON: frozen, finite, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Curve(PlainValues):
    """A predicted survival curve. It starts at S(0) = 1 and is straight between the bin edges.

    Attributes:
        survival: (K,) S at the end of each bin.
        edges: K + 1 rising times from 0; None when unknown (an imported checkpoint).
        unit: unit of the times, such as "months"; None when unknown.
        median: median survival in that unit; None when unknown or not reached.
        groups: training patients to compare with.
    """

    survival: tuple[float, ...] = Field(min_length=1)
    edges: tuple[float, ...] | None
    unit: str | None
    median: float | None
    groups: tuple[RiskGroup, ...] = ()

    @property
    def times(self) -> tuple[float, ...]:
        """The bin edges, K + 1; numbers of bins when the edges are unknown."""
        return self.edges or tuple(float(k) for k in range(len(self.survival) + 1))

    @property
    def x_label(self) -> str:
        """Label of the time axis."""
        return "time bin (bin edges unknown)" if self.edges is None else f"time ({self.unit})"

    @property
    def median_label(self) -> str:
        """The median in words; empty when times are unknown."""
        if self.median is not None:
            return f"median {self.median:.3g} {self.unit}"
        if self.edges is None:
            return ""
        return f"median not reached within {self.edges[-1]:.3g} {self.unit}"


def group_label(group: RiskGroup) -> str:
    """Return the text of the legend for a group of training patients."""
    return f"training, {group.name} risk (n = {group.patients:,})"


def curve_of(prediction: Prediction, config: BundleConfig) -> Curve:
    """Return the curve of a prediction, with the groups of the model's training patients."""
    bins, reference = config.time_bins, config.risk_reference
    return Curve(
        survival=tuple(prediction.survival.tolist()),
        edges=None if bins is None else bins.edges,
        unit=None if bins is None else bins.unit,
        median=prediction.median,
        groups=() if reference is None else reference.groups,
    )
