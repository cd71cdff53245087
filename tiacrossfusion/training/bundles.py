"""Model bundles of trained folds, for `tiacf predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.bags.bag import check_same
from tiacrossfusion.cohorts.folds import Fold
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.scores import CHANCE, Estimate, Evaluation
from tiacrossfusion.inference.familiarity import distance
from tiacrossfusion.models.bundle import load_bundle, make_ensemble, save_bundle
from tiacrossfusion.models.config import BundleConfig, ModelCard
from tiacrossfusion.models.reference import risk_reference
from tiacrossfusion.survival import quantile_bins, risk_of, survival_curve
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.fold import FittedFold
from tiacrossfusion.training.partial_reading import PARTIAL, judge_parts, learn_from_coarse
from tiacrossfusion.training.patients import patient_hazards, patients_of, times_and_events
from tiacrossfusion.training.plan import Cohort
from tiacrossfusion.training.variants import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiacrossfusion.networks.base import SurvivalNetwork

_NOTICE = "Trained with tiacf on a research cohort. Research use only, not for clinical use."
#: Number of quantiles of the training slides' distances.
_QUANTILES = 101

_LICENCE = "not stated; its owner decides"


def save_fold_bundle(
    folder: Path,
    model: str,
    cohort: Cohort,
    bags: CohortBags,
    fold: Fold,
    fitted: FittedFold,
    train_risks: np.ndarray,
    predictions: FoldPredictions,
) -> None:
    """Write the bundle of one fold; the figures of `predictions` go on its model card.

    Group and percentile of a new patient are read against `train_risks`, those of the training patients of
    `predictions`, in their order.
    """
    _, events = times_and_events(patients_of(cohort.table, fold.train))
    optimistic = "optimistic, these patients chose the model: " if fold.optimistic else ""
    figure = evaluate([predictions]).pooled.harrell_c
    config = BundleConfig(
        name=f"{_plain_text(model)}-fold-{fold.number}",
        version="1",
        architecture=fitted.architecture,
        sampling=bags.sampling,
        encoder=bags.encoder,
        time_bins=fitted.bins,
        risk_reference=risk_reference(
            train_risks, predictions.training_times, predictions.training_events, fitted.bins
        ),
        training_slides=bags.identities(_slides_of(cohort, (*fold.train, *fold.validation))),
        training_distances=training_distances(fitted.network, bags, _slides_of(cohort, fold.train)),
        card=ModelCard(
            description=f"{model}, fold {fold.number} of a cross-validation.{_against(model)}",
            cohort=f"{cohort.name}: {len(fold.train)} patients for training ({int(events.sum())} events), "
            f"{len(fold.validation)} for early stopping.",
            performance=f"{optimistic}Harrell's C on {len(fold.test)} patients: {_interval(figure)}.",
            licence=_LICENCE,
            notice=_NOTICE,
        ),
    )
    save_bundle(folder, config, fitted.network)
    known = learn_from_coarse(
        folder,
        fitted.network,
        bags,
        _slides_of(cohort, fold.train),
        _slides_of(cohort, fold.validation),
    )
    if known is not None:
        tested = cohort.table.slides[cohort.table.slides.patient.isin(fold.test)]
        parts = judge_parts(fitted.network, known, bags, tested.slide.tolist())
        parts = parts.merge(
            tested.merge(cohort.table.patients, left_on="patient", right_index=True)
        )
        parts = parts[["patient", "slide", "time", "event", *parts.columns[1:5]]]
        parts.to_csv(folder.parent / PARTIAL, index=False, lineterminator="\n")


def save_ensemble(
    folder: Path,
    members: Sequence[Path],
    model: str,
    cohort: Cohort,
    bags: CohortBags,
    evaluation: Evaluation,
) -> None:
    """Write the bundle of all folds together, from the bundle folders of its members.

    Its time bins, risk quantiles and cut-off come from all patients of the folds, all of whom some
    member was trained on. The ensemble has no test patients: the card has the out-of-fold figures of
    its members.

    Raises:
        TiacfError: the members were trained on bags of different encoders or sampling.
    """
    bundles = [load_bundle(member) for member in members]
    first = bundles[0].config
    # Bags may have been made anew between two folds.
    for member, bundle in zip(members, bundles, strict=True):
        check_same(first.encoder, bundle.config.encoder, "encoder", str(member))
        check_same(first.sampling, bundle.config.sampling, "sampling", str(member))
    patients = patients_of(cohort.table, sorted(cohort.table.patients.index))
    times, events = times_and_events(patients)
    bins = quantile_bins(times, events, first.architecture.num_bins, cohort.table.time_unit)
    config = BundleConfig(
        name=f"{_plain_text(model)}-ensemble",
        version="1",
        architecture=first.architecture,
        sampling=first.sampling,
        encoder=first.encoder,
        time_bins=bins,
        members=tuple(bundle.config.time_bins for bundle in bundles if bundle.config.time_bins),
        risk_reference=None,
        training_slides=bags.identities(cohort.table.slides.slide),
        card=ModelCard(
            description=f"{model}: mean of the survival curves of {len(bundles)} folds.{_against(model)}",
            cohort=f"{cohort.name}: {len(patients)} patients, {int(events.sum())} events.",
            performance="The ensemble has no test patients of its own. Harrell's C of its members on "
            f"their test patients, pairs within a fold: {_interval(evaluation.pooled.harrell_c)}"
            f"{', optimistic: these patients chose the members' if evaluation.optimistic else ''}.",
            licence=_LICENCE,
            notice=_NOTICE,
        ),
    )
    network = make_ensemble([bundle.network for bundle in bundles], config).eval()
    risks = risk_of(survival_curve(patient_hazards(network, bags, patients)))
    reference = risk_reference(risks, times, events, bins)
    known = {
        "risk_reference": reference,
        "training_distances": training_distances(network, bags, cohort.table.slides.slide),
    }
    save_bundle(folder, config.model_copy(update=known), network)
    slides = cohort.table.slides.slide.tolist()
    learn_from_coarse(
        folder, network, bags, [s for i, s in enumerate(slides) if i % 3], slides[::3]
    )


def _plain_text(model: str) -> str:
    """Return the name of a model as the name of a bundle may be written."""
    return model.replace("+", "-")


def _against(model: str) -> str:
    """Return what a model was trained against, as a further sentence; nothing of plain training."""
    parts = parts_of(model)[1]
    return f" Trained against {' and '.join(parts)}." if parts else ""


def _slides_of(cohort: Cohort, patients: Sequence[str]) -> list[str]:
    slides = cohort.table.slides
    return slides.slide[slides.patient.isin(patients)].tolist()


def training_distances(
    network: SurvivalNetwork, bags: CohortBags, slides: Iterable[str]
) -> tuple[float, ...]:
    """Return quantiles of the slides' distances; none for a network without moments of features."""
    moments = network.moments()
    if moments is None:
        return ()
    centre, sd = (values.cpu().double().numpy() for values in moments)
    found = [distance(means, centre, sd) for means in bags.means(slides)]
    return tuple(np.quantile(found, np.linspace(0, 1, _QUANTILES)).round(4).tolist())


def _interval(figure: Estimate) -> str:
    chance = ", no better than chance" if figure.low <= CHANCE else ""
    return f"{figure.value:.3f} (95 % interval {figure.low:.3f} to {figure.high:.3f}{chance})"
