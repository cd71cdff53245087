"""Patients as training sees them: follow-up, and one or more slides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tiacrossfusion.training.bags import CohortBags, Tokens
from tiacrossfusion.training.table import CohortTable


@dataclass(frozen=True)
class Patient:
    """One patient.

    Attributes:
        name: identifier.
        slides: names of the slides, at least one.
        time: follow-up, in the unit of the table.
        event: 1 observed, 0 censored.
    """

    name: str
    slides: tuple[str, ...]
    time: float
    event: int


def patients_of(table: CohortTable, names: Iterable[str]) -> list[Patient]:
    """Look patients up in a table, in the order of the names."""
    slides = table.slides.groupby("patient")["slide"].agg(lambda group: tuple(sorted(group)))
    return [
        Patient(
            name, slides[name], float(table.patients.time[name]), int(table.patients.event[name])
        )
        for name in names
    ]


def follow_up(patients: Sequence[Patient]) -> tuple[np.ndarray, np.ndarray]:
    """Return times (N,) float and events (N,) int of patients."""
    return (
        np.array([patient.time for patient in patients], float),
        np.array([patient.event for patient in patients], int),
    )


def stack(tokens: Sequence[Tokens], device: torch.device | str) -> tuple[Tensor, ...]:
    """Stack slides of equal token counts into (B, N5, E), (B, N10, E), (B, N20, E) on a device."""
    return tuple(torch.stack(scale).to(device) for scale in zip(*tokens, strict=True))


def average_over_slides(values: Tensor, owners: Sequence[int], patients: int) -> Tensor:
    """Average a patient's slides.

    Args:
        values: (S, K) hazards of slides.
        owners: patient of each slide, in 0 .. P - 1.
        patients: P.

    Returns:
        (P, K).
    """
    index = torch.as_tensor(owners, device=values.device)
    sums = values.new_zeros(patients, values.shape[1]).index_add(0, index, values)
    return sums / torch.bincount(index, minlength=patients)[:, None]


def groups_of_equal_shape(
    patients: Sequence[Patient], bags: CohortBags, largest: int
) -> Iterator[list[int]]:
    """Split patients into groups that go through the network together, as positions.

    Patients of one slide with the same token counts share a pass; any other patient is alone.
    Real slides hardly ever have equal counts and go one by one; simulated ones do.
    """
    together: dict[tuple[int, int, int], list[int]] = {}
    for position, patient in enumerate(patients):
        if len(patient.slides) > 1:
            yield [position]
        else:
            together.setdefault(bags.counts(patient.slides[0]), []).append(position)
    for positions in together.values():
        for start in range(0, len(positions), largest):
            yield positions[start : start + largest]


@torch.inference_mode()
def predict_patients(
    network: nn.Module, bags: CohortBags, patients: Sequence[Patient], largest: int = 16
) -> np.ndarray:
    """Predict patients: hazards of each slide, averaged over the slides of a patient.

    Args:
        network: in eval mode.
        bags: holds the slides of the patients.
        patients: N of them.
        largest: slides of equal token counts that go through the network together, at most.

    Returns:
        (N, K) float64 hazards.
    """
    device = next(network.parameters()).device
    groups = list(groups_of_equal_shape(patients, bags, largest))
    slides = [[slide for i in group for slide in patients[i].slides] for group in groups]
    hazards: dict[int, Tensor] = {}
    for group, loaded in zip(groups, bags.read(slides), strict=True):
        if len(group) == 1:
            each = [network(*stack([tokens], device)).hazards for tokens in loaded]
            hazards[group[0]] = torch.cat(each).double().mean(dim=0)
        else:
            for position, row in zip(group, network(*stack(loaded, device)).hazards, strict=True):
                hazards[position] = row.double()
    return torch.stack([hazards[position] for position in range(len(patients))]).cpu().numpy()
