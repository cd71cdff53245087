"""Several endpoints of one table, trained one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.training.api import Trained, train
from tiacrossfusion.training.config import TrainingConfig
from tiacrossfusion.training.devices import Devices

ENDPOINTS = "endpoints.csv"


def read_endpoints(options: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Read endpoints written as `OS=OS.time,OS`: columns of time and event by name.

    Raises:
        UsageError: one is written otherwise, or a name is given twice.
    """
    found: dict[str, tuple[str, str]] = {}
    for option in options:
        name, sign, text = option.partition("=")
        columns = [column.strip() for column in text.split(",")]
        if (
            not sign
            or not re.fullmatch(r"\w[\w.-]*", name)
            or len(columns) != 2
            or not all(columns)
        ):
            raise UsageError(
                f"--endpoint {option}: write a name and the columns of time and event, such as OS=OS.time,OS"
            )
        if name in found:
            raise UsageError(f"--endpoint {name}: is given twice")
        found[name] = (columns[0], columns[1])
    return found


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
        say: see `train`.

    Raises:
        UsageError: a setting is wrong, or a file is not there.
        TiacfError: the table or the bags are at fault; endpoints before are kept.
    """
    output, found, rows = Path(output_path), {}, []
    for name, (time, event) in endpoints.items():
        if say is not None:
            say(f"endpoint {name}: time {time}, event {event}")
        changed: dict[str, Any] = {"time": time, "event": event, "censorship": None}
        columns = config.columns.model_copy(update=changed)
        found[name] = train(
            table,
            bags,
            output / name,
            config=config.model_copy(update={"columns": columns}),
            models=models,
            devices=devices,
            cache=cache,
            say=say,
        )
        rows.append(pd.read_csv(found[name].table).assign(endpoint=name))
    if rows:
        joined = pd.concat(rows)
        first = joined.pop("endpoint")
        joined.insert(0, "endpoint", first)
        write_text(output / ENDPOINTS, joined.to_csv(index=False, lineterminator="\n"))
    return found
