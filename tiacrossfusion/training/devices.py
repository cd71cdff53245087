"""Where networks are trained."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tiacrossfusion.errors import UsageError, one_line
from tiacrossfusion.io.arguments import at_least


@dataclass(frozen=True)
class Devices:
    """Where training runs: arguments of `lightning.Trainer`, such as "gpu", 2 and "ddp"."""

    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"

    def check(self) -> None:
        """Refuse devices that Lightning does not know or that this machine does not have.

        Raises:
            UsageError: names the three options and the reason.
        """
        asked = (
            f"--accelerator {self.accelerator} --devices {self.devices} --strategy {self.strategy}"
        )
        remedy = "leave them out to train on one device of this machine"
        if isinstance(self.devices, int):  # Lightning would make a list of them
            at_least("--devices", self.devices, -1, 10_000)  # -1: all GPUs
        try:
            with quiet():
                trainer = self._trainer()
        except (
            MisconfigurationException,
            ImportError,  # what an accelerator needs is not installed
            ValueError,
            TypeError,
            RuntimeError,
        ) as error:
            raise UsageError(f"{asked}: {one_line(error)}; {remedy}") from error
        # On a CPU each "device" is a process, and Lightning would start any number of them.
        if (
            trainer.num_devices > (os.cpu_count() or 1)
            and trainer.strategy.root_device.type == "cpu"
        ):
            raise UsageError(f"{asked}: this machine has {os.cpu_count()} CPU cores; {remedy}")

    def count(self) -> int:
        """Return the number of devices, which share the patients of an epoch."""
        with quiet():
            return self._trainer().world_size

    def _trainer(self) -> lightning.Trainer:
        return lightning.Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self.strategy,
            plugins=self.plugins(),
            barebones=True,
        )

    def plugins(self) -> list[Any]:
        """Return what keeps Lightning from SLURM's settings where one device is used.

        In a job with several tasks Lightning wants as many devices, and ends where it has fewer.
        """
        return [LightningEnvironment()] if self.devices in (1, "1") else []


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Lightning's advice on loaders and devices, which users of this package cannot follow."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
