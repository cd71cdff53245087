"""Networks whose weights are found without an optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.networks.coxnet import CoxNet
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.survival import harrell_c
from tiacrossfusion.survival.elastic_net import cox_elastic_net
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.patients import Patient, patient_outputs, times_and_events


@torch.inference_mode()
def fit_coxnet(
    network: TrainedNetwork,
    bags: CohortBags,
    training: Sequence[Patient],
    validation: Sequence[Patient],
    metrics: Path,
    seed: int,
) -> str:
    """Set the weights of a `CoxNet`, and write its losses as the only epoch.

    Returns:
        What was found, in words.
    """
    inner = network.network
    assert isinstance(inner, CoxNet)  # noqa: S101 - the caller has looked

    def means(patients: Sequence[Patient]) -> np.ndarray:
        def compute(tokens: SlideTokens) -> torch.Tensor:
            ready = network.standardised(tokens.inputs())
            return inner.means([ready[f"x{scale[:-1]}"] for scale in inner.scales]).double()

        return patient_outputs(patients, bags, compute, _average).numpy()

    times, events = times_and_events(training)
    x = means(training)
    fitted = cox_elastic_net(x, times, events, seed=seed)
    weights = torch.from_numpy(fitted.coefficients).float()[None]
    inner.linear.weight.copy_(weights)
    inner.linear.bias.fill_(-float(x.mean(axis=0) @ fitted.coefficients))
    held_times, held_events = times_and_events(validation)
    held = means(validation)
    row = {
        "epoch": 0,
        "train_loss": _loss(x @ fitted.coefficients, times, events),
        "val_loss": _loss(held @ fitted.coefficients, held_times, held_events),
        "val_c": harrell_c(held_times, held_events, held @ fitted.coefficients),
    }
    write_text(metrics, pd.DataFrame([row]).to_csv(index=False, lineterminator="\n"))
    return f"penalty {fitted.penalty:.3g}, {fitted.nonzero} of {x.shape[1]} mean features kept"


def _average(values: torch.Tensor, patients: Sequence[Patient]) -> torch.Tensor:
    """Average mean features (S, P) over the slides of each patient."""
    sizes = [len(patient.slides) for patient in patients]
    return torch.stack([part.mean(dim=0) for part in values.split(sizes)])


def _loss(log_hazards: np.ndarray, times: np.ndarray, events: np.ndarray) -> float:
    """Minus Breslow's partial log-likelihood for each event; NaN without an event."""
    if not events.any():
        return float("nan")
    at_risk = np.array([np.logaddexp.reduce(log_hazards[times >= time]) for time in times])
    return float(-(events * (log_hazards - at_risk)).sum() / events.sum())
