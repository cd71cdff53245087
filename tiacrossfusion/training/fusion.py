"""Fit the models of slide and clinical record (`networks.fused`) on a fold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from tiacrossfusion.bags.bag import check_same
from tiacrossfusion.cohorts.folds import Fold
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.models.config import Architecture
from tiacrossfusion.models.network import summary_of
from tiacrossfusion.models.pretrained import Pretrained
from tiacrossfusion.networks.fused import FusedNetwork, Projections
from tiacrossfusion.networks.record_head import (
    NONE,
    PARTIAL,
    WHOLE,
    HeadKind,
    RecordHead,
    TokenTransformer,
)
from tiacrossfusion.networks.registry import FUSIONS
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.survival import TimeBins, breslow_increments, quantile_bins
from tiacrossfusion.survival.balanced_parts import balanced_parts
from tiacrossfusion.survival.dependence_on_variables import dependence_on_variables
from tiacrossfusion.survival.fusion import (
    SLIDE_PENALTY,
    Completion,
    FusedHead,
    fit_head,
    masked_copies,
    usual_gaps,
)
from tiacrossfusion.survival.record import Record, RecordTerms
from tiacrossfusion.survival.ridge_cox import fit_ridge
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.devices import Devices
from tiacrossfusion.training.fold import FittedFold
from tiacrossfusion.training.inner_scores import inner_scores, raw_scores
from tiacrossfusion.training.plan import BUNDLE, Plan

#: Training of the small networks: full-batch steps of Adam, their rate, the penalty of squared weights, and
#: the folds in which the slope is found.
STEPS, RATE, PENALTY, SLOPE_FOLDS = 75, 5e-3, 0.03, 4


def fit_fusion(
    plan: Plan,
    model: str,
    fold: Fold,
    bags: CohortBags,
    *,
    devices: Devices,
    say: Callable[[str], None],
) -> tuple[FittedFold, pd.DataFrame]:
    """Fit a model of slide and record to the patients outside the test part.

    The slide's network is that of the same fold, trained before. The heads are fitted to slide scores out of
    fold: `late-fusion` is ridge Cox regression on record and score; `joint-fusion` may add their product;
    `joint-network` and `joint-transformer` are small networks on the same.

    Args:
        plan: folds and settings.
        model: name of the model.
        fold: its test patients are left out.
        bags: of all patients.
        devices: where the inner folds of the slide's network are trained.
        say: gets a line for each step.

    Returns:
        The network, and how its log-hazard depends on each variable of the record.

    Raises:
        TiacfError: an inner fold cannot be trained, or there are too few events.
    """
    assert plan.record is not None  # noqa: S101 - the plan has looked
    record, slide_model, table = plan.record, plan.config.slide_model, plan.cohort.table
    names = fold.outside_test
    scores = inner_scores(plan, slide_model, fold, bags, devices=devices, say=say)
    bundle = load_bundle(plan.fold_folder(slide_model, fold) / BUNDLE)
    patients = table.patients.loc[list(names)]
    times, events = patients["time"].to_numpy(float), patients["event"].to_numpy(int)
    bins = quantile_bins(times, events, plan.config.network.num_bins, plan.config.time_unit)
    codes, notes = record.codes(patients)
    for note in notes:
        say(note)
    record = record.of_training(codes)
    spread = float(scores.std(ddof=0)) or 1.0
    centre = raw_scores(bundle.network, bags, table, names).mean()
    held = scores.to_numpy(float)
    score = (held - held.mean()) / spread

    slide = bundle.config.architecture
    architecture = Architecture(
        name=model,
        package=None,
        encoder_width=slide.encoder_width,
        num_bins=bins.num_bins,
        record=record,
        slide=slide,
        pretrained=None if plan.pretrained is None else plan.pretrained.description.part,
    )
    kind = cast("HeadKind", FUSIONS[model])
    part = None if plan.pretrained is None else plan.pretrained.description.part
    summary = summary_of(part, record, slide.encoder_width)
    network = FusedNetwork(bundle.network, record, bins.num_bins, kind, summary)
    shared = None
    if plan.pretrained is not None:
        shared = _set_shared(network, plan.pretrained, bags, table, names, codes)
    # The scores of the whole network are centred like those of the inner folds.
    network.score.moments.copy_(torch.tensor([centre + held.mean(), spread]))
    network.gaps.fill_(usual_gaps(codes))
    seed = plan.config.seed * 1000 + fold.number
    follow_up, head = (times, events), network.head
    if kind == "linear":
        fitted = fit_head(
            record,
            codes,
            score,
            *follow_up,
            bins,
            product=model == "joint-fusion",
            seed=seed,
            shared=shared,
        )
        set_head(head, fitted)
        say(_said(fitted))
    else:
        fit_small(head, record, codes, score, *follow_up, bins, seed)
    set_partial(head, codes, score, *follow_up, bins, seed, shared)
    _set_slide_alone(head, score, *follow_up, bins)
    r = torch.from_numpy(score).float()

    def log_hazard(changed: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(changed).float()
        summaries = None
        if shared is not None:
            of_slide = torch.from_numpy(shared[:, 0]).float()
            summaries = torch.stack([of_slide, head.summary(given)], dim=1)
        return _log_hazards(head, head.terms(given), r, summaries)

    dependence = dependence_on_variables(record, codes, log_hazard, *follow_up)
    return FittedFold(architecture, network.eval(), bins), dependence


def _set_shared(
    network: FusedNetwork,
    pretrained: Pretrained,
    bags: CohortBags,
    table: CohortTable,
    names: Sequence[str],
    codes: np.ndarray,
) -> np.ndarray:
    """Copy pretrained directions into a network; returns the summaries (N, 2) of the training patients.

    Raises:
        TiacfError: the features are of another encoder or sampling.
    """
    made = pretrained.description
    check_same(made.encoder, bags.encoder, "encoder", "bags, against --init")
    check_same(made.sampling, bags.sampling, "sampling", "bags, against --init")
    moments, summary = network.network.moments(), cast("nn.Module", network.summary)
    assert moments is not None  # noqa: S101 - the plan asks for standardised features
    summary.load_state_dict(
        {name: torch.from_numpy(array) for name, array in pretrained.weights.items()}
    )
    if isinstance(summary, Projections):
        # Directions of raw features become those of standardised ones.
        for scale, projection in summary.of_scale.items():
            projection.get_buffer("direction").mul_(moments[1][SCALES.index(scale)])
    head = network.head
    for name in ("component", "component_centre", "component_scale"):
        head.get_buffer(name).copy_(torch.from_numpy(getattr(pretrained, name)))
    slides = table.slides[table.slides["patient"].isin(names)]
    found = []
    with torch.inference_mode():
        for (tokens,) in bags.read([[slide] for slide in slides["slide"]]):
            found.append(float(cast("torch.Tensor", network.summary_of(tokens.inputs()))[0]))
    of_slides = pd.Series(found, slides["patient"].to_numpy())
    of_patients = of_slides.groupby(level=0).mean().loc[list(names)].to_numpy()
    network.score.summary_mean.fill_(float(of_patients.mean()))
    of_record = head.summary(torch.from_numpy(codes).float()).numpy()
    return np.column_stack([of_patients - of_patients.mean(), of_record])


def _said(head: FusedHead) -> str:
    product = f", their product {head.beta:+.2f}" if head.beta else ""
    return f"log hazard ratio of the slide score {head.alpha:+.2f} per SD{product}"


def set_head(head: RecordHead, fitted: FusedHead) -> None:
    """Copy coefficients into a head."""
    for name, value in (
        ("centre", fitted.terms.centre),
        ("scale", fitted.terms.scale),
        ("w", fitted.w),
        ("alpha", fitted.alpha),
        ("beta", fitted.beta),
        ("w_q", fitted.w_q),
        ("q_moments", [fitted.q_mean, fitted.q_sd]),
        ("increments_whole", fitted.increments),
        *([("w_s", fitted.w_s)] if head.pretrained else []),
    ):
        getattr(head, name).copy_(torch.as_tensor(np.asarray(value, float)))


def _set_slide_alone(
    head: RecordHead, score: np.ndarray, times: np.ndarray, events: np.ndarray, bins: TimeBins
) -> None:
    """Cox regression on the slide score alone."""
    b = fit_ridge(score[:, None], times, events, np.array([SLIDE_PENALTY]))
    head.alpha_alone.fill_(float(b[0]))
    increments = breslow_increments(score * b[0], times, events, bins)
    head.increments(NONE).copy_(torch.from_numpy(increments))


def set_partial(
    head: RecordHead,
    codes: np.ndarray,
    score: np.ndarray,
    times: np.ndarray,
    events: np.ndarray,
    bins: TimeBins,
    seed: int,
    shared: np.ndarray | None = None,
) -> None:
    """Set how partial records are completed, and their baseline, from records masked at random."""
    place, kind, _ = head.record.places()
    z = head.terms(torch.from_numpy(codes)).numpy()
    completion = Completion.fit(z, np.isnan(codes)[:, place], kind, score)
    head.mean.copy_(torch.from_numpy(completion.mean))
    head.covariance.copy_(torch.from_numpy(completion.covariance))
    copies, owners = masked_copies(codes, seed)
    r = torch.from_numpy(score[owners]).float()
    summaries = None
    if shared is not None:
        of_record = head.summary(torch.from_numpy(copies).float())
        summaries = torch.stack([torch.from_numpy(shared[owners, 0]).float(), of_record], dim=1)
    eta = _log_hazards(head, head.completed(torch.from_numpy(copies), r), r, summaries)
    increments = breslow_increments(eta, times[owners], events[owners], bins)
    head.increments(PARTIAL).copy_(torch.from_numpy(increments))


def fit_small(
    head: RecordHead,
    record: Record,
    codes: np.ndarray,
    score: np.ndarray,
    times: np.ndarray,
    events: np.ndarray,
    bins: TimeBins,
    seed: int,
) -> None:
    """Fit a small network, and set its slope by log-hazards out of fold.

    Args:
        head: its `small` has fresh weights, and is fitted.
        record: the variables.
        codes: (N, V) of the training patients.
        score: (N,) slide scores.
        times: (N,) follow-up times.
        events: (N,) events.
        bins: of the baseline.
        seed: of weights, dropout and folds.
    """
    terms = RecordTerms.fit(record, codes)
    head.centre.copy_(torch.from_numpy(terms.centre))
    head.scale.copy_(torch.from_numpy(terms.scale))
    z = torch.from_numpy(terms.encode(codes)).float()
    r = torch.from_numpy(score).float()
    part = balanced_parts(events, SLOPE_FOLDS, np.random.default_rng(seed))
    held = np.empty(len(times))
    for number in range(SLOPE_FOLDS):
        test = part == number
        _descend(head, z[~test], r[~test], times[~test], events[~test], seed)
        held[test] = _log_hazards(head, z[test], r[test])
    _descend(head, z, r, times, events, seed)
    slope = fit_ridge(held[:, None], times, events, np.array([1e-4]))[0]
    cast("torch.Tensor", cast("nn.Module", head.small).slope).fill_(max(0.0, float(slope)))
    eta = _log_hazards(head, z, r)
    head.increments(WHOLE).copy_(torch.from_numpy(breslow_increments(eta, times, events, bins)))


def _descend(
    head: RecordHead,
    z: torch.Tensor,
    r: torch.Tensor,
    times: np.ndarray,
    events: np.ndarray,
    seed: int,
) -> None:
    """Train the small network from fresh weights by Cox's partial likelihood (Breslow's ties)."""
    small = cast("nn.Module", head.small)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        for module in small.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm | TokenTransformer):
                module.reset_parameters()
        small.train()
        cast("torch.Tensor", small.slope).fill_(1.0)
        order = np.argsort(-times, kind="stable")  # the last first: those at risk come before
        last = np.searchsorted(-times[order], -times[order], side="right") - 1
        z, r, at_risk = z[order], r[order], torch.from_numpy(last)
        observed = torch.from_numpy(events[order].astype(np.float32))
        optimiser = torch.optim.Adam(small.parameters(), lr=RATE)
        for _ in range(STEPS):
            eta = small(z, r)
            loss = -(observed * (eta - eta.logcumsumexp(0)[at_risk])).sum() / observed.sum()
            weights = sum((p**2).sum() for p in small.parameters() if p.dim() > 1)
            optimiser.zero_grad()
            (loss + PENALTY / 2 * weights * len(z) / observed.sum()).backward()
            optimiser.step()
        small.eval()


@torch.inference_mode()
def _log_hazards(
    head: RecordHead, z: torch.Tensor, r: torch.Tensor, shared: torch.Tensor | None = None
) -> np.ndarray:
    eta = head(z, r, shared).double().numpy()
    if not math.isfinite(float(eta.sum())):
        raise TiacfError("the small network diverged; train another model of slide and record")
    return eta
