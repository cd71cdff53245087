"""The schema of a model bundle's `config.json`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.networks.registry import NETWORKS
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.survival import TimeBins

FORMAT_VERSION: Final = 1


class Architecture(BaseModel):
    """A network and its sizes, with or without standardisation and proportional hazards.

    Attributes:
        name: of the network, see `tiacrossfusion.networks.registry.NETWORKS`.
        package: what has to be installed or imported for a network that is not built in; None for one that
            is.
        encoder_width: E, width of the features.
        num_bins: K, hazards of the model's output.
        sizes: the other arguments of the network's constructor, such as "embed_dim"; rates of dropout,
            which only training needs, are left out.
        standardise: each scale's features are standardised before the network, by moments in the weights.
        proportional_hazards: the network gives one log-hazard, and a baseline in the weights K hazards.
        covariates: names of the clinical covariates that the network is given, which are standardised by
            moments in the weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    package: Annotated[str, Field(pattern=r"^[\w.-]{1,200}$")] | None
    encoder_width: int = Field(ge=1, le=65536)
    num_bins: int = Field(ge=1, le=1000)
    sizes: dict[str, int | float | str | bool | None] = Field(default_factory=dict)
    standardise: bool = False
    proportional_hazards: bool = False
    covariates: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _with_package(cls, given: Any) -> Any:
        if isinstance(given, dict) and "package" not in given:
            return given | {"package": NETWORKS.package(str(given.get("name")))}
        return given

    @model_validator(mode="after")
    def _known(self) -> Architecture:
        if self.package is None and self.name not in NETWORKS:
            raise ValueError(f"name {NETWORKS.unknown(self.name)}")
        return self


class RiskGroup(BaseModel):
    """Training patients on one side of the cut-off.

    Attributes:
        name: such as "low" and "high".
        patients: how many.
        survival: (K,) Kaplan-Meier estimate of their survival at the bin edges e_1 .. e_K.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    patients: int = Field(ge=0)
    survival: tuple[Annotated[float, Field(ge=0, le=1)], ...]


class RiskReference(BaseModel):
    """The risks of the training patients, to compare a risk with.

    Attributes:
        quantiles: risks of the training patients at evenly spaced probabilities from 0 to 1.
        cutoff: a risk above it is in the last group, else in the first; from training patients.
        groups: the two groups, low risk first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantiles: tuple[FiniteFloat, ...] = Field(min_length=2)
    cutoff: FiniteFloat
    groups: tuple[RiskGroup, RiskGroup]

    @model_validator(mode="after")
    def _rising(self) -> RiskReference:
        if list(self.quantiles) != sorted(self.quantiles):
            raise ValueError("risk quantiles do not rise")
        return self

    def covers(self, risk: float) -> bool:
        """Return whether a risk lies within those of the training patients."""
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

    `time_bins` and `risk_reference` are None when they are unknown, as for a checkpoint imported without
    them: predictions then leave times, percentile and group empty and say why.

    `members` makes the bundle an ensemble: the time bins of each member, networks of one architecture whose
    curves are averaged at the edges of `time_bins`. `patient_hazards` says how the slides of a patient
    become one prediction: the mean of their hazards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str
    architecture: Architecture
    sampling: SamplingSpec
    encoder: EncoderSpec
    time_bins: TimeBins | None
    members: tuple[TimeBins, ...] = ()
    patient_hazards: Literal["mean"] = "mean"
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
        if self.members and self.time_bins is None:
            raise ValueError("an ensemble needs time_bins, at whose edges its curves are averaged")
        if any(member.num_bins != bins for member in self.members):
            raise ValueError(f"a member of the ensemble has not {bins} time bins")
        if self.risk_reference is not None and any(
            len(group.survival) != bins for group in self.risk_reference.groups
        ):
            raise ValueError(f"a risk group's survival has not {bins} values")
        return self
