"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there: a killed run leaves no half of one.

    Reads tensors and plain values only, never pickled objects.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint in one step."""
        part = Path(path).with_name(f".{Path(path).name}.part")
        super().save_checkpoint(checkpoint, part, storage_options)
        os.replace(part, path)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        del weights_only
        return torch.load(path, map_location=map_location, weights_only=True)
