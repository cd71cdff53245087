"""Adversaries and chance on the same slides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tiacrossfusion.audit.adversaries import random_sparse
from tiacrossfusion.audit.effects import DRAWS as BOOTSTRAPS
from tiacrossfusion.audit.effects import Chance, Effect, Figure, by_chance, effect_of
from tiacrossfusion.markers.testing import Outcome
from tiacrossfusion.networks.perturbed import Audited, Perturbation, risks
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.survival import harrell_c

#: Random perturbations beside each adversary.
DRAWS = 20


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
        c: Harrell's C with it; None without follow-up.
        c_change: its C less that without it, with a bootstrap interval over patients.
        c_random: mean change of C by the random ones.
    """

    name: str
    strength: float
    share: float
    effect: Effect
    random: Chance
    ratio: float
    c: float | None = None
    c_change: Figure | None = None
    c_random: float | None = None


@dataclass(frozen=True, eq=False)
class Judges:
    """Slides on which adversaries and chance are compared.

    Attributes:
        audited: the network.
        slides: that no adversary was fitted on.
        before: (N,) their risks.
        cutoff: between the risk groups; None takes the median.
        seed: of the random perturbations.
        outcome: follow-up of the patients; None without.
        owner: (N,) number of the patient of each slide.
    """

    audited: Audited
    slides: Sequence[SlideTokens]
    before: torch.Tensor
    cutoff: float | None
    seed: int
    outcome: Outcome | None
    owner: np.ndarray

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
        before = self.before.numpy()
        after = risks(self.audited, self.slides, delta).numpy()
        effect = effect_of(before, after, self.cutoff)
        generator = torch.Generator().manual_seed(self.seed)
        others = [risks(self.audited, self.slides, draw(generator)).numpy() for _ in range(DRAWS)]
        drawn = [effect_of(before, each, self.cutoff, draws=0) for each in others]
        random = by_chance(drawn)
        size = random["size"][0]
        ratio = effect.size.value / size if size else float("inf")
        c = change = c_random = None
        if self.outcome is not None:
            c, change = self._c_change(before, after)
            c_random = float(np.mean([self._c_change(before, e, 0)[1].value for e in others]))
        return Attack(name, strength, share, effect, random, ratio, c, change, c_random)

    def _c_change(
        self, before: np.ndarray, after: np.ndarray, draws: int = BOOTSTRAPS
    ) -> tuple[float, Figure]:
        """Return Harrell's C of the patients afterwards, and its change with its interval."""
        assert self.outcome is not None  # noqa: S101 - the caller has looked
        patients = np.unique(self.owner)
        first, then = (
            np.array([values[self.owner == patient].mean() for patient in patients])
            for values in (before, after)
        )
        outcome = self.outcome.of(patients)

        def change(rows: np.ndarray) -> float:
            times, events = outcome.times[rows], outcome.events[rows]
            return harrell_c(times, events, then[rows]) - harrell_c(times, events, first[rows])

        every = np.arange(len(patients))
        rng = np.random.default_rng(self.seed)
        drawn = [change(rng.integers(len(every), size=len(every))) for _ in range(draws)]
        known = np.array(drawn)[np.isfinite(drawn)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        c = harrell_c(outcome.times, outcome.events, then)
        return c, Figure(change(every), float(low), float(high))
