"""What a model bundle says of itself: the schema of its `config.json`."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tiacrossfusion.encoders import EncoderSpec
from tiacrossfusion.sampling.spec import SamplingSpec
from tiacrossfusion.survival import TimeBins

FORMAT_VERSION: Final = 1


class Architecture(BaseModel):
    """The network and its sizes; the arguments of `tiacrossfusion.networks.CrossFusion`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["crossfusion"] = "crossfusion"
    encoder_width: int = Field(ge=1, le=65536)
    embed_dim: int = Field(ge=1, le=8192)
    num_heads: int = Field(ge=1, le=256)
    depth: int = Field(ge=1, le=64)
    num_bins: int = Field(ge=1, le=1000)
    layout: Literal["square"] = "square"


class RiskGroup(BaseModel):
    """Training patients on one side of the cut-off.

    Attributes:
        name: such as "low" and "high".
        patients: how many.
        survival: (K,) Kaplan-Meier estimate of their survival at the bin edges e_1 .. e_K.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    patients: int
    survival: tuple[float, ...]


class RiskReference(BaseModel):
    """Where a risk stands among the training patients.

    Attributes:
        quantiles: risks of the training patients at evenly spaced probabilities from 0 to 1.
        cutoff: a risk above it is in the last group, else in the first; from training patients.
        groups: the two groups, low risk first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantiles: tuple[float, ...] = Field(min_length=2)
    cutoff: float
    groups: tuple[RiskGroup, RiskGroup]

    @model_validator(mode="after")
    def _rising(self) -> RiskReference:
        if not (np.diff(self.quantiles) >= 0).all():
            raise ValueError("risk quantiles do not rise")
        return self

    def covers(self, risk: float) -> bool:
        """Tell whether a risk lies within those of the training patients."""
        return self.quantiles[0] <= risk <= self.quantiles[-1]

    def percentile(self, risk: float) -> float:
        """Percentile of a risk among the training patients, 0 to 100, linear between quantiles."""
        probabilities = np.linspace(0, 100, len(self.quantiles))
        return float(np.interp(risk, self.quantiles, probabilities))

    def group(self, risk: float) -> RiskGroup:
        """Risk group of a risk."""
        return self.groups[1] if risk > self.cutoff else self.groups[0]


class ModelCard(BaseModel):
    """What a user must know before believing a number.

    Attributes:
        description: what the model is, in a sentence or two.
        cohort: on whom it was trained.
        performance: figures with intervals and what they were measured on; empty when unknown.
        licence: of the weights.
        notice: shown beside every output; not empty for anything that is not for clinical use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    cohort: str
    performance: str = ""
    licence: str
    notice: str


class BundleConfig(BaseModel):
    """The `config.json` of a model bundle.

    `time_bins` and `risk_reference` are None when they are unknown, as for a checkpoint imported
    without them: predictions then leave times, percentile and group empty and say why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str
    architecture: Architecture
    sampling: SamplingSpec
    encoder: EncoderSpec
    time_bins: TimeBins | None
    risk_reference: RiskReference | None
    card: ModelCard

    @model_validator(mode="after")
    def _sizes_agree(self) -> BundleConfig:
        bins = self.architecture.num_bins
        if self.architecture.encoder_width != self.encoder.width:
            raise ValueError(
                f"architecture.encoder_width {self.architecture.encoder_width} differs from "
                f"encoder.width {self.encoder.width}"
            )
        if self.time_bins is not None and self.time_bins.num_bins != bins:
            raise ValueError(f"{self.time_bins.num_bins} time bins for {bins} hazards")
        if self.risk_reference is not None and any(
            len(group.survival) != bins for group in self.risk_reference.groups
        ):
            raise ValueError(f"a risk group's survival has not {bins} values")
        return self
