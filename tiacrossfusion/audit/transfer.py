"""Does a generator that knows one model move others? The agreement of models that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tiacrossfusion.audit.adversaries import random_sparse
from tiacrossfusion.audit.effects import Effect, effect_of
from tiacrossfusion.audit.judging import DRAWS
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.perturbed import Audited, Perturbation, risks
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.training.generator import Generator, fit_generator


@dataclass(frozen=True, eq=False)
class Transfer:
    """How far the audited model's generator moves another model.

    Attributes:
        model: name of the other one.
        effect: on its risks.
        random: mean size of the change by 20 random perturbations of equal norm.
        own: the same by a generator that was fitted on the other model.
    """

    model: str
    effect: Effect
    random: float
    own: float

    @property
    def times_random(self) -> float:
        """Size of the change over that of the random ones."""
        return self.effect.size.value / self.random if self.random else float("inf")

    @property
    def of_own(self) -> float:
        """Size of the change over that by a generator of the model's own."""
        return self.effect.size.value / self.own if self.own else float("inf")


def transfer(
    generator: Generator,
    source: Audited,
    target: Audited,
    name: str,
    fitting: Sequence[SlideTokens],
    judged: Sequence[SlideTokens],
    cutoff: float | None,
    strength: float,
    seed: int,
) -> Transfer:
    """Move the risks of one model by the generator of another.

    All perturbations, also the random ones and those of the target's own generator, are at most `strength`
    SDs of the training features of the model for which they are made, at the scales that both read.

    Args:
        generator: fitted on `source`.
        source: the audited network.
        target: another network.
        name: of the other model.
        fitting: slides that its own generator is fitted on.
        judged: slides whose risks are compared.
        cutoff: between the risk groups of the target; None takes the median.
        strength: largest change of a feature, in SDs.
        seed: of random perturbations and of its own generator.

    Raises:
        TiacfError: the two read no scale in common, or all slides have the same risk.
    """
    shared = [scale for scale in target.scales if scale in source.scales]
    if not shared:
        raise TiacfError(f"{name}: reads none of the scales of the audited model")
    before = risks(target, judged).numpy()
    if not np.isfinite(before).all() or before.std() == 0:
        raise TiacfError(f"{name}: its risks are all the same or not finite; leave it out")

    def of_source(make: Callable[[SlideTokens], Mapping[str, Tensor]]) -> Perturbation:
        """Bring perturbations from SDs of the source to SDs of the target."""

        def made(slide: SlideTokens) -> dict[str, Tensor]:
            delta = make(slide)
            return {s: delta[s] * (_sd(source, s) / _sd(target, s)) for s in shared}

        return made

    def size(delta: Perturbation) -> float:
        after = risks(target, judged, delta).numpy()
        return effect_of(before, after, cutoff, draws=0).size.value

    moved = risks(target, judged, of_source(lambda slide: generator(source, slide, strength)))
    random = torch.Generator().manual_seed(seed)
    by_chance = [
        size(of_source(lambda slide: random_sparse(source, slide, strength, 1.0, random)))
        for _ in range(DRAWS)
    ]
    own = fit_generator(target, fitting, strength, seed)
    of_own = size(
        lambda slide: {s: d for s, d in own(target, slide, strength).items() if s in shared}
    )
    effect = effect_of(before, moved.numpy(), cutoff)
    return Transfer(name, effect, float(np.mean(by_chance)), of_own)


def _sd(audited: Audited, scale: str) -> Tensor:
    return audited.sd[SCALES.index(scale)]
