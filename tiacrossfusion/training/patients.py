"""Patients in training: follow-up, and one or more slides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.training.bags import CohortBags

#: Slides of equal token counts that go through a network together, at most.
TOGETHER = 16


@dataclass(frozen=True)
class Patient:
    """One patient with one slide or more.

    Attributes:
        time: follow-up, in the unit of the table.
        event: 1 observed, 0 censored.
        site: hospital, if the table has them.
    """

    name: str
    slides: tuple[str, ...]
    time: float
    event: int
    site: str | None = None


def patients_of(table: CohortTable, names: Iterable[str]) -> list[Patient]:
    """Look patients up in a table, in the order of the names."""
    slides = {
        patient: tuple(sorted(group)) for patient, group in table.slides.groupby("patient")["slide"]
    }
    return [
        Patient(
            name,
            slides[name],
            float(table.patients.time[name]),
            int(table.patients.event[name]),
            None if table.sites is None else str(table.sites[name]),
        )
        for name in names
    ]


def times_and_events(patients: Sequence[Patient]) -> tuple[np.ndarray, np.ndarray]:
    """Return times (N,) float and events (N,) int of patients."""
    return (
        np.array([patient.time for patient in patients], float),
        np.array([patient.event for patient in patients], int),
    )


def average_over_slides(values: Tensor, patients: Sequence[Patient]) -> Tensor:
    """Average hazards (S, K) over the slides of each patient, (P, K).

    The rows are of the slides of the patients, one patient after the other.
    """
    if len(values) == len(patients):
        return values
    owners = [place for place, patient in enumerate(patients) for _ in patient.slides]
    index = torch.as_tensor(owners, device=values.device)
    sums = values.new_zeros(len(patients), values.shape[1]).index_add(0, index, values)
    return sums / torch.bincount(index)[:, None]


def average_log_hazards(values: Tensor, patients: Sequence[Patient]) -> Tensor:
    """Average hazards given as their logarithms: `log mean exp` over the slides, (S, 1) to (P, 1)."""
    return average_over_slides(values.exp(), patients).log()


def groups_of_equal_shape(
    patients: Sequence[Patient], bags: CohortBags, largest: int = TOGETHER
) -> Iterator[list[int]]:
    """Split patients into groups that go through the network together, as positions.

    Patients all of whose slides have the same token counts share a pass, of `largest` slides at most
    unless one patient has more; any other patient is alone. Real slides hardly ever have equal counts
    and go one by one; simulated ones do.
    """
    open_groups: dict[tuple[int, ...], list[int]] = {}
    for position, patient in enumerate(patients):
        counts = {bags.counts(slide) for slide in patient.slides}
        if len(counts) > 1:
            yield [position]
            continue
        group = open_groups.setdefault(counts.pop(), [])
        slides = sum(len(patients[other].slides) for other in group)
        if group and slides + len(patient.slides) > largest:
            yield group.copy()
            group.clear()
        group.append(position)
    yield from (group for group in open_groups.values() if group)


def passes(tokens: Sequence[SlideTokens], largest: int = TOGETHER) -> list[list[int]]:
    """Positions of the slides that can go through a network together: those that can be stacked."""
    together: dict[tuple[object, ...], list[int]] = {}
    for position, slide in enumerate(tokens):
        together.setdefault((slide.counts(), *slide.grid), []).append(position)
    return [
        positions[start : start + largest]
        for positions in together.values()
        for start in range(0, len(positions), largest)
    ]


def in_order(parts: Sequence[Tensor], members: Sequence[Sequence[int]]) -> Tensor:
    """Join the outputs of passes, (S, K) in the order of the slides."""
    joined = torch.cat(list(parts))
    positions = torch.as_tensor([i for group in members for i in group], device=joined.device)
    return joined[torch.argsort(positions)]


def patient_outputs(
    patients: Sequence[Patient],
    bags: CohortBags,
    compute: Callable[[SlideTokens], Tensor],
    average: Callable[[Tensor, Sequence[Patient]], Tensor],
) -> Tensor:
    """Compute outputs of patients (P, K) from those of their slides.

    `compute` makes outputs (B, K) of B slides of equal token counts, `average` turns the outputs (S, K)
    of some patients' slides into those of the patients.
    """
    groups = list(groups_of_equal_shape(patients, bags))
    slides = [[slide for i in group for slide in patients[i].slides] for group in groups]
    rows: dict[int, Tensor] = {}
    for group, loaded in zip(groups, bags.read(slides), strict=True):
        members = passes(loaded)
        parts = [compute(SlideTokens.stack([loaded[i] for i in part])) for part in members]
        outputs = in_order(parts, members)
        rows.update(zip(group, average(outputs, [patients[i] for i in group]), strict=True))
    return torch.stack([rows[position] for position in range(len(patients))])


@torch.inference_mode()
def patient_hazards(
    network: nn.Module, bags: CohortBags, patients: Sequence[Patient]
) -> np.ndarray:
    """Predict hazards (N, K) float64 of N patients: the means over their slides.

    The network is in eval mode.
    """
    device = next(network.parameters()).device

    def compute(tokens: SlideTokens) -> Tensor:
        return call_network(network, tokens.to(device)).hazards.double()

    return patient_outputs(patients, bags, compute, average_over_slides).cpu().numpy()


@torch.inference_mode()
def predict_log_hazards(
    network: TrainedNetwork, bags: CohortBags, patients: Sequence[Patient]
) -> np.ndarray:
    """Log-hazards (N,) float64 of patients, by a network with proportional hazards in eval mode."""
    device = next(network.parameters()).device

    def compute(tokens: SlideTokens) -> Tensor:
        return network.log_hazard(tokens.to(device)).double()[:, None]

    return patient_outputs(patients, bags, compute, average_log_hazards)[:, 0].cpu().numpy()
