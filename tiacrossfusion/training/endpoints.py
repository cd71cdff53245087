"""Several endpoints of one table, trained one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tiacrossfusion.cohorts.endpoints import columns_of_endpoint, write_endpoints
from tiacrossfusion.training.api import Trained, train
from tiacrossfusion.training.config import TrainingConfig
from tiacrossfusion.training.devices import Devices


def train_endpoints(
    table: str | Path,
    bags: str | Path | None,
    output_path: str | Path,
    *,
    endpoints: Mapping[str, tuple[str, str]],
    config: TrainingConfig,
    models: Sequence[str] = (),
    devices: Devices | None = None,
    cache: str | Path | None = None,
    loggers: Sequence[str] = (),
    permutations: int = 0,
    say: Callable[[str], None] | None = None,
) -> dict[str, Trained]:
    """Train models for each endpoint, in a folder of its name, and write all figures into one table.

    Args:
        table: see `train`.
        bags: see `train`.
        output_path: folder of the folders, and of `endpoints.csv`: the rows of each `models.csv`.
        endpoints: columns of time and event by name.
        config: settings, but for these columns.
        models: see `train`.
        devices: see `train`.
        cache: see `train`.
        loggers: see `train`.
        permutations: see `train`.
        say: see `train`.

    Raises:
        UsageError: a setting is wrong, or a file is not there.
        TiacfError: the table or the bags are at fault; endpoints before are kept.
    """
    output, found, rows = Path(output_path), {}, []
    for name, endpoint in endpoints.items():
        columns = columns_of_endpoint(config.columns, endpoint)
        if say is not None:
            say(f"endpoint {name}: time {columns.time}, event {columns.event}")
        found[name] = train(
            table,
            bags,
            output / name,
            config=config.model_copy(update={"columns": columns}),
            models=models,
            devices=devices,
            cache=cache,
            loggers=loggers,
            permutations=permutations,
            say=say,
        )
        rows.append((name, pd.read_csv(found[name].table)))
    write_endpoints(output, rows)
    return found
