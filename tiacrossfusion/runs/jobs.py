"""Jobs: the whole work on one slide as one thing, done here or on a worker of a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.arguments import at_least, positive
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.io.text import written
from tiacrossfusion.runs.records import RecordFolder
from tiacrossfusion.runs.signals import go_on_unless_interrupted

if TYPE_CHECKING:
    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.runs.cluster import Cluster

_log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome", covariant=True)
Done = TypeVar("Done")


@dataclass(frozen=True)
class SlideOptions:
    """How the slides of a run are read.

    Attributes:
        mpp: microns per level-0 pixel for all slides, over what the files say.
        power: objective power of level 0 for all slides, over what the files say.
        batch_size: patches in a batch.
        num_workers: reading threads.
        overwrite: make finished results again, replacing files that this program wrote for these slides.
    """

    mpp: float | None = None
    power: float | None = None
    batch_size: int = 32
    num_workers: int = 2
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TiacfError: a count or a size makes no sense.
        """
        at_least("batch_size", self.batch_size, 1)
        at_least("num_workers", self.num_workers, 0)
        positive("mpp", self.mpp)
        positive("power", self.power)


class Job(Protocol[Outcome]):
    """The work on one slide. It can be pickled; so can its outcome."""

    def run(self, progress: Progress) -> Outcome:
        """Do it. What is wrong with the slide is in the outcome.

        Raises:
            TiacfError: nothing is wrong with the slide, and the others would fare no better.
        """

    def lost(self, message: str) -> Outcome:
        """Record as failed a slide whose worker did not come back with an outcome."""


@dataclass(frozen=True)
class Tools:
    """What slides are worked on with.

    Attributes:
        encoder: turns patches into features; None where there are bags already.
        bundle: the model; None where only features are made.
    """

    encoder: Encoder | None
    bundle: ModelBundle | None = None

    def load(self) -> Tools:
        """Return self: what is at hand needs no loading."""
        return self

    @property
    def identity(self) -> str:
        """What decides results; two workers must agree on it."""
        encoder = "" if self.encoder is None else self.encoder.spec.model_dump_json()
        return encoder + ("" if self.bundle is None else self.bundle.fingerprint)


@dataclass(frozen=True)
class ToolNames:
    """Names of tools, from which each process loads them once.

    Attributes:
        encoder: name of an encoder; None takes the model's.
        model: name of a model, folder of a bundle or hub id; None where only features are made.
        weights: local weights file of the encoder.
        device: torch device.
        precision: of the encoder's arithmetic; "auto" fits the device.
        with_encoder: False where there are bags already.
        plugins: modules or Python files that register the user's own encoders and networks.
    """

    encoder: str | None = None
    model: str | None = None
    weights: str | None = None
    device: str = "cpu"
    precision: str = "auto"
    with_encoder: bool = True
    plugins: tuple[str, ...] = ()

    def load(self) -> Tools:
        """Load them, or return what this process has loaded before.

        Raises:
            TiacfError: a name is unknown, a file missing or damaged, or the device is not there.
        """
        return _load(self)


@cache
def _load(names: ToolNames) -> Tools:
    from tiacrossfusion.encoders.loading import load_encoder
    from tiacrossfusion.encoders.stored import load_encoder_of
    from tiacrossfusion.io.arguments import usable_device
    from tiacrossfusion.io.plugins import load_plugins
    from tiacrossfusion.models.bundle import load_bundle

    load_plugins(names.plugins)
    usable_device(names.device)
    bundle = None if names.model is None else load_bundle(names.model, names.device)
    encoder = None
    how: Any = {"weights": names.weights, "device": names.device, "precision": names.precision}
    if names.encoder is not None:
        encoder = load_encoder(names.encoder, **how)
    elif bundle is not None and names.with_encoder:
        encoder = load_encoder_of(bundle.config.encoder, **how)
    return Tools(encoder, bundle)


def carry_out(
    jobs: Iterable[Job[Done]],
    total: int,
    folder: RecordFolder | None,
    cluster: Cluster | None,
    line: Callable[[Done], str],
    *,
    show_progress: bool,
) -> list[Done]:
    """Do jobs one by one here, or several at once on a cluster.

    Args:
        jobs: made as they are needed.
        total: their number.
        folder: where they write; its table is kept up to date.
        cluster: where they are done; None for this process.
        line: the console's line on an outcome.
        show_progress: draw bars and print a line for each.

    Returns:
        What became of each, in the order of the jobs.

    Raises:
        TiacfError: the output folder cannot be written, or the cluster is gone.
    """
    if cluster is not None and folder is None:
        raise UsageError("a cluster needs an output folder; results cannot be kept in memory")
    done: dict[int, Done] = {}
    with Progress(total, show=show_progress) as progress:
        try:
            stream = (
                cluster.run(jobs, folder)
                if cluster is not None and folder is not None
                else _here(jobs, progress)
            )
            with closing(stream):
                for index, outcome in stream:
                    done[index] = outcome
                    progress.slide_done(line(outcome) if show_progress else None)
                    if folder is not None:
                        folder.write_table_now_and_then()
        except OutputError:
            raise  # the table could not be written either
        except BaseException:
            if folder is not None:
                folder.write_table()
            raise
    if folder is not None:
        folder.write_table()
        folder.sweep()  # workers that were killed left something
    return [done[index] for index in range(total)]


def failure(error: Exception, source: str) -> str:
    """One line on why a slide failed; where it happened goes to the log.

    Args:
        error: what was raised.
        source: names the slide, where the error does not.

    Raises:
        KeyboardInterrupt: it did not fail, the program was interrupted.
    """
    go_on_unless_interrupted(error)
    if isinstance(error, TiacfError):
        _log.debug("%s failed", source, exc_info=error)  # for the command line's log file
        return written(str(error))
    _log.error("%s failed", source, exc_info=error)
    return written(f"{source}: unexpected {one_line(error)}; see the log")


def _here(jobs: Iterable[Job[Any]], progress: Progress) -> Generator[tuple[int, Any]]:
    for index, job in enumerate(jobs):
        yield index, job.run(progress)
