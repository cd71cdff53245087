"""The folder of a simulated cohort: its table, the options it was drawn with, and what is finished."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import replacing, writing
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.runs.runner import Executor, Outcome, Task, run_tasks

TABLE = "cohort.csv"
TRUTH = "truth"
_OPTIONS = "simulation.json"
_ELSEWHERE = "give another folder, or remove what it holds"


class CohortFolder:
    """A folder that holds one simulated cohort, new or resumed.

    Args:
        path: The folder; made when it does not exist. Other files in it are left alone.
        kind: What the cohort consists of, and the name of the folder in `path` that holds it.
        options: Everything that decides what is drawn, as JSON takes it.
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
            cohort: The table that the options give.

        Raises:
            TiacfError: it holds another cohort or files that are not a simulated cohort's, or cannot be
                written.
        """
        table = cohort.to_csv(index=False)
        with self.writing():
            self._check_options()
            path = self.path / TABLE
            if path.exists() and path.read_text("utf-8", "replace") != table:
                raise TiacfError(
                    f"{path}: is not the table of these options, it was changed or drawn by another "
                    f"version; {_ELSEWHERE}."
                )
            self.path.mkdir(parents=True, exist_ok=True)
            # The options first: a folder without them is not taken for a simulated cohort.
            _write(self.path / _OPTIONS, json.dumps(self._options, indent=2) + "\n")
            self.items.mkdir(exist_ok=True)
            _write(path, table)

    def run(
        self,
        tasks: Sequence["SimulationTask"],
        executor: Executor | None = None,
        *,
        progress: bool,
    ) -> None:
        """Draw what is not finished.

        Args:
            tasks: What the cohort consists of.
            executor: Where it is drawn; None for this process.
            progress: Whether to show a progress bar.

        Raises:
            TiacfError: something cannot be drawn or written.
        """
        for outcome in run_tasks(tasks, len(tasks), executor=executor, show_progress=progress):
            if outcome.status == "failed":
                raise TiacfError(outcome.message)

    def writing(self) -> AbstractContextManager[None]:
        """Turn errors of the file system into one line on the folder."""
        return writing(self.path)

    def _check_options(self) -> None:
        path = self.path / _OPTIONS
        if not path.exists():
            for name in (TABLE, "bags", "slides", TRUTH):
                if (self.path / name).exists():
                    raise TiacfError(
                        f"{self.path / name}: exists and is of no simulated cohort ({_OPTIONS} is "
                        f"missing beside it); {_ELSEWHERE}."
                    )
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise TiacfError(f"{path}: is damaged; {_ELSEWHERE}.") from error
        for name in {**self._options, **found}:
            wanted, there = self._options.get(name), found.get(name)
            if wanted != there:
                raise TiacfError(
                    f"{self.path}: holds another cohort ({name} is {there} there and {wanted} here); "
                    f"{_ELSEWHERE}."
                )


class SimulationTask(Task):
    """One slide or bag of a simulated cohort; there are no records, finished is what is in place."""

    folder: CohortFolder

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether it is in place."""

    @abstractmethod
    def draw(self) -> None:
        """Draw and write it.

        Raises:
            OSError: it cannot be written.
        """

    def attempt(self, progress: Progress) -> Outcome:  # noqa: ARG002
        """Draw it unless it is finished."""
        if self.finished:
            return Outcome(self.label, "skipped")
        with self.folder.writing():
            self.draw()
        return Outcome(self.label, "ok")

    def failed(self, message: str) -> Outcome:
        """Return the outcome."""
        return Outcome(self.label, "failed", message)


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
