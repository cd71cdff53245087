"""Tasks on an existing Dask cluster.

As many slides are submitted at once as there are workers, so that a worker that dies affects one slide.
Dask gives the slide of a dead worker to another one; `RecordFolder.making` counts on disk how many
workers died on it. Workers write into the output folder themselves, on a shared file system.
"""

from __future__ import annotations

import logging
import pickle
import platform
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from tiacrossfusion import __version__
from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.records import MAX_DEATHS, RecordFolder
from tiacrossfusion.runs.runner import Executor, Outcome, Task

if TYPE_CHECKING:
    from distributed import Client, Future

#: Seconds to wait for the scheduler, for a first worker, for workers to load their models, and for a
#: worker to come back when all are gone.
_CONNECT, _FIRST_WORKER, _LOAD, _RETURN = 30.0, 30.0, 600.0, 600.0

_log = logging.getLogger(__name__)


class Cluster(AbstractContextManager["Cluster"]):
    """A Dask cluster that works on slides.

    Args:
        address: of the scheduler, such as "tcp://host:8786", or its scheduler file.
        source: names what each worker loads, once.

    Raises:
        TiacfError: distributed is not installed, the scheduler does not answer, there are no workers, or
            their software is not this one's.
    """

    def __init__(self, address: str, source: ModelSource) -> None:
        """Connect."""
        self.address, self.source = address, source
        self._client = _connect(address)
        try:
            self._check_versions()
        except BaseException:
            self._client.close()
            raise

    def __exit__(self, *error: object) -> None:
        """Disconnect; the cluster keeps running."""
        self._client.close(timeout=5)

    def run(
        self, tasks: Iterable[Task], folder: RecordFolder | None
    ) -> Generator[tuple[int, Outcome]]:
        """Run tasks on the workers; yields the index and the outcome of each as it is done.

        When this is closed early, slides that wait are cancelled and those being worked on are stopped.

        Raises:
            UsageError: there is no folder.
            TiacfError: a worker cannot work, or the cluster is gone.
        """
        if folder is None:
            raise UsageError("a cluster needs an output folder; results cannot be kept in memory")
        waiting = deque([(index, task, 0) for index, task in enumerate(tasks)])
        running: dict[Future, tuple[int, Task, int]] = {}
        seen = time.monotonic()
        with folder.run_lock() as lock:
            self._check_models(lock)
            try:
                while waiting or running:
                    workers = len(self._workers())
                    seen = time.monotonic() if workers else seen
                    if time.monotonic() - seen > _RETURN:
                        raise TiacfError(
                            f"cluster {self.address}: has had no workers for {_RETURN / 60:.0f} "
                            "minutes; start some and run the same command to go on"
                        )
                    while waiting and len(running) < workers:
                        index, task, killed = waiting.popleft()
                        running[self._submit(_work, task, lock)] = (index, task, killed)
                    self._wait(list(running))
                    for future in [future for future in running if future.done()]:
                        index, task, killed = running.pop(future)
                        outcome = self._outcome(future, task, killed)
                        future.release()  # or it is done again when this worker dies later
                        if outcome is None:
                            waiting.appendleft((index, task, killed + 1))
                        else:
                            yield index, outcome
            finally:
                with suppress(Exception):  # the scheduler may be gone
                    self._client.cancel(list(running), force=True)

    def _outcome(self, future: Future, task: Task, killed: int) -> Outcome | None:
        """Return the outcome of a slide; None when its workers died and it is to be tried again."""
        from distributed import KilledWorker

        try:
            outcome: Outcome
            outcome, lines = future.result()
        except KilledWorker as error:  # the scheduler's own limit, whatever it is set to
            _log.warning("%s", error)
            if killed + 1 < MAX_DEATHS:
                return None
            return task.lost("its worker processes died again and again, see the workers' logs")
        except TiacfError:
            raise
        except CancelledError as error:
            raise TiacfError(
                f"cluster {self.address}: was restarted or is gone; run the same command to go on"
            ) from error
        except Exception as error:  # the outcome or the task could not be sent
            _log.error("a worker failed", exc_info=error)
            return task.lost(f"its worker failed ({one_line(error)}); see the log")
        for line in lines:
            logging.getLogger(line.name).handle(line)
        return outcome

    def _check_versions(self) -> None:
        """Refuse workers with other versions of Python or of this package."""
        try:
            with suppress(TimeoutError):
                self._client.wait_for_workers(1, timeout=_FIRST_WORKER)
            found = self._client.get_versions(packages=["tiacrossfusion"])["workers"]
        except (OSError, CancelledError) as error:
            raise self._gone(error) from error
        if not found:
            raise TiacfError(
                f"cluster {self.address}: has no workers; start some, with: dask worker {self.address}"
            )
        for worker, versions in found.items():
            python = ".".join(str(versions["host"]["python"]).split(".")[:2])
            own = ".".join(platform.python_version_tuple()[:2])
            package = versions["packages"].get("tiacrossfusion")
            if package is None:
                raise TiacfError(
                    f"worker {worker}: tiacrossfusion is not installed there; install "
                    f"tiacrossfusion[cluster] {__version__} where the workers run"
                )
            for what, here, there in (
                ("Python", own, python),
                ("tiacrossfusion", __version__, package),
            ):
                if here != there:
                    raise TiacfError(
                        f"worker {worker}: has {what} {there}, this is {here}; workers need the same "
                        "environment"
                    )

    def _check_models(self, lock: Path) -> None:
        """Have each worker see the output folder and load its models; they must agree."""
        probes = {
            self._submit(_prepare, self.source, lock, worker=worker): worker
            for worker in self._workers()
        }
        loaded: dict[str, str] = {}
        deadline = time.monotonic() + _LOAD
        while probes and time.monotonic() < deadline:
            self._wait(list(probes))
            alive = self._workers()
            for future in list(probes):
                if future.done():
                    worker = probes.pop(future)
                    try:
                        loaded[worker] = future.result()
                    except Exception as error:
                        reason = str(error) if isinstance(error, TiacfError) else one_line(error)
                        raise TiacfError(f"worker {worker}: {reason}") from error
                elif probes[future] not in alive:
                    _log.warning("worker %s died while it loaded its models", probes.pop(future))
        if not loaded:
            raise TiacfError(
                f"cluster {self.address}: no worker was ready within {_LOAD / 60:.0f} minutes; look "
                "into the workers' logs"
            )
        if len(set(loaded.values())) > 1:
            raise TiacfError(
                f"cluster {self.address}: workers loaded different weights of {self.source.encoder or ''}"
                f"{self.source.model or ''}; give them the same files"
            )

    def _workers(self) -> set[str]:
        try:
            return set(self._client.nthreads())
        except (OSError, TimeoutError, CancelledError) as error:
            raise self._gone(error) from error

    def _gone(self, error: BaseException) -> TiacfError:
        return TiacfError(
            f"cluster {self.address}: the scheduler is gone ({one_line(error)}); what is finished is "
            "kept, run the same command to go on"
        )

    def _wait(self, futures: list[Future]) -> None:
        """Wait a moment for the first of some futures."""
        from distributed import wait

        if not futures:  # no workers at the moment
            time.sleep(2)
            return
        with self._client.as_current(), suppress(TimeoutError, CancelledError):
            wait(futures, timeout=2, return_when="FIRST_COMPLETED")

    def _submit(
        self, function: Callable[..., Any], *arguments: Any, worker: str | None = None
    ) -> Future:
        # As bytes: the scheduler, which unpickles tasks, need not import what the workers do.
        payload = pickle.dumps((function, *arguments))
        return self._client.submit(
            _by_value(),
            payload,
            key=f"tiacf-{uuid.uuid4().hex}",
            workers=None if worker is None else [worker],
            pure=False,
        )


def connect(
    cluster: str | Executor | None, model: ModelSource | LoadedModel
) -> AbstractContextManager[Executor | None]:
    """Return where slides are worked on as a context: a cluster at an address, else what is given.

    Raises:
        TiacfError: as for `Cluster`, or the model is not one that workers can load.
    """
    if not isinstance(cluster, str):
        return nullcontext(cluster)
    if isinstance(model, LoadedModel):
        raise UsageError("a cluster needs the name of an encoder; its workers load their own")
    return Cluster(cluster, model.absolute())


def _connect(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError as error:
        raise TiacfError(
            "--cluster needs the package distributed; install it with: "
            'pip install "tiacrossfusion[cluster]"'
        ) from error
    where: dict[str, Any]
    if "://" in address:
        where = {"address": address}
    elif Path(address).is_file():
        where = {"scheduler_file": address}
    else:
        raise UsageError(
            f"--cluster {address}: neither an address such as tcp://host:8786 nor a scheduler file"
        )
    try:
        return Client(**where, timeout=_CONNECT, set_as_default=False, name="tiacf")
    except Exception as error:  # network, address and file each have their own kinds
        raise TiacfError(
            f"--cluster {address}: no scheduler answers there ({one_line(error)}); check the address "
            "and that it runs"
        ) from error


def _by_value() -> Any:
    """A function that is sent itself, not by the name of its module."""

    def call(payload: bytes) -> Any:
        import pickle

        # The client's own, sent over the user's cluster, which runs what it is sent in any case.
        function, *arguments = pickle.loads(payload)  # noqa: S301
        return function(*arguments)

    return call


# --- on a worker -------------------------------------------------------------------------------------

#: A worker with several threads works on one slide at a time: an encoder takes all cores, or the GPU.
_ONE_AT_A_TIME = threading.Lock()


class _RunEndedError(BaseException):
    """The run that this slide belongs to has ended; no error of the slide."""


class _LockProgress(Progress):
    """No bars; stops the work when the lock of the run is gone."""

    def __init__(self, lock: Path) -> None:
        super().__init__(1, show=False)
        self._lock, self._looked = lock, 0.0

    def stage(self, *_: object) -> None:
        self._look()

    def step(self, _: int) -> None:
        if time.monotonic() - self._looked > 1:
            self._look()

    def _look(self) -> None:
        self._looked = time.monotonic()
        if not self._lock.exists():
            raise _RunEndedError


def _prepare(source: ModelSource, lock: Path) -> str:
    """Look at the output folder and load the models; returns their identity."""
    if not lock.exists():
        raise TiacfError(
            f"does not see the output folder {lock.parent} (on {socket.gethostname()}); workers need "
            "it under the same path, on a shared file system"
        )
    with _ONE_AT_A_TIME:
        return source.load().identity


def _work(task: Task, lock: Path) -> tuple[Outcome, list[logging.LogRecord]]:
    """Run a task; returns its outcome and what was logged."""
    with _ONE_AT_A_TIME, _logged() as lines:
        outcome = task.run(_LockProgress(lock))
    return outcome, lines


@contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """Collect what this package logs, in a form that can be pickled."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    lines: list[logging.LogRecord] = []
    logger, handler = logging.getLogger("tiacrossfusion"), QueueHandler(queue)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        while not queue.empty():
            lines.append(queue.get())
