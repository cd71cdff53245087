"""The files of faithfulness figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from tiacrossfusion.evaluation.faithfulness import Faithfulness
from tiacrossfusion.io.atomic import write_text

FAITHFULNESS = "faithfulness.json"
TABLE = "faithfulness.csv"

_FIGURES = ("change", "random", "ratio", "direction", "auc")
_ENDS = {"": "value", "_low": "low", "_high": "high"}


def write_faithfulness(folder: Path, figures: Faithfulness) -> list[Path]:
    """Write `faithfulness.json` and, as a table, `faithfulness.csv`; return the two paths.

    Raises:
        TiacfError: the folder, which is created if necessary, cannot be written.
    """
    names = [f"{name}{end}" for name in _FIGURES for end in _ENDS]
    text = io.StringIO()
    table = csv.DictWriter(
        text, ["score", "scale", "end", "share", "slides", *names], lineterminator="\n"
    )
    table.writeheader()
    for figure in (*figures.deletions, *figures.regions):
        row: dict[str, Any] = {}
        for name, value in figure.model_dump().items():
            if name in _FIGURES:
                row |= {f"{name}{end}": value[at] for end, at in _ENDS.items()}
            else:
                row[name] = value
        table.writerow(row)
    paths = [folder / FAITHFULNESS, folder / TABLE]
    write_text(paths[0], figures.model_dump_json(indent=1) + "\n")
    write_text(paths[1], text.getvalue())
    return paths
