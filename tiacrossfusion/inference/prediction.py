"""Predict survival from one bag of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.survival import hazards_of, median_survival, risk_of, survival_curve

if TYPE_CHECKING:
    from tiacrossfusion.explain.attribution import Attribution
    from tiacrossfusion.inference.reading import PartialReading
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.models.config import BundleConfig, RiskReference


@dataclass(frozen=True)
class RecordUse:
    """What a model of slide and clinical record took of the record.

    Attributes:
        used: names of the variables that have a value.
        missing: names of the others.
        hazards_without: (K,) hazards by the slide alone.
    """

    used: tuple[str, ...]
    missing: tuple[str, ...]
    hazards_without: np.ndarray

    @property
    def risk_without(self) -> float:
        """Risk by the slide alone."""
        return float(risk_of(survival_curve(self.hazards_without)))


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one slide or one patient. No value here is a medical finding.

    Attributes:
        risk: minus the sum of S over the bins; higher is worse, comparable within one model only.
        hazards: (K,) probability of the event in each bin, given survival up to it.
        survival: (K,) S at the end of each bin.
        percentile: of the risk among the training patients, 0 to 100; None when unknown.
        risk_group: name of the side of the training cut-off; None when unknown.
        median: median survival in the unit of the time bins; None when not reached or unknown.
        median_reached: whether S falls to one half by the last edge; None when times are unknown.
        unknown: why percentile, group or times are None; empty when all are known.
        attention: attention that each token receives: "5x" (N5,), "10x" (N10,), "20x" (N20,) and
            "fused" (N10,), float64, of those that the network has; empty for a patient.
        rolled: attention followed back to the tokens of each scale, see `explain.rolled_scores`; None
            where the network has no layers to follow, or it was not asked for.
        attribution: what raises and what lowers the risk; None where it was not asked for.
        member_risks: (M,) risk that each member of an ensemble gives; None for a single network, and
            for a patient, since only the mean hazards of the slides are known.
        record: of a model that reads a clinical record; None for others.
        reading: what was read, if it was a part of the slide.
        risk_nuisance_sd: how far stain, scanner and sampling move the risk, a standard deviation; None if the
            model was not audited on slides, and for a patient.
        group_uncertain: whether the risk group changes within 1.96 of them; None where it is unknown.
    """

    risk: float
    hazards: np.ndarray
    survival: np.ndarray
    percentile: float | None
    risk_group: str | None
    median: float | None
    median_reached: bool | None
    unknown: str
    attention: dict[str, np.ndarray]
    rolled: dict[str, np.ndarray] | None = None
    attribution: Attribution | None = None
    member_risks: np.ndarray | None = None
    record: RecordUse | None = None
    reading: PartialReading | None = None
    risk_nuisance_sd: float | None = None
    group_uncertain: bool | None = None

    @property
    def risk_sd(self) -> float | None:
        """Standard deviation (n - 1) of the members' risks; None without two members at least."""
        if self.member_risks is None or len(self.member_risks) < 2:
            return None
        return float(np.std(self.member_risks, ddof=1))

    def values(self) -> dict[str, Any]:
        """Return risk, curve, percentile, group and median by name; tables and dictionaries use these."""
        return {
            "risk": self.risk,
            "hazards": self.hazards,
            "survival": self.survival,
            "percentile": self.percentile,
            "risk_group": self.risk_group,
            "median_survival": self.median,
            "median_reached": self.median_reached,
            "member_risks": self.member_risks,
        }


def predict_bag(
    bag: FeatureBag, bundle: ModelBundle, covariates: np.ndarray | None = None
) -> Prediction:
    """Predict from a bag of features; `attention` holds the scores that the network has, 20x at least.

    Args:
        bag: the features of one slide, made with the bundle's encoder and sampling.
        bundle: the model.
        covariates: (C,) of the patient, as `ModelBundle.covariates_of` returns them, for a network that takes
            covariates.

    Raises:
        TiacfError: the bag was made with another encoder or sampling or is empty, or the network's
            output is not finite.
    """
    import torch

    from tiacrossfusion.networks.calling import call_network

    with torch.inference_mode():
        output = call_network(bundle.network, bundle.tokens(bag, covariates), attention=True)
    hazards = output.hazards[0].cpu().double().numpy()
    if not np.isfinite(hazards).all():
        raise TiacfError(
            f"{bag.provenance.slide}: the model's risk is not finite; check the model's weights"
        )
    scores = vars(output.attention) if output.attention is not None else {}
    attention = {
        name if name == "fused" else f"{name[1:]}x": score[0].cpu().double().numpy()
        for name, score in scores.items()
        if score is not None
    }
    members = output.member_risk
    risks = None if members is None else members[0].cpu().double().numpy()
    record, alone = bundle.config.architecture.record, output.survival_without_record
    use = None
    if record is not None and alone is not None:
        known = np.zeros(len(record.names), bool) if covariates is None else ~np.isnan(covariates)
        without = hazards_of(alone[0].cpu().double().numpy())
        use = record_use(record.names, known, without)
    made = read_off(hazards, bundle.config, attention=attention, member_risks=risks)
    return replace(made, record=use)


def with_nuisance(
    prediction: Prediction, sd: float | None, reference: RiskReference | None
) -> Prediction:
    """Add how far nuisances move the risk, and whether they may change the risk group."""
    if sd is None:
        return prediction
    uncertain = None if reference is None else abs(prediction.risk - reference.cutoff) < 1.96 * sd
    return replace(prediction, risk_nuisance_sd=sd, group_uncertain=uncertain)


def record_use(names: Sequence[str], known: np.ndarray, without: np.ndarray) -> RecordUse:
    """Return what was used of a record, from which variables (V,) are known and hazards (K,) without it."""
    return RecordUse(
        tuple(name for name, there in zip(names, known, strict=True) if there),
        tuple(name for name, there in zip(names, known, strict=True) if not there),
        without,
    )


def read_off(
    hazards: np.ndarray,
    config: BundleConfig,
    *,
    attention: Mapping[str, np.ndarray] | None = None,
    member_risks: np.ndarray | None = None,
) -> Prediction:
    """Read curve, risk, group and median off hazards, those of a slide or of a patient.

    Args:
        hazards: (K,) float64.
        config: of the model that gave them.
        attention: of the tokens, where there are any.
        member_risks: (M,) of an ensemble.
    """
    survival = survival_curve(hazards)
    risk = float(risk_of(survival))
    bins, reference = config.time_bins, config.risk_reference
    median = None if bins is None else median_survival(survival, bins)
    missing = ["no time bins, so no times"] if bins is None else []
    if reference is None:
        missing.append("no training risks, so no percentile and no group")
    return Prediction(
        risk=risk,
        hazards=hazards,
        survival=survival,
        percentile=None if reference is None else reference.percentile(risk),
        risk_group=None if reference is None else reference.group(risk).name,
        median=median,
        median_reached=None if bins is None else median is not None,
        unknown=f"the bundle has {' and '.join(missing)}" if missing else "",
        attention=dict(attention or {}),
        member_risks=member_risks,
    )


def risk_caveat(prediction: Prediction, config: BundleConfig) -> str:
    """Return a note that a risk lies outside those of the training patients; empty when it does not."""
    reference = config.risk_reference
    known = reference is None or reference.covers(prediction.risk)
    return "" if known else "the risk lies outside those of the training patients"
