"""Audit a model on bags: chance, sites, and adversaries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tiacrossfusion.audit.adversaries import random_universal, sparse, universal
from tiacrossfusion.audit.carriers import Carrier, carriers
from tiacrossfusion.audit.directions import (
    Direction,
    compare_directions,
    component_directions,
    mean_features,
    site_directions,
)
from tiacrossfusion.audit.judging import Attack, Judges
from tiacrossfusion.audit.sites import FEWEST, SiteShift, Told, site_shift, told_sites
from tiacrossfusion.audit.transfer import Transfer, transfer
from tiacrossfusion.bags.bag import FeatureBag, check_same
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.matching import match_bags
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.markers.testing import Outcome
from tiacrossfusion.models.bundle import ModelBundle, load_bundle
from tiacrossfusion.networks.perturbed import Audited, risks
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.training.generator import fit_generator
from tiacrossfusion.training.parts import some_cells

#: Strengths of the adversaries, in SDs of the training features, and shares of tokens of the sparse one.
STRENGTHS, SHARES = (0.05, 0.1, 0.25, 0.5), (0.001, 0.01, 0.1)

#: Strength of the adversary of few tokens, and at which generators are fitted.
MIDDLE = 0.25

#: Largest strength that is a nuisance and not another slide.
_STRONGEST = 3.0

#: Slides that are audited at most, tokens of each, and fewest slides.
MOST, TOKENS, _FEWEST = 40, 4_000, 10


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        model: name of the bundle.
        slides: judged.
        fitted_on: slides that adversaries were fitted on.
        tokens: of a slide at most.
        risk_sd: SD of the risks of the slides judged.
        attacks: adversaries beside chance.
        directions: sites, components and chance, the largest effect first.
        told: how well the site is told; empty without sites.
        sites: what sites do to the risks; None without follow-up or sites.
        seconds: of one pass of the generator over a slide; None if it could not be fitted.
        transfers: how far the generator moves other models.
        carriers: patches that carry most of the sparse adversary of 1 % of the tokens.
        notes: what could not be done, and why.
    """

    model: str
    slides: int
    fitted_on: int
    tokens: int
    risk_sd: float
    attacks: list[Attack]
    directions: list[Direction]
    told: list[Told]
    sites: SiteShift | None
    seconds: float | None
    transfers: list[Transfer]
    carriers: list[Carrier]
    notes: list[str]


def audit_model(
    model: str | Path,
    bags: str | Path,
    *,
    table: str | Path | None = None,
    columns: Columns | None = None,
    transfer_to: Sequence[str | Path] = (),
    time_unit: str = "months",
    strengths: Sequence[float] = STRENGTHS,
    most: int = MOST,
    tokens: int = TOKENS,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> Audit:
    """Measure how far the risk moves when features are perturbed.

    Adversaries are fitted on half of the slides and judged on the others, beside random perturbations of
    equal norm. `docs/audit.md` describes each.

    Args:
        model: bundle folder, name or hub id.
        bags: folder of feature bags.
        table: follow-up, patients and sites; without, each slide counts as a patient.
        columns: names of its columns; `fold_by` names the sites.
        transfer_to: other models, of other folds or networks, that the generator is tried on.
        time_unit: unit of the times.
        strengths: in SDs of the training features, above 0 and at most 3.
        most: slides that are audited, drawn by chance if there are more.
        tokens: of a slide, a random part of which is audited if it has more.
        seed: of all draws.
        device: torch device.
        say: gets a line for each step; None is silent.

    Raises:
        UsageError: a setting is out of range.
        TiacfError: the model has no moments, a bag does not fit it, or there are too few.
    """
    check_settings(strengths=strengths, most=most, tokens=tokens, seed=seed)
    tell = say or (lambda _: None)
    bundle = load_bundle(model, device)
    audited = Audited.of(bundle.network, bundle.config.name)
    others = [_other(bundle, each, device) for each in transfer_to]
    cohort, sources = _sources(Path(bags), table, columns or Columns(), time_unit)
    rng = np.random.default_rng([seed, 19])
    names = sorted(rng.permutation(sorted(sources))[:most].tolist())
    if len(names) < _FEWEST:
        raise TiacfError(f"{len(names)} bags; an audit needs {_FEWEST} or more")
    slides, notes = {}, []
    for name in names:
        try:
            slides[name] = _part(bundle, sources[name], tokens, seed)
        except TiacfError as error:  # the others go on
            notes.append(f"left out: {error}")
    names = list(slides)
    if len(names) < _FEWEST:
        raise TiacfError(
            f"{len(names)} bags can be used; an audit needs {_FEWEST} or more. {notes[0]}"
        )
    owner = _owners(cohort, names)
    half = _half(owner, rng)
    fitting = [slides[n] for n in names if half[owner[n]]]
    judged = {n: slides[n] for n in names if not half[owner[n]]}
    before = risks(audited, list(judged.values()))
    if not bool(torch.isfinite(before).all()):
        raise TiacfError(f"{bundle.config.name}: a risk is not finite; check the model's weights")
    sd = float(before.std(correction=0))
    if sd == 0:
        raise TiacfError(
            f"{bundle.config.name}: all slides have the same risk; there is nothing to audit"
        )
    reference = bundle.config.risk_reference
    judges = Judges(
        audited,
        list(judged.values()),
        before,
        None if reference is None else reference.cutoff,
        seed,
        None if cohort is None else Outcome.of_patients(cohort.patients),
        np.arange(len(judged))
        if cohort is None
        else np.array([cohort.patients.index.get_loc(owner[n]) for n in judged]),
    )
    attacks, transfers, seconds = _adversaries(judges, fitting, strengths, others, notes, tell)
    carrying = carriers(audited, judged, sources, before.tolist(), sd, MIDDLE, SHARES[1])
    means = mean_features(audited, list(slides.values()))
    directions = component_directions(means)
    told: list[Told] = []
    shift = None
    if cohort is not None and cohort.sites is not None:
        of_slides = cohort.sites.loc[[owner[n] for n in names]].to_numpy()
        directions = site_directions(means, of_slides, FEWEST) | directions
        try:
            told, shift = _sites(audited, bundle, cohort, sources, slides, tokens, seed)
        except TiacfError as error:  # one site only, or few patients of each
            notes.append(str(error))
    compared = compare_directions(audited, list(judged.values()), directions, before, seed)
    return Audit(
        bundle.config.name,
        len(judged),
        len(fitting),
        tokens,
        sd,
        attacks,
        compared,
        told,
        shift,
        seconds,
        transfers,
        carrying,
        notes,
    )


def _adversaries(
    judges: Judges,
    fitting: Sequence[SlideTokens],
    strengths: Sequence[float],
    others: Sequence[tuple[ModelBundle, Audited]],
    notes: list[str],
    tell: Callable[[str], None],
) -> tuple[list[Attack], list[Transfer], float | None]:
    """Fit adversaries, and judge them beside chance, and the generator on other models.

    Returns:
        The attacks, the transfers, and the seconds of one pass of the generator over a slide. Why there is no
        generator is added to `notes`.
    """
    audited, seed, judged = judges.audited, judges.seed, judges.slides
    attacks = []
    for strength in strengths:
        tell(f"universal adversary, {strength:g} SD")
        delta = universal(audited, fitting, strength, seed)
        by_chance = partial(random_universal, audited, strength)
        attacks.append(judges.attack("universal", strength, 1.0, delta, by_chance))
    tell("generator")
    seconds, transfers = None, []
    try:
        generator = fit_generator(audited, fitting, MIDDLE, seed)
    except TiacfError as error:  # too few patches for its prototypes: the others go on
        notes.append(f"no generator: {error}")
    else:
        begun = time.perf_counter()
        with torch.no_grad():
            for slide in judged:
                generator(audited, slide, MIDDLE)
        seconds = (time.perf_counter() - begun) / len(judged)
        for strength in strengths:
            of_slide = partial(generator, audited, strength=strength)
            chance = judges.random_tokens(strength, 1.0)
            attacks.append(judges.attack("generator", strength, 1.0, of_slide, chance))
        for other, network in others:
            name, of_other = other.config.name, other.config.risk_reference
            tell(f"generator, tried on {name}")
            cutoff = None if of_other is None else of_other.cutoff
            transfers.append(
                transfer(generator, audited, network, name, fitting, judged, cutoff, MIDDLE, seed)
            )
    for share in SHARES:
        tell(f"sparse adversary, {share:.1%} of the patches")
        delta_of = partial(sparse, audited, strength=MIDDLE, share=share)
        chance = judges.random_tokens(MIDDLE, share)
        attacks.append(judges.attack("sparse", MIDDLE, share, delta_of, chance))
    return attacks, transfers, seconds


def _other(bundle: ModelBundle, model: str | Path, device: str) -> tuple[ModelBundle, Audited]:
    """Load another model of the same features.

    Raises:
        TiacfError: its encoder is another one, or it has no moments.
    """
    other = load_bundle(model, device)
    label = f"--transfer {model}"
    remedy = "give a model of the same features"
    check_same(bundle.config.encoder, other.config.encoder, "encoder", label, remedy)
    return other, Audited.of(other.network, other.config.name)


def check_settings(
    *,
    strengths: Sequence[float] = STRENGTHS,
    most: int = MOST,
    tokens: int = TOKENS,
    seed: int = 0,
) -> None:
    """Check settings of `audit_model` before anything is read.

    Raises:
        UsageError: one of them is out of range.
    """
    usable_seed("--seed", seed)
    at_least("--most", most, _FEWEST)
    at_least("--tokens", tokens, 100)
    for strength in strengths:
        if not 0 < strength <= _STRONGEST:
            raise UsageError(
                f"--strengths {strength:g}: must be above 0 and at most {_STRONGEST:g} SDs of the training "
                "features"
            )
    if not strengths:
        raise UsageError("--strengths is empty; give numbers such as 0.05,0.25")


def _sources(
    bags: Path, table: str | Path | None, columns: Columns, time_unit: str
) -> tuple[CohortTable | None, dict[str, Path]]:
    """Return the cohort, if there is a table, and the bags by the name of the slide."""
    found = find_bags(bags)
    if table is None:
        return None, {path.stem: path for path in found}
    cohort = read_table(Path(table), columns, time_unit)
    return match_bags(cohort, found, drop_missing=True)


def _part(bundle: ModelBundle, path: Path, tokens: int, seed: int) -> SlideTokens:
    """Return a random part of a slide's tokens, as the bag stores them."""
    bag = FeatureBag.load(path)
    bundle.tokens(bag)  # refuses bags that do not fit
    whole = SlideTokens.from_bag(bag)
    if sum(whole.counts()) <= tokens:
        return whole
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return some_cells(whole, tokens / sum(whole.counts()))


def _owners(cohort: CohortTable | None, names: Sequence[str]) -> dict[str, str]:
    """Return the patient of each slide; without a table, each slide is one."""
    if cohort is None:
        return {name: name for name in names}
    of_slide = dict(zip(cohort.slides["slide"], cohort.slides["patient"], strict=True))
    return {name: of_slide[name] for name in names}


def _half(owner: dict[str, str], rng: np.random.Generator) -> dict[str, bool]:
    """Return which patients' slides adversaries are fitted on."""
    patients = sorted(set(owner.values()))
    chosen = set(rng.permutation(patients)[: len(patients) // 2].tolist())
    return {patient: patient in chosen for patient in patients}


def _sites(
    audited: Audited,
    bundle: ModelBundle,
    cohort: CohortTable,
    sources: dict[str, Path],
    parts: dict[str, SlideTokens],
    most_tokens: int,
    seed: int,
) -> tuple[list[Told], SiteShift]:
    """Tell the sites of all patients, and compare their risks."""
    patients = cohort.patients
    features: dict[str, list[np.ndarray]] = {name: [] for name in patients.index}
    found: dict[str, list[float]] = {name: [] for name in patients.index}
    for slide, patient in cohort.slides.itertuples(index=False, name=None):
        tokens = parts.get(slide)
        if tokens is None:
            tokens = _part(bundle, sources[slide], most_tokens, seed)
        features[patient].append(mean_features(audited, [tokens])[0].ravel())
        found[patient].append(float(risks(audited, [tokens])[0]))
    means = np.stack([np.mean(rows, axis=0) for rows in features.values()])
    of_patients = np.array([np.mean(values) for values in found.values()])
    assert cohort.sites is not None  # noqa: S101 - the caller has looked
    sites = cohort.sites.loc[patients.index].to_numpy()
    outcome = Outcome.of_patients(patients)
    return told_sites(means, sites, seed), site_shift(of_patients, outcome, sites)
