"""Train a `MaskedCompletion` on patients without follow-up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.cluster.vq import kmeans2

from tiacrossfusion.networks.masked_completion import MaskedCompletion
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.survival.record import Record
from tiacrossfusion.training.bags import CohortBags

#: Prototypes of a scale, and tokens of a slide from which they are found.
PROTOTYPES, _SAMPLED = 8, 32

#: Training: epochs, patients a step, rate, and the shares of variables and of summary tokens that are masked.
EPOCHS, BATCH, RATE, HIDDEN_VARIABLES, HIDDEN_TOKENS = 60, 64, 1e-3, 0.5, 0.75


def make_completion(
    record: Record,
    bags: CohortBags,
    slides: pd.DataFrame,
    scales: list[str],
    seed: int,
    *,
    cross: bool,
) -> MaskedCompletion:
    """Return a fresh network with moments and prototypes of the tokens of some slides."""
    random = np.random.default_rng(seed)
    names = slides["slide"].tolist()
    sampled: dict[str, list[np.ndarray]] = {scale: [] for scale in scales}
    for (tokens,) in bags.read([[name] for name in names]):
        for scale in scales:
            x = tokens.features[scale][0].float().numpy()
            sampled[scale].append(x[random.permutation(len(x))[:_SAMPLED]])
    most = max(len(part) for parts in sampled.values() for part in parts)
    torch.manual_seed(seed)
    count = min(PROTOTYPES, most)
    network = MaskedCompletion(record, scales, bags.encoder.width, count, cross=cross)
    mean, sd = bags.moments(names)
    for row, scale in enumerate(scales):
        place = SCALES.index(scale)
        network.means[row].copy_(mean[place])
        network.sds[row].copy_(sd[place])
        points = (np.concatenate(sampled[scale]) - mean[place].numpy()) / sd[place].numpy()
        centres = points.mean(axis=0, keepdims=True)
        if network.count > 1:
            centres, _ = kmeans2(points, network.count, minit="++", seed=seed, missing="warn")
        network.prototypes[row].copy_(torch.from_numpy(centres))
    return network


@torch.inference_mode()
def summaries_of(
    network: MaskedCompletion, bags: CohortBags, slides: pd.DataFrame, patients: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return summary tokens (N, S K, E) of patients, the mean over their slides, and which are there."""
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in patients}
    for patient, (tokens,) in zip(
        slides["patient"], bags.read([[name] for name in slides["slide"]]), strict=True
    ):
        made, there = network.summary(tokens.features)
        found[patient].append((made[0], there[0]))
    means, present = [], []
    for name in patients:
        made, there = (torch.stack(parts) for parts in zip(*found[name], strict=True))
        weight = there.float()[:, :, None]
        means.append((made * weight).sum(dim=0) / weight.sum(dim=0).clamp(min=1))
        present.append(there.any(dim=0))
    return torch.stack(means), torch.stack(present)


def train_completion(
    network: MaskedCompletion,
    z: np.ndarray,
    known: np.ndarray,
    tokens: torch.Tensor,
    present: torch.Tensor,
    seed: int,
) -> list[float]:
    """Train the network; returns the mean loss of each epoch.

    For each patient one side is masked, by chance: half of the variables, rebuilt from the others and the
    intact slide (squared error of their terms), or three quarters of the summary tokens, rebuilt from the
    others and the intact record.

    Args:
        network: with prototypes.
        z: (N, P) terms of the records.
        known: (N, V) variables that have a value.
        tokens: (N, S K, E) summary tokens.
        present: (N, S K) tokens that are there.
        seed: of masks, dropout and order.
    """
    terms, there = torch.from_numpy(z).float(), torch.from_numpy(known)
    place = torch.as_tensor(network.record.places()[0])
    losses = []
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
        network.train()
        for _ in range(EPOCHS):
            total = 0.0
            for rows in torch.randperm(len(terms)).split(BATCH):
                drawn = torch.rand(len(rows), 1) < 0.5
                gone = (
                    there[rows] & (torch.rand(len(rows), there.shape[1]) < HIDDEN_VARIABLES) & drawn
                )
                lost = present[rows] & (torch.rand(present[rows].shape) < HIDDEN_TOKENS) & ~drawn
                made = network.rebuilt_record(
                    terms[rows], there[rows] & ~gone, tokens[rows], present[rows]
                )
                of_terms = gone[:, place].float()
                loss = (of_terms * (made - terms[rows]) ** 2).sum() / of_terms.sum().clamp(min=1)
                again = network.rebuilt_slide(
                    terms[rows], there[rows], tokens[rows], present[rows] & ~lost
                )
                wide = lost.float()[:, :, None]
                loss = loss + (wide * (again - tokens[rows]) ** 2).sum() / (
                    wide.sum() * tokens.shape[2]
                ).clamp(min=1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(rows)
            losses.append(total / len(terms))
        network.eval()
    return losses


@torch.inference_mode()
def set_direction(
    network: MaskedCompletion, tokens: torch.Tensor, present: torch.Tensor, record: np.ndarray
) -> np.ndarray:
    """Set the direction that makes the slide's summary; returns the summary of the patients (N,).

    It is the first component of `MaskedCompletion.of_slide` over the patients, with the sign with which it
    goes with the summary of their records (N,).
    """
    made = network.of_slide(tokens, present).double().numpy()
    direction = np.linalg.svd(made - made.mean(axis=0), full_matrices=False)[2][0]
    summary = made @ direction
    if (summary - summary.mean()) @ (record - record.mean()) < 0:
        direction, summary = -direction, -summary
    network.direction.copy_(torch.from_numpy(direction))
    network.moments.copy_(torch.tensor([float(summary.mean()), float(summary.std()) or 1.0]))
    return (summary - summary.mean()) / (summary.std() or 1.0)
