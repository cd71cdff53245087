"""The folder of a simulated cohort: its table, the options it was drawn with, and what is finished."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import write_text, writing
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.runs.runner import Executor, Outcome, Task, run_tasks

TABLE = "cohort.csv"
TRUTH = "truth"
_OPTIONS = "simulation.json"
_ELSEWHERE = "give another folder, or remove its contents"


class CohortFolder:
    """A folder that holds one simulated cohort, new or resumed.

    Args:
        path: the folder; made if missing. Other files in it are left alone.
        kind: what the cohort consists of, and the name of the subfolder that holds it.
        options: everything that determines what is drawn, as JSON types.
    """

    def __init__(
        self, path: Path, kind: Literal["bags", "slides"], options: Mapping[str, Any]
    ) -> None:
        """Set the paths; the disk is not touched."""
        self.path = path
        self.items = path / kind
        self._options = {"kind": kind, **options}

    def open(self, cohort: pd.DataFrame) -> None:
        """Make the folder with its table, or check that it holds this cohort.

        Args:
            cohort: the table that the options give.

        Raises:
            TiacfError: the folder holds another cohort or files of something else, or cannot be written.
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
            # The options first: without them a folder is not recognised as a simulated cohort.
            write_text(self.path / _OPTIONS, json.dumps(self._options, indent=2) + "\n")
            self.items.mkdir(exist_ok=True)
            write_text(path, table)

    def run(
        self,
        tasks: Sequence["SimulationTask"],
        executor: Executor | None = None,
        *,
        progress: bool,
    ) -> None:
        """Draw what is not finished.

        Args:
            tasks: the slides or bags of the cohort.
            executor: where they are drawn; None for this process.
            progress: show a progress bar.

        Raises:
            TiacfError: something cannot be drawn or written.
        """
        for outcome in run_tasks(tasks, len(tasks), executor=executor, show_progress=progress):
            if outcome.status == "failed":
                raise TiacfError(outcome.message)

    def writing(self) -> AbstractContextManager[None]:
        """Turn errors of the file system into one line about the folder."""
        return writing(self.path)

    def _check_options(self) -> None:
        path = self.path / _OPTIONS
        if not path.exists():
            for name in (TABLE, "bags", "slides", TRUTH):
                if (self.path / name).exists():
                    raise TiacfError(
                        f"{self.path / name}: exists and is not of a simulated cohort ({_OPTIONS} is "
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


@dataclass
class SimulationTask(Task):
    """One slide or bag of a simulated cohort; it has no record and is finished when its files exist.

    Attributes:
        folder: of the cohort.
        files: each gets its name once it is complete; the first one names the task.
        draw: draws and writes the files; raises OSError where they cannot be written.
    """

    folder: CohortFolder
    files: tuple[Path, ...]
    draw: Callable[[], None]

    def __post_init__(self) -> None:
        """Name the task."""
        self.label = self.files[0].name

    @property
    def finished(self) -> bool:
        """Whether all files exist."""
        return all(path.exists() for path in self.files)

    def attempt(self, progress: Progress) -> Outcome:  # noqa: ARG002
        """Draw it unless it is finished."""
        if self.finished:
            return Outcome(self.label, "skipped")
        with self.folder.writing():
            self.draw()
        return Outcome(self.label, "ok")
