"""The folder of a simulated cohort: its table, the options it was drawn with, and what is finished."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tiacrossfusion.errors import TiacfError

TABLE = "cohort.csv"
TRUTH = "truth"
_OPTIONS = "simulation.json"
_ELSEWHERE = "give another folder, or remove what it holds"


class CohortFolder:
    """A folder that holds one simulated cohort, new or resumed.

    Args:
        path (Path):
            The folder; made when it does not exist. Other files in it are left alone.
        kind (Literal["bags", "slides"]):
            What the cohort consists of, and the name of the folder in `path` that holds it.
        options (Mapping[str, Any]):
            Everything that decides what is drawn, as JSON takes it.

    """

    def __init__(
        self, path: Path, kind: Literal["bags", "slides"], options: Mapping[str, Any]
    ) -> None:
        """Name the folder; nothing is looked at yet."""
        self.path = path
        self.items = path / kind
        self._options = {"kind": kind, **options}

    def open(self, cohort: pd.DataFrame) -> None:
        """Make the folder with its table, or see that it is the same one.

        Args:
            cohort (pandas.DataFrame):
                The table that the options give.

        Raises:
            TiacfError:
                If it holds another cohort or files that are not a simulated cohort's, or cannot be
                written.

        """
        table = cohort.to_csv(index=False)
        with self.writing():
            self._check_options()
            path = self.path / TABLE
            if path.exists() and path.read_text("utf-8", "replace") != table:
                msg = (
                    f"{path}: is not the table of these options, it was changed or drawn by another "
                    f"version; {_ELSEWHERE}."
                )
                raise TiacfError(msg)
            self.path.mkdir(parents=True, exist_ok=True)
            # The options first: a folder without them is not taken for a simulated cohort.
            _write_whole(self.path / _OPTIONS, json.dumps(self._options, indent=2) + "\n")
            self.items.mkdir(exist_ok=True)
            _write_whole(path, table)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what a full or read-only disk raises into one line.

        Raises:
            TiacfError:
                Instead of an `OSError`.

        """
        try:
            yield
        except OSError as error:
            msg = (
                f"{self.path}: cannot be written ({error.strerror or error}); make room for it, or "
                "give another folder."
            )
            raise TiacfError(msg) from error

    def _check_options(self) -> None:
        path = self.path / _OPTIONS
        if not path.exists():
            for name in (TABLE, "bags", "slides", TRUTH):
                if (self.path / name).exists():
                    msg = (
                        f"{self.path / name}: exists and is of no simulated cohort ({_OPTIONS} is "
                        f"missing beside it); {_ELSEWHERE}."
                    )
                    raise TiacfError(msg)
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            msg = f"{path}: is damaged; {_ELSEWHERE}."
            raise TiacfError(msg) from error
        for name in {**self._options, **found}:
            wanted, there = self._options.get(name), found.get(name)
            if wanted != there:
                msg = (
                    f"{self.path}: holds another cohort ({name} is {there} there and {wanted} here); "
                    f"{_ELSEWHERE}."
                )
                raise TiacfError(msg)


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is either whole or not there."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
