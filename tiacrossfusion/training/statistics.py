"""Directions of slide statistics, found in closed form from the training patients' martingale residuals.

With the residual r_n of a patient under the null Cox model (high: died early) and S_n the covariance of a
pair of tokens within the slide, the matrix `M = 1/N sum_n r_n S_n` has large singular values where the pair
has to do with survival: its singular vectors are the directions. Permuted residuals tell which are large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tiacrossfusion.networks.families import Families
from tiacrossfusion.networks.statistics import (
    DIRECTIONS,
    PAIRS,
    RARE,
    SlideStatistics,
    pair_cells,
    top_count,
)
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.patients import Patient, times_and_events

#: Permutations of the residuals, and how much more than the largest of them a direction must give.
PERMUTATIONS, FACTOR = 20, 1.2

#: Tokens of a slide and scale that the covariance for whitening is taken from, at most.
_TOKENS = 512

#: Added to the variances before whitening.
_RIDGE = 0.01

#: Steps of the search for the rare pattern.
_STEPS = 4


def fit_statistics(
    network: TrainedNetwork, bags: CohortBags, training: Sequence[Patient], seed: int
) -> list[str]:
    """Find the directions that the training patients support, and set them in the network.

    Every slide is read a few times, one after the other; memory does not grow with their number.

    Returns:
        One line for each direction that was kept, with how far it exceeds the permutations.
    """
    statistics = network.statistics
    assert statistics is not None  # noqa: S101 - as the architecture says
    residuals = _residuals(training, seed)  # (1 + P, S)
    slides = [slide for patient in training for slide in patient.slides]
    source = _Source(network, bags, slides)
    whitening = _whitening(source)
    kept = _pairs(statistics, source, residuals, whitening)
    kept += _rare(statistics, source, residuals)
    _standardise(statistics, source)
    return kept


class _Source:
    """The standardised tokens of the training slides, one slide after the other."""

    def __init__(self, network: TrainedNetwork, bags: CohortBags, slides: Sequence[str]) -> None:
        self._network, self._bags, self.slides = network, bags, slides

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for (tokens,) in self._bags.read([slide] for slide in self.slides):
            inputs = self._network.standardised(tokens.inputs())
            yield {name: x.float() if name.startswith("x") else x for name, x in inputs.items()}


def _residuals(training: Sequence[Patient], seed: int) -> Tensor:
    """Return the residuals (1 + P, S) of the slides, the true ones first, then permuted by patient.

    The slides of a patient share the patient's residual. Source: Therneau, Grambsch and Fleming,
    "Martingale-based residuals for survival models", Biometrika 1990.
    """
    times, events = times_and_events(training)
    order = np.argsort(times, kind="stable")
    hazard = np.zeros(len(times))
    at_risk = len(times) - np.searchsorted(times[order], times[order], side="left")
    steps = np.cumsum(events[order] / at_risk)
    last = np.searchsorted(times[order], times, side="right") - 1  # ties count together
    hazard = steps[last]
    own = events - hazard
    own = own - own.mean()
    rng = np.random.default_rng(seed)
    rows = [own, *(rng.permutation(own) for _ in range(PERMUTATIONS))]
    owner = [i for i, patient in enumerate(training) for _ in patient.slides]
    share = np.array([1 / len(patient.slides) for patient in training])
    return torch.from_numpy(np.stack([(row * share)[owner] for row in rows])).float()


def _whitening(source: _Source) -> dict[int, Tensor]:
    """Return `P = V (w + .01)^(-1/2) V'` (E, E) of the covariance of the tokens of each scale."""
    sums: dict[int, Tensor] = {}
    count: dict[int, int] = {}
    for inputs in source:
        for scale in (5, 10, 20):
            x = inputs[f"x{scale}"][0]
            x = x[:: max(1, len(x) // _TOKENS)]
            sums[scale] = sums.get(scale, 0) + x.T @ x
            count[scale] = count.get(scale, 0) + len(x)
    found = {}
    for scale, total in sums.items():
        values, vectors = torch.linalg.eigh(total.double() / count[scale])
        found[scale] = ((vectors / (values.clamp(min=0) + _RIDGE).sqrt()) @ vectors.T).float()
    return found


def _pairs(
    statistics: SlideStatistics,
    source: _Source,
    residuals: Tensor,
    whitening: dict[int, Tensor],
) -> list[str]:
    """Set the directions of the pairs; return what was kept."""
    width = statistics.left.shape[2]
    moments = {name: torch.zeros(len(residuals), width * width) for name in PAIRS}
    for number, inputs in enumerate(source):
        families = Families.of(inputs["grid5"], inputs["grid10"], inputs["grid20"])
        white = {scale: inputs[f"x{scale}"][0] @ p for scale, p in whitening.items()}
        weight = residuals[:, number, None] / residuals.shape[1]
        for name in PAIRS:
            a, b, there = pair_cells(name, white, white, families, inputs["grid5"])
            a, b = a[there], b[there]
            covariance = (a - a.mean(dim=0)).T @ b / max(1, len(a))  # (E, E)
            moments[name].addmm_(weight, covariance.reshape(1, -1))
    kept = []
    for index, (name, found) in enumerate(moments.items()):
        fine, coarse = (
            int(scale[:-1]) for scale in name.replace("beside", "inside").split(" inside ")
        )
        edge = max(_largest(m.view(width, width)) for m in found[1:])
        left, values, right = torch.linalg.svd(found[0].view(width, width))
        for k in range(min(DIRECTIONS, width)):
            ratio = float(values[k]) / max(edge, 1e-30)
            if ratio > FACTOR:
                # The whitening is folded in: u' P x is read from x itself.
                statistics.left[index, k] = whitening[fine] @ left[:, k]
                statistics.right[index, k] = whitening[coarse] @ right[k]
                kept.append(
                    f"{name} ({ratio:.1f} times the largest of {PERMUTATIONS} permutations)"
                )
    return kept


def _largest(matrix: Tensor) -> float:
    """Return the largest singular value, by power iteration."""
    vector = matrix.sum(dim=0) + 1e-12
    for _ in range(30):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm().clamp(min=1e-30)
    return float((matrix @ vector).norm())


def _rare(statistics: SlideStatistics, source: _Source, residuals: Tensor) -> list[str]:
    """Set the direction of the rare pattern; return what was kept."""
    rows, width = len(residuals), statistics.left.shape[2]
    directions = torch.zeros(rows, width)
    for number, inputs in enumerate(source):
        directions += residuals[:, number, None] * inputs["x20"][0].mean(dim=0)
    directions = torch.nn.functional.normalize(directions, dim=1)
    for _ in range(_STEPS):
        moved = torch.zeros(rows, width)
        for number, inputs in enumerate(source):
            x = inputs["x20"][0]
            top = (x @ directions.T).topk(top_count(len(x)), dim=0).indices  # (n, 1 + P)
            for row in range(rows):
                moved[row] += residuals[row, number] * x[top[:, row]].mean(dim=0)
        directions = torch.nn.functional.normalize(
            directions + torch.nn.functional.normalize(moved, dim=1), dim=1
        )
    z = torch.stack(
        [
            (x := inputs["x20"][0] @ directions.T).topk(top_count(len(x)), dim=0).values.mean(dim=0)
            for inputs in source
        ],
        dim=1,
    )  # (1 + P, S)
    z = z - z.mean(dim=1, keepdim=True)
    strength = (z * residuals).sum(dim=1) / (z.norm(dim=1) * residuals.norm(dim=1)).clamp(min=1e-30)
    ratio = float(strength[0] / strength[1:].max().clamp(min=1e-30))
    if ratio <= FACTOR:
        return []
    statistics.rare.copy_(directions[0])
    return [f"{RARE} ({ratio:.1f} times the largest of {PERMUTATIONS} permutations)"]


def _standardise(statistics: SlideStatistics, source: _Source) -> None:
    """Bring the statistics to mean 0 and SD 1 over the training slides."""
    with torch.no_grad():
        z = torch.cat([statistics(inputs) for inputs in source])  # (S, K)
    statistics.mean.copy_(z.mean(dim=0))
    sd = z.std(dim=0, correction=0)
    statistics.sd.copy_(torch.where(sd > 0, sd, 1.0))
