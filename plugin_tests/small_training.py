"""Trainings of a few seconds, for tests of what is done with a trained model."""

from __future__ import annotations

#: Settings of `train`: two folds of four epochs.
SETTINGS = {
    "time_unit": "months",
    "protocol": {"folds": 2},
    "network": {"embed_dim": 16},
    "fitting": {"epochs": 4},
}
