"""The schema of a model bundle's `config.json`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.networks.registry import FUSIONS, NETWORKS, STUDENTS
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.survival import TimeBins
from tiacrossfusion.survival.record import Record

FORMAT_VERSION: Final = 1


class PretrainedPart(BaseModel):
    """What of a model was pretrained on patients without follow-up.

    Attributes:
        scales: that are read.
        way: "closed" (a direction of the mean features) or "neural" (`networks.masked_completion`).
        prototypes: K of the neural way.
        cross: of the neural way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[Literal["5x", "10x", "20x"], ...] = Field(min_length=1)
    way: Literal["closed", "neural"] = "closed"
    prototypes: int = Field(0, ge=0, le=64)
    cross: bool = True


class Architecture(BaseModel):
    """A network and its sizes, with or without standardisation and proportional hazards.

    Attributes:
        name: of the network, see `tiacrossfusion.networks.registry.NETWORKS`.
        package: installed package or Python file that registers the network; None for a built-in one.
        encoder_width: E, width of the features.
        num_bins: K, hazards of the model's output.
        sizes: the other arguments of the network's constructor, such as "embed_dim", without dropout rates,
            which only training needs.
        standardise: features are standardised, at each scale, by moments stored in the weights.
        proportional_hazards: the network predicts one log-hazard, from which a baseline stored in the
            weights gives K hazards.
        statistics: statistics of the slide along directions stored in the weights add to the logits.
        covariates: names of the network's clinical covariates, which are standardised by moments stored in
            the weights.
        record: variables of the clinical record, of a model of slide and record.
        slide: architecture of the slide's network, of such a model; of a student in closed form, that of its
            teacher (of each member, if the teacher is an ensemble).
        pretrained: what of such a model was pretrained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    package: Annotated[str, Field(pattern=r"^[\w.-]{1,200}$")] | None
    encoder_width: int = Field(ge=1, le=65536)
    num_bins: int = Field(ge=1, le=1000)
    sizes: dict[str, int | float | str | bool | None] = Field(default_factory=dict)
    standardise: bool = False
    proportional_hazards: bool = False
    statistics: bool = False
    covariates: tuple[str, ...] = ()
    record: Record | None = None
    slide: Architecture | None = None
    pretrained: PretrainedPart | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_package(cls, given: Any) -> Any:
        if isinstance(given, dict) and "package" not in given:
            name = str(given.get("name"))
            return given | {
                "package": None if name in (*FUSIONS, *STUDENTS) else NETWORKS.package(name)
            }
        return given

    @model_validator(mode="after")
    def _known(self) -> Architecture:
        if self.name in FUSIONS:
            if self.record is None or self.slide is None or self.slide.name in FUSIONS:
                raise ValueError(f"{self.name} lacks a record or the network of slides")
        elif self.name in STUDENTS:
            if self.record is not None or self.slide is None or self.slide.name in STUDENTS:
                raise ValueError(f"{self.name} lacks the network of its teacher")
        elif self.record is not None or self.slide is not None:
            raise ValueError(f"{self.name} takes no record")
        elif self.package is None and self.name not in NETWORKS:
            raise ValueError(f"name {NETWORKS.unknown(self.name)}")
        return self


class RiskGroup(BaseModel):
    """Training patients on one side of the cut-off.

    Attributes:
        name: "low" or "high", or another name.
        patients: number of patients.
        survival: (K,) Kaplan-Meier estimate of their survival at the bin edges e_1 .. e_K.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    patients: int = Field(ge=0)
    survival: tuple[Annotated[float, Field(ge=0, le=1)], ...]


class RiskReference(BaseModel):
    """The risks of the training patients, for comparison.

    Attributes:
        quantiles: risks of the training patients at evenly spaced probabilities from 0 to 1.
        cutoff: a risk above it belongs to the second group, else to the first.
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
        """Return the percentile of a risk among the training patients, 0 to 100, linear between quantiles."""
        probabilities = np.linspace(0, 100, len(self.quantiles))
        return float(np.interp(risk, self.quantiles, probabilities))

    @property
    def sd(self) -> float:
        """Return the standard deviation of the risks of the training patients, from their quantiles."""
        return float(np.std(self.quantiles))

    def group(self, risk: float) -> RiskGroup:
        """Return the risk group of a risk."""
        return self.groups[1] if risk > self.cutoff else self.groups[0]


class ModelCard(BaseModel):
    """What a user must know to interpret a model's predictions.

    Attributes:
        description: the model, in a sentence or two.
        cohort: patients on whom it was trained.
        performance: figures with intervals and the data that they were measured on; empty if unknown.
        licence: of the weights.
        notice: shown beside every output; not empty for a model that is not for clinical use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    cohort: str
    performance: str = ""
    licence: str
    notice: str


class TaughtBy(BaseModel):
    """Who taught a student, see `tiacf distil`.

    Attributes:
        name: of the teacher's bundle.
        fingerprint: of its files.
        slides: number of slides whose hazards were learnt.
        way: "trained" by gradient, or "closed" form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    slides: int = Field(ge=1)
    way: Literal["trained", "closed"]


class BundleConfig(BaseModel):
    """The `config.json` of a model bundle.

    `time_bins` and `risk_reference` are None if unknown, as for an imported checkpoint: predictions then
    leave times, percentile and group empty, with a note.

    `members` makes the bundle an ensemble of networks of one architecture: it holds the time bins of each
    member, and their curves are averaged at the edges of `time_bins`. `patient_hazards` is how the slides
    of a patient become one prediction: by the mean of their hazards.

    `training_slides` are hashes of the slides that the model was trained or stopped on
    (`bags.identity.bag_identities`). `training_distances` are quantiles, at evenly spaced probabilities, of
    how far the training slides lie from the mean of their features (`inference.familiarity.distance`).
    Of a student, `risk_reference` is that of its teacher, whose hazards it learnt.
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
    training_slides: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...] = ()
    training_distances: tuple[Annotated[FiniteFloat, Field(ge=0)], ...] = ()
    taught_by: TaughtBy | None = None
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
            raise ValueError(f"a member of the ensemble does not have {bins} time bins")
        if self.risk_reference is not None and any(
            len(group.survival) != bins for group in self.risk_reference.groups
        ):
            raise ValueError(f"a risk group's survival does not have {bins} values")
        return self
