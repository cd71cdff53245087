"""Tasks in several processes of this machine at the same time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from types import FrameType

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.runs.records import RecordFolder
from tiacrossfusion.runs.runner import Outcome, Task


class ProcessPool:
    """An executor that runs tasks in processes of this machine.

    A script that uses more than one needs `if __name__ == "__main__":`, as for all of `multiprocessing`.
    """

    def __init__(self, processes: int) -> None:
        """Start nothing yet."""
        self.processes = processes

    def run(
        self,
        tasks: Iterable[Task],
        folder: RecordFolder | None = None,  # noqa: ARG002
    ) -> Generator[tuple[int, Outcome]]:
        """Run tasks; yields the index and the outcome of each as it is done.

        Raises:
            TiacfError: processes cannot work together here, or one was ended from outside.
        """
        waiting = list(tasks)
        processes = min(self.processes, len(waiting))
        if not waiting:
            return
        try:
            with _signals_blocked():  # one keeps an account of the pool's locks
                # A fork would copy locks of threads that it does not copy.
                pool = ProcessPoolExecutor(processes, get_context("spawn"), _end_when_told)
        except OSError as error:  # no /dev/shm, for one, where their locks would lie
            raise TiacfError(
                f"{processes} processes cannot work together here ({error.strerror}); give 1 process."
            ) from error
        others = set(active_children())
        try:
            with _signals_blocked():
                futures = {pool.submit(_run, task): i for i, task in enumerate(waiting)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except (KeyboardInterrupt, GeneratorExit):
            for process in set(active_children()) - others:
                process.terminate()
            raise
        except BrokenProcessPool as error:
            raise TiacfError(
                "a process was ended from outside, perhaps for its memory; what is finished is kept: run "
                f"it again with fewer than {processes} processes."
            ) from error
        finally:  # on an error the other tasks need not be done first
            pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGHUP in processes started inside this context."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_when_told() -> None:
    """On SIGTERM, end this process after its unfinished files are removed; with its parent, at once."""
    signal.signal(signal.SIGTERM, _exit)
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _exit(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the clean-up
    sys.exit()


def _run(task: Task) -> Outcome:
    """Run a task; a process that was told to end does not take the next one."""
    try:
        return task.run(Progress(1, show=False))
    except SystemExit:
        os._exit(1)


def _end_with(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
    os._exit(1)
