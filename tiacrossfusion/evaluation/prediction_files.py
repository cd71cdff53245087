"""Predictions as CSV files: one for people, and the follow-up that goes with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ValidationError

from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.evaluation.predictions import FoldPredictions, check_predictions
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.io.csv_table import read_csv
from tiacrossfusion.io.paths import is_folder
from tiacrossfusion.survival import TimeBins

#: One row a patient: what was predicted and what happened.
TABLE = "out_of_fold.csv"

#: One row a training patient of a fold: the follow-up from which censoring is estimated.
TRAINING_TABLE = "training_follow_up.csv"

#: SHA-256 of both, as `sha256sum` writes it: a table that lost its last rows looks like a whole one.
DIGESTS = "out_of_fold.sha256"

_FIRST = ("patient", "fold", "time", "event", "risk", "risk_group")
_TRAINING_COLUMNS = ("fold", "time", "event")
_REMEDY = "take the file as training wrote it"


def write_predictions(folder: Path, folds: Sequence[FoldPredictions]) -> None:
    """Write predictions as CSV, each file in one step, numbers so that they are read back the same.

    The folder gets `TABLE`, for people, and `TRAINING_TABLE` and `DIGESTS` beside it.

    Raises:
        TiacfError: the folds do not go together (see `check_predictions`), or the folder cannot be
            written.
    """
    check_predictions(folds)
    rows, training = [], []
    for fold in folds:
        table = {
            "patient": fold.patients,
            "fold": fold.fold,
            "time": np.asarray(fold.times, float),
            "event": np.asarray(fold.events, int),
            **({} if fold.entries is None else {"entry": fold.entries}),
            "risk": np.asarray(fold.risks, float),
            "risk_group": np.where(fold.high, "high", "low"),
        }
        survival = np.asarray(fold.survival, float)
        table |= {f"survival_{k}": values for k, values in enumerate(survival.T, 1)}
        table |= {f"bin_edge_{k}": edge for k, edge in enumerate(fold.bins.edges[1:], 1)}
        rows.append(pd.DataFrame({**table, "time_unit": fold.bins.unit}))
        training.append(
            pd.DataFrame(
                {
                    "fold": fold.fold,
                    "time": np.asarray(fold.training_times, float),
                    "event": np.asarray(fold.training_events, int),
                }
            )
        )
    texts = {
        name: pd.concat(parts).to_csv(index=False, lineterminator="\n")
        for name, parts in ((TRAINING_TABLE, training), (TABLE, rows))
    }
    digests = "".join(f"{_digest(text.encode())}  {name}\n" for name, text in texts.items())
    write_text(Path(folder) / TRAINING_TABLE, texts[TRAINING_TABLE])
    write_text(Path(folder) / DIGESTS, digests)
    write_text(Path(folder) / TABLE, texts[TABLE])  # last: then all files are in place


def read_predictions(path: Path) -> list[FoldPredictions]:
    """Read what `write_predictions` wrote, from the folder or `TABLE` in it.

    Folds come by their numbers, patients in the order of the file.

    Raises:
        TiacfError: a file is missing, damaged or changed.
    """
    path = Path(path)
    file = path / TABLE if is_folder(path) else path
    table = _read(file, _FIRST)
    training_table = _read(file.parent / TRAINING_TABLE, _TRAINING_COLUMNS)
    curve, edges = _bin_columns(file, table)
    entry = [name for name in ("entry",) if name in table]
    numbers = _numbers(file, table, ["fold", "time", "event", "risk", *entry, *curve, *edges])
    training = _numbers(file.parent / TRAINING_TABLE, training_table, list(_TRAINING_COLUMNS))
    groups = ~table["risk_group"].isin(["low", "high"])
    if groups.any():
        raise TiacfError(
            f"{file}: the risk group in line {_line(groups)} is neither low nor high; {_REMEDY}"
        )
    if set(numbers["fold"]) != set(training["fold"]):
        raise TiacfError(
            f"{file}: its folds are not those of {TRAINING_TABLE} beside it; {_REMEDY}"
        )
    folds = []
    for fold in sorted(set(numbers["fold"])):
        if fold != int(fold):
            raise TiacfError(f"{file}: the fold {fold:g} is not a whole number; {_REMEDY}")
        mine, others = numbers["fold"] == fold, training["fold"] == fold
        axis = pd.concat([numbers.loc[mine, edges], table.loc[mine, "time_unit"]], axis=1)
        if len(axis.drop_duplicates()) > 1:
            raise TiacfError(f"{file}: fold {fold:g} has several time axes; {_REMEDY}")
        try:
            bins = TimeBins(edges=(0.0, *axis[edges].iloc[0]), unit=str(axis["time_unit"].iloc[0]))
            folds.append(
                FoldPredictions(
                    fold=int(fold),
                    patients=tuple(table.loc[mine, "patient"]),
                    times=numbers.loc[mine, "time"].to_numpy(),
                    events=_as_events(numbers.loc[mine, "event"]),
                    risks=numbers.loc[mine, "risk"].to_numpy(),
                    survival=numbers.loc[mine, curve].to_numpy(),
                    high=(table.loc[mine, "risk_group"] == "high").to_numpy(),
                    bins=bins,
                    training_times=training.loc[others, "time"].to_numpy(),
                    training_events=_as_events(training.loc[others, "event"]),
                    entries=numbers.loc[mine, "entry"].to_numpy() if entry else None,
                )
            )
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise TiacfError(f"{file}: fold {fold:g}: {reason}; {_REMEDY}") from error
        except TiacfError as error:
            raise TiacfError(f"{file}: {error}; {_REMEDY}") from error
    check_predictions(folds)
    for name in (file.name, TRAINING_TABLE):  # last: where it is plain what is wrong, that is said
        _check_digest(file.parent / name)
    return folds


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_digest(file: Path) -> None:
    """Refuse a table that is not as it was written."""
    digests = file.parent / DIGESTS
    try:
        lines = digests.read_text(encoding="utf-8").splitlines()
        found = f"{_digest(file.read_bytes())}  {file.name}"
    except FileNotFoundError as error:
        raise UsageError(f"{digests}: does not exist; give a folder that training wrote") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TiacfError(f"{digests}: cannot be read ({one_line(error)}); {_REMEDY}") from error
    if found not in lines:
        raise TiacfError(
            f"{file}: was cut or changed after it had been written (see {DIGESTS}); {_REMEDY}"
        )


def _read(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV with every cell as text, so that a patient named 007 or NA keeps the name."""
    return read_csv(
        file,
        columns=columns,
        check="give the folder of a model that training wrote, such as trained/crossfusion",
        remedy=_REMEDY,
        dtype=str,
        keep_default_na=False,
    )


def _bin_columns(file: Path, table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Columns of the survival curve and of the bin edges, by bin."""
    count = max(1, sum(column.startswith("survival_") for column in table.columns))
    curve = [f"survival_{k}" for k in range(1, count + 1)]
    edges = [f"bin_edge_{k}" for k in range(1, count + 1)]
    lacking = [name for name in (*curve, *edges, "time_unit") if name not in table.columns]
    if lacking:
        raise TiacfError(f"{file}: has no column {', '.join(lacking)}; {_REMEDY}")
    return curve, edges


def _numbers(file: Path, table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Columns as float64."""
    numbers = pd.DataFrame(index=table.index)
    for column in columns:
        # Python's own parser: pandas' fast one may be off by one unit in the last place.
        values = [_number(cell) for cell in table[column]]
        wrong = pd.Series([value is None for value in values])
        if wrong.any():
            raise TiacfError(
                f"{file}: {int(wrong.sum())} cells of {column} are not numbers, "
                f"first in line {_line(wrong)}; {_REMEDY}"
            )
        numbers[column] = np.array(values, float)
    return numbers


def _number(cell: object) -> float | None:
    try:
        value = float(str(cell))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _line(wrong: pd.Series) -> int:
    """Line in the file of the first row that is wrong; line 1 is the header."""
    return int(np.flatnonzero(wrong.to_numpy())[0]) + 2


def _as_events(values: pd.Series) -> np.ndarray:
    """Whole numbers as such; others are kept, to be refused."""
    numbers = values.to_numpy()
    return numbers.astype(int) if (numbers == np.rint(numbers)).all() else numbers
