"""Audit a model on bags: chance, sites, and adversaries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tiacrossfusion.audit.adversaries import (
    random_sparse,
    random_universal,
    sparse,
    universal,
)
from tiacrossfusion.audit.directions import (
    Direction,
    compare_directions,
    component_directions,
    mean_features,
    site_directions,
)
from tiacrossfusion.audit.effects import Effect, effect_of
from tiacrossfusion.audit.sites import FEWEST, SiteShift, Told, site_shift, told_sites
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.matching import match_bags
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.arguments import at_least, usable_seed
from tiacrossfusion.markers.testing import Outcome
from tiacrossfusion.models.bundle import ModelBundle, load_bundle
from tiacrossfusion.networks.perturbed import Audited, Perturbation, risks
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.training.generator import fit_generator
from tiacrossfusion.training.parts import some_cells

#: Strengths of the adversaries, in SDs of the training features, and shares of tokens of the sparse one.
STRENGTHS, SHARES = (0.05, 0.1, 0.25, 0.5), (0.001, 0.01, 0.1)

#: Random perturbations beside each adversary, and the strength of those of few tokens and of the generator.
DRAWS, MIDDLE = 20, 0.25

#: Largest strength that is a nuisance and not another slide.
_STRONGEST = 3.0

#: Slides that are audited at most, tokens of each, and fewest slides.
MOST, TOKENS, _FEWEST = 40, 4_000, 10


@dataclass(frozen=True, eq=False)
class Attack:
    """A perturbation beside random ones of equal norm.

    Attributes:
        name: "universal", "generator", or "sparse".
        strength: largest change of a feature, in SDs of the training features.
        share: of the tokens that are perturbed.
        effect: on slides that it was not fitted on.
        random: mean figures of random perturbations, by name, with the range of 95 % of the draws.
        ratio: mean size of the change over that of the random ones.
    """

    name: str
    strength: float
    share: float
    effect: Effect
    random: dict[str, tuple[float, float, float]]
    ratio: float


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
        seconds: of one pass of the generator over a slide.
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
    seconds: float


def audit_model(
    model: str | Path,
    bags: str | Path,
    *,
    table: str | Path | None = None,
    columns: Columns | None = None,
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
    cohort, sources = _sources(Path(bags), table, columns or Columns(), time_unit)
    rng = np.random.default_rng([seed, 19])
    names = sorted(rng.permutation(sorted(sources))[:most].tolist())
    if len(names) < _FEWEST:
        raise TiacfError(f"{len(names)} bags; an audit needs {_FEWEST} or more")
    slides = {name: _part(bundle, sources[name], tokens, seed) for name in names}
    owner = _owners(cohort, names)
    half = _half(owner, rng)
    fitting = [slides[n] for n in names if half[owner[n]]]
    judged = [slides[n] for n in names if not half[owner[n]]]
    before = risks(audited, judged)
    if not bool(torch.isfinite(before).all()):
        raise TiacfError(f"{bundle.config.name}: a risk is not finite; check the model's weights")
    if float(before.std(correction=0)) == 0:
        raise TiacfError(
            f"{bundle.config.name}: all slides have the same risk; there is nothing to audit"
        )
    reference = bundle.config.risk_reference
    judges = _Judges(audited, judged, before, None if reference is None else reference.cutoff, seed)
    attacks = []
    for strength in strengths:
        tell(f"universal adversary, {strength:g} SD")
        delta = universal(audited, fitting, strength, seed)
        by_chance = partial(random_universal, audited, strength)
        attacks.append(judges.attack("universal", strength, 1.0, delta, by_chance))
    tell("generator")
    generator = fit_generator(audited, fitting, MIDDLE, seed)
    begun = time.perf_counter()
    with torch.no_grad():
        for slide in judged:
            generator(audited, slide, MIDDLE)
    seconds = (time.perf_counter() - begun) / len(judged)
    attacks.append(
        judges.attack(
            "generator",
            MIDDLE,
            1.0,
            lambda slide: generator(audited, slide, MIDDLE),
            judges.random_tokens(MIDDLE, 1.0),
        )
    )
    for share in SHARES:
        tell(f"sparse adversary, {share:.1%} of the patches")
        delta_of = partial(sparse, audited, strength=MIDDLE, share=share)
        attacks.append(
            judges.attack("sparse", MIDDLE, share, delta_of, judges.random_tokens(MIDDLE, share))
        )
    means = mean_features(audited, list(slides.values()))
    sites = None if cohort is None or cohort.sites is None else cohort.sites
    directions = component_directions(means)
    told: list[Told] = []
    shift = None
    if sites is not None and cohort is not None:
        of_slides = sites.loc[[owner[n] for n in names]].to_numpy()
        directions = site_directions(means, of_slides, FEWEST) | directions
        told, shift = _sites(audited, bundle, cohort, sources, slides, tokens, seed)
    compared = compare_directions(audited, judged, directions, before, seed)
    return Audit(
        bundle.config.name,
        len(judged),
        len(fitting),
        tokens,
        float(before.std(correction=0)),
        attacks,
        compared,
        told,
        shift,
        seconds,
    )


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


@dataclass(frozen=True, eq=False)
class _Judges:
    """Slides on which adversaries and chance are compared.

    Attributes:
        audited: the network.
        slides: that no adversary was fitted on.
        before: (N,) their risks.
        cutoff: between the risk groups; None takes the median.
        seed: of the random perturbations.
    """

    audited: Audited
    slides: Sequence[SlideTokens]
    before: torch.Tensor
    cutoff: float | None
    seed: int

    def effect(self, delta: Perturbation, **options: int) -> Effect:
        """Return what a perturbation does to the risks."""
        after = risks(self.audited, self.slides, delta)
        return effect_of(self.before.numpy(), after.numpy(), self.cutoff, **options)

    def random_tokens(
        self, strength: float, share: float
    ) -> Callable[[torch.Generator], Perturbation]:
        """Return what draws random perturbations of a share of the tokens of each slide."""

        def draw(generator: torch.Generator) -> Perturbation:
            return lambda slide: random_sparse(self.audited, slide, strength, share, generator)

        return draw

    def attack(
        self,
        name: str,
        strength: float,
        share: float,
        delta: Perturbation,
        draw: Callable[[torch.Generator], Perturbation],
    ) -> Attack:
        """Put random perturbations of equal norm beside an adversary."""
        effect = self.effect(delta)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = [self.effect(draw(generator), draws=0) for _ in range(DRAWS)]
        random = {}
        for figure in fields(Effect):
            values = [getattr(one, figure.name).value for one in drawn]
            low, high = np.quantile(values, [0.025, 0.975])
            random[figure.name] = (float(np.mean(values)), float(low), float(high))
        size = random["size"][0]
        ratio = effect.size.value / size if size else float("inf")
        return Attack(name, strength, share, effect, random, ratio)


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
