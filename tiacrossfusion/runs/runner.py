"""The runner: everything that is done slide by slide, or fold by fold, and resumed.

A `Task` says what identifies a slide, what decides its result and how that is made. The runner finds
out whether it is finished, makes it in a staging folder, publishes it in one step, records it, and keeps
the table up to date. A slide that fails is recorded with its reason and the others go on.
"""

from __future__ import annotations

import gc
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.runs.record import Record
from tiacrossfusion.runs.records import RecordFolder
from tiacrossfusion.runs.signals import go_on_unless_interrupted
from tiacrossfusion.text import written

if TYPE_CHECKING:
    from tiacrossfusion.runs.slides import RunOptions

_log = logging.getLogger(__name__)

Status = Literal["ok", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The result of one task.

    Attributes:
        source: path of the slide, bag or feature file as given, or a name for one without a path.
        status: "ok", "skipped" (finished before) or "failed".
        message: why it failed, or what the user should know of the result; empty otherwise.
        output: the main file or folder that was written; None when it failed or nothing is written.
        row: the row of the table.
        value: the result itself when nothing is written; None otherwise.
    """

    source: str | Path
    status: Status
    message: str = ""
    output: Path | None = None
    row: dict[str, Any] = field(default_factory=dict)
    value: Any = None


class Task(ABC):
    """The work on one slide, bag or fold. It can be pickled, and so can its outcome.

    Attributes:
        label: names the slide in messages.
    """

    label: str

    def run(self, progress: Progress) -> Outcome:
        """Do it; an error of the slide becomes a failed outcome, and its traceback goes to the log.

        Raises:
            TiacfError: the error is not of the slide, and the others would fare no better.
            KeyboardInterrupt: the program was interrupted.
        """
        self.prepare()
        try:
            return self.attempt(progress)
        except OutputError:
            raise
        except Exception as error:  # the other slides go on
            return self.failed(failure(error, self.label))

    def prepare(self) -> None:  # noqa: B027
        """Load what all tasks of the run need.

        Raises:
            TiacfError: it cannot be loaded.
        """

    @abstractmethod
    def attempt(self, progress: Progress) -> Outcome:
        """Do it.

        Raises:
            Exception: anything; `run` turns it into a failed outcome.
        """

    def failed(self, message: str) -> Outcome:
        """Return the outcome of a failure, and record it where there are records."""
        return Outcome(self.label, "failed", message)

    def lost(self, message: str) -> Outcome:
        """Return the outcome of a slide whose worker did not return one."""
        return self.failed(f"{self.label}: {message}")


class RecordedTask(Task):
    """A task whose result lies in an output folder beside a record, and is made once.

    Attributes:
        given: the slide as the caller named it, the source of the outcome.
        source: identifies the slide.
        folder: where the result goes.
        options: of the run; they say which earlier results are made again.
        run_name: names the run.
    """

    given: str | Path
    source: str
    folder: RecordFolder
    options: RunOptions
    run_name: str
    _key: dict[str, str] | None = None

    #: Refuse a finished result whose cache key differs, unless it is to be overwritten; else make it again.
    refuse_other_key: ClassVar[bool] = False

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Return names for the record; the first one that is free is taken."""

    def content(self) -> str:
        """Return what identifies the slide's file wherever it lies; empty (the default) if nothing does."""
        return ""

    @abstractmethod
    def key(self, progress: Progress) -> dict[str, str]:
        """Return the cache key: everything that the result depends on except package versions."""

    @abstractmethod
    def files(self, record: Record) -> tuple[str, ...]:
        """Return the names of the files that the result is to have, the main one first."""

    @abstractmethod
    def make(self, record: Record, staging: Path, progress: Progress) -> dict[str, Any]:
        """Make the result in a staging folder and return its row of the table.

        Nothing is made where the result is in place although no record named it.
        """

    @abstractmethod
    def failed_row(self, message: str) -> dict[str, Any]:
        """Return the row of the table of a slide that failed."""

    def attempt(self, progress: Progress) -> Outcome:
        """Make and publish the result unless it is finished."""
        folder, record = self.folder, self.claim()
        self._key = key = self.key(progress)
        if (earlier := self.earlier(record, key)) is not None:
            return earlier
        files = self.files(record)
        again = self.options.overwrite or record.status != "ok"
        cut = [] if again else folder.cut(record, files)
        with folder.making(record, self.run_name) as staging:
            try:
                row = self.make(record, staging, progress)
            finally:
                gc.collect()  # readers hold file handles and caches in cycles
            record = self.claim()  # another run may have finished it meanwhile
            if (finished := self._finished(record, key)) is not None:
                return finished
            record.key, record.row, record.remark = key, row, ""
            if not any(staging.iterdir()):
                record.files = list(files)
                folder.finish(record)
                return self._outcome("skipped", record)
            if cut:
                record.remark = f"made again, since {', '.join(cut)} had been cut"
            folder.publish(record, staging)
        return self._outcome("ok", record)

    def earlier(self, record: Record, key: dict[str, str]) -> Outcome | None:
        """Return the outcome of an earlier run; None when the result is to be made.

        Raises:
            TiacfError: the result differs in its cache key and may not be replaced.
        """
        if record.status == "failed" and record.key == key and not self.options.retry_failed:
            message = f"{record.row['message']} (failed before; --retry-failed tries again)"
            return Outcome(self.given, "failed", message, row=record.row)
        return self._finished(record, key)

    def claim(self) -> Record:
        """Find the record, or add one."""
        return self.folder.claim(self.source, self.names(), self.content)

    def failed(self, message: str) -> Outcome:
        """Record the failure."""
        row = self.failed_row(message)
        self.folder.fail(self.claim(), self._key or {}, row)
        return Outcome(self.given, "failed", message, row=row)

    def _finished(self, record: Record, key: dict[str, str]) -> Outcome | None:
        if self.options.overwrite or record.status != "ok":
            return None
        changed = self.folder.changed(record, key)
        if changed and self.refuse_other_key:
            raise TiacfError(
                f"{self.source}: {self.folder.path} holds its result made with another "
                f"{' and '.join(changed)}; give --overwrite to replace it, or another --output-path"
            )
        if not self.folder.finished(record, key, self.files(record)):
            return None
        self.folder.remark(record, "")
        return self._outcome("skipped", record)

    def _outcome(self, status: Status, record: Record) -> Outcome:
        row, output = record.table_row(), self.folder.path / self.files(record)[0]
        return Outcome(self.given, status, row["message"], output, row)


class Executor(Protocol):
    """Where tasks are run: a cluster, or processes of this machine."""

    def run(
        self, tasks: Iterable[Task], folder: RecordFolder | None
    ) -> Generator[tuple[int, Outcome]]:
        """Run tasks; yields the index and the outcome of each as it is done.

        Raises:
            TiacfError: the executor is gone.
        """


def run_tasks(
    tasks: Iterable[Task],
    total: int,
    line: Callable[[Outcome], str] | None = None,
    *,
    folder: RecordFolder | None = None,
    executor: Executor | None = None,
    show_progress: bool = True,
) -> list[Outcome]:
    """Run tasks one after the other here, or several at once elsewhere.

    Args:
        tasks: made as they are needed.
        total: their number.
        line: writes an outcome as a line for the console; None prints nothing.
        folder: of recorded tasks; its table is kept up to date.
        executor: where they are run; None for this process.
        show_progress: draw bars and print the lines.

    Returns:
        The outcomes, in the order of the tasks.

    Raises:
        OutputError: the output folder cannot be written.
        TiacfError: the executor is gone.
    """
    done: dict[int, Outcome] = {}
    with Progress(total, show=show_progress) as progress:
        try:
            stream = _here(tasks, progress) if executor is None else executor.run(tasks, folder)
            with closing(stream):
                for index, outcome in stream:
                    done[index] = outcome
                    progress.slide_done(line(outcome) if line and show_progress else None)
                    if folder is not None:
                        folder.write_table_if_due()
        except OutputError:
            raise  # the table could not be written either
        except BaseException:
            if folder is not None:
                folder.write_table()
            raise
    if folder is not None:
        folder.write_table()
        folder.sweep()  # what killed workers left
    return [done[index] for index in range(total)]


def failure(error: Exception, label: str) -> str:
    """Return why a slide failed, in one line; the traceback goes to the log.

    Args:
        error: what was raised.
        label: names the slide, where the error does not.

    Raises:
        KeyboardInterrupt: the program was interrupted, and the error may come from that.
    """
    go_on_unless_interrupted(error)
    if isinstance(error, TiacfError):
        _log.debug("%s failed", label, exc_info=error)  # for the command line's log file
        return written(str(error))
    _log.error("%s failed", label, exc_info=error)
    return written(f"{label}: unexpected {one_line(error)}; see the log")


def _here(tasks: Iterable[Task], progress: Progress) -> Generator[tuple[int, Outcome]]:
    for index, task in enumerate(tasks):
        yield index, task.run(progress)
