"""Checkpoints, written in one step."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.io.tensor_files import load_tensors


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints are written to a temporary file and moved into place, and read without unpickling.

    A killed run leaves no partial checkpoint. Only tensors and plain values are read.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint in one step.

        Lightning's default uses the system's folder for temporary files, which may be on a smaller disk.

        Raises:
            OSError: it cannot be written.
        """
        del storage_options
        content = io.BytesIO()  # torch would report a full disk as a RuntimeError
        torch.save(checkpoint, content)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(content.getbuffer())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        del weights_only
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of a run that is resumed.

    Raises:
        TiacfError: it is missing or damaged, or holds pickled objects.
    """
    try:
        checkpoint = load_tensors(path, map_location)
        if not {"state_dict", "callbacks"} <= checkpoint.keys():
            raise ValueError("holds no training run")
    except Exception as error:  # damaged files fail in many ways
        raise TiacfError(
            f"{path}: not loaded, no whole checkpoint of this program ({one_line(error, 80)}); remove "
            f"{path.parent} and run the same command to train this fold again"
        ) from error
    return checkpoint
