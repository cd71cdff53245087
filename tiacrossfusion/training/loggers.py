"""Lightning's loggers by name: where losses are kept besides `metrics.csv`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from tiacrossfusion.encoders.hub import offline_variable
from tiacrossfusion.errors import UsageError

#: The packages that a logger needs, one of which is enough.
_NEEDED = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "mlflow_skinny"),
}

#: Name of the project or experiment.
_PROJECT = "tiacrossfusion"


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are not known or whose package is not installed.

    Raises:
        UsageError: names the first.
    """
    for name in names:
        if name not in _NEEDED:
            raise UsageError(f"--logger {name}: is not known; known are {', '.join(_NEEDED)}")
        if not any(find_spec(package) for package in _NEEDED[name]):
            package = _NEEDED[name][0]
            raise UsageError(
                f"--logger {name} needs the package {package}; install it with pip install {package}"
            )


def make_loggers(names: Sequence[str], folder: Path) -> list[Logger]:
    """Return loggers of a fold, whose folder is `<run>/<model>/fold-<k>`.

    TensorBoard writes into `<run>/tensorboard`; MLflow into `<run>/mlruns`, unless MLFLOW_TRACKING_URI says
    otherwise; Weights & Biases into `<run>/wandb` and to its server, unless the program is offline.
    """
    run, title = folder.parent.parent, f"{folder.parent.name}-{folder.name}"
    made: list[Logger] = []
    for name in names:
        if name == "tensorboard":
            place = run / "tensorboard" / folder.parent.name
            made.append(TensorBoardLogger(place, name="", version=folder.name))
        elif name == "mlflow":
            uri = os.environ.get("MLFLOW_TRACKING_URI", (run / "mlruns").absolute().as_uri())
            made.append(MLFlowLogger(_PROJECT, run_name=title, tracking_uri=uri))
        else:
            (run / "wandb").mkdir(parents=True, exist_ok=True)
            made.append(
                WandbLogger(
                    title,
                    save_dir=run,
                    project=_PROJECT,
                    group=run.name,
                    offline=offline_variable() is not None,
                )
            )
    return made
