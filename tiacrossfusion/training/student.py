"""Train a student of 5x and 10x to the hazards of a teacher, by gradient and in closed form."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.closed_student import ClosedStudent, ClosedStudent5x
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.training.from_coarse import Slides, regression_on
from tiacrossfusion.training.optimising import share_of_rate, weight_groups
from tiacrossfusion.training.patients import Patient, passes, patient_hazards

if TYPE_CHECKING:
    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.training.bags import CohortBags


#: How a student is trained, with slides in the place of patients; chosen on development cohorts, see
#: benchmarks/distillation.md.
RECIPE = replace(
    SEARCHED, input_weight_decay=50.0, epochs=60, patience=15, patients_per_step=16, least_steps=600
)


def distillation_loss(hazards: Tensor, taught: Tensor) -> Tensor:
    """Return the cross-entropy between the teacher's and the student's time of the event, (B,).

    `sum_k S_k-1 [-h_k log g_k - (1 - h_k) log(1 - g_k)]` with the teacher's hazards h and survival S, and the
    student's hazards g: the negative log-likelihood of the student, expected over patients who follow the
    teacher, to the end of the last bin.

    Args:
        hazards: (B, K) of the student.
        taught: (B, K) of the teacher.
    """
    g = hazards.clamp(1e-7, 1 - 1e-7)
    alive = torch.cumprod(torch.cat([torch.ones_like(taught[:, :1]), 1 - taught[:, :-1]], 1), dim=1)
    return -(alive * (taught * g.log() + (1 - taught) * (1 - g).log())).sum(dim=1)


def train_student(
    network: SurvivalNetwork,
    bags: CohortBags,
    slides: Sequence[str],
    held_back: Sequence[str],
    taught: dict[str, np.ndarray],
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    further: Callable[[nn.Module, SlideTokens, Sequence[str]], Tensor] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> float:
    """Train a student until its loss on slides held back does not fall any more; it is in eval mode then.

    Args:
        network: with moments, in training mode.
        bags: of the slides.
        slides: names of those that teach.
        held_back: names of those that stop it.
        taught: hazards (K,) of the teacher, by slide.
        recipe: how it is trained; of its loss nothing is read.
        seed: of order and dropout.
        further: a term that is added to the loss of each pass, from the network, its tokens and the slides.
        say: gets a line at the end.

    Returns:
        The loss of the slides held back, less the least possible.
    """
    device = next(network.parameters()).device
    targets = {s: torch.from_numpy(np.asarray(h)).float().to(device) for s, h in taught.items()}
    steps = math.ceil(len(slides) / recipe.patients_per_step)
    longer = recipe.lengthened(steps)
    optimiser = torch.optim.AdamW(weight_groups(network, recipe), lr=recipe.learning_rate)
    share = partial(share_of_rate, warm_up=recipe.warm_up * steps, total=longer.epochs * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    rng = np.random.default_rng(seed)
    best, waited, kept = math.inf, 0, copy.deepcopy(network.state_dict())
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for _ in range(longer.epochs):
            network.train()
            order = [slides[i] for i in rng.permutation(len(slides))]
            parts = [
                order[start : start + recipe.patients_per_step]
                for start in range(0, len(order), recipe.patients_per_step)
            ]
            for names, tokens in zip(parts, bags.read(parts), strict=True):
                optimiser.zero_grad()
                for group in passes(tokens):
                    stacked = SlideTokens.stack([tokens[i] for i in group]).to(device)
                    target = torch.stack([targets[names[i]] for i in group])
                    loss = distillation_loss(call_network(network, stacked).hazards, target).sum()
                    if further is not None:
                        loss = loss + further(network, stacked, [names[i] for i in group])
                    (loss / len(names)).backward()
                nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
                optimiser.step()
                schedule.step()
            network.eval()
            found = float(excess_loss(network, bags, held_back, taught).mean())
            if found < best:
                best, waited, kept = found, 0, copy.deepcopy(network.state_dict())
            else:
                waited += 1
            if waited > longer.patience:
                break
    network.load_state_dict(kept)
    network.eval()
    say(f"student: loss {best:.4f} above the teacher's own on slides held back")
    return best


def hazards_of_slides(network: nn.Module, bags: CohortBags, slides: Sequence[str]) -> np.ndarray:
    """Return the hazards (N, K) float64 of slides, each taken for a patient."""
    return patient_hazards(network, bags, [Patient(slide, (slide,), 0.0, 0) for slide in slides])


def excess_loss(
    network: nn.Module, bags: CohortBags, slides: Sequence[str], taught: dict[str, np.ndarray]
) -> np.ndarray:
    """Return how far the distillation loss (N,) of slides lies above that of the teacher's own hazards."""
    target = torch.from_numpy(np.stack([taught[slide] for slide in slides])).double()
    found = torch.from_numpy(hazards_of_slides(network, bags, slides))
    return (distillation_loss(found, target) - distillation_loss(target, target)).numpy()


def closed_student(
    teacher: SurvivalNetwork, slides: Slides, held_back: Slides, read: Sequence[str]
) -> ClosedStudent:
    """Return the student in closed form of a teacher that predicts from means.

    Args:
        teacher: in eval mode, on the CPU.
        slides: that the regression is fitted on, with all scales.
        held_back: that choose its penalty.
        read: scales of the student, "5x", or "5x" and "10x".
    """
    fitted = regression_on(teacher, slides, held_back, read)
    made = (ClosedStudent if "10x" in read else ClosedStudent5x)(
        copy.deepcopy(teacher),
        told=len(fitted.centre),
        directions=fitted.directions.shape[1],
        sums=fitted.coefficients.shape[1],
    )
    made.centre.copy_(fitted.centre)
    made.directions.copy_(fitted.directions)
    made.coefficients.copy_(fitted.coefficients)
    return made.eval()
