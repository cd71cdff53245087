"""Judge a finished model by several endpoints of one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tiacrossfusion.cohorts.endpoints import columns_of_endpoint, write_endpoints
from tiacrossfusion.evaluation.judging import Clinic, Judgement
from tiacrossfusion.evaluation.scores import figure_row


def evaluate_endpoints(
    judge: Callable[[Clinic, Path], Judgement],
    clinic: Clinic,
    endpoints: Mapping[str, tuple[str, str]],
    output_path: str | Path,
) -> dict[str, Judgement]:
    """Judge a model by each endpoint, in a folder of its name, and write all figures into one table.

    Args:
        judge: judges the model by one table and writes into a folder, such as `evaluate_external` with
            model and bags.
        clinic: table of the patients, but for the columns of time and event.
        endpoints: these columns by name.
        output_path: folder of the folders, and of `endpoints.csv`.

    Raises:
        TiacfError: as `judge`; endpoints before are kept.
    """
    output, found = Path(output_path), {}
    for name, endpoint in endpoints.items():
        columns = columns_of_endpoint(clinic.columns, endpoint)
        found[name] = judge(replace(clinic, columns=columns), output / name)
    write_endpoints(
        output,
        [
            (
                name,
                pd.DataFrame([{"model": judged.model, **figure_row(judged.evaluation.pooled)}]),
            )
            for name, judged in found.items()
        ],
    )
    return found
