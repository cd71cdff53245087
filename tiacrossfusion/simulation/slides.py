"""Cohorts of rendered slides with a planted prognosis."""

import math
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from types import FrameType

import pandas as pd
from tqdm.auto import tqdm

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.simulation.aperio import check_numbers
from tiacrossfusion.simulation.cohort_folder import TRUTH, CohortFolder
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.planted import Scenario, draw_planted_cohort, slide_rng
from tiacrossfusion.simulation.slide import render_slide

# Glands are no part of the planted hazard: half of every tumour has lost them.
_GLANDS = 0.5


def simulate_slides(
    folder: str | Path,
    n_patients: int,
    seed: int,
    *,
    scenario: Scenario,
    strength: float = 1.5,
    censored_share: float = 1 / 3,
    slides_per_patient: int = 1,
    size: tuple[int, int] = (4096, 4096),
    mpp: float = 0.5,
    processes: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """Render a cohort of slides: `slides/<slide>`, `truth/<stem>.npz` and `cohort.csv`.

    The coarse burden is that of the architecture, the fine one that of the nuclei; glands are at one
    half on every slide. Slides that the folder holds already are kept when they are of the same
    cohort, so that a run that was stopped goes on.

    Args:
        folder (str | Path):
            Where to write; made when it does not exist.
        n_patients (int):
            Number of patients.
        seed (int):
            Seed of everything random.
        scenario (Scenario):
            What the log-hazard depends on, see :func:`draw_planted_cohort`.
        strength (float):
            Standard deviation of the log-hazard; 0 plants nothing.
        censored_share (float):
            Share of the patients whose death is not observed, in [0, 1).
        slides_per_patient (int):
            Number of slides of each patient, which share the burdens.
        size (tuple[int, int]):
            Width and height of level 0, in pixels.
        mpp (float):
            Micrometres per pixel of level 0.
        processes (int):
            Slides drawn at the same time. With more than one, a script that calls this needs
            `if __name__ == "__main__":`, as for all of `multiprocessing`.
        progress (bool):
            Whether to show a progress bar.

    Returns:
        pandas.DataFrame:
            The table, as :func:`draw_planted_cohort` gives it, with file names of slides.

    Raises:
        TiacfError:
            If a number is out of its range, or the folder holds another cohort or cannot be written.

    """
    check_numbers(size, mpp, seed)
    if processes < 1:
        msg = f"processes is {processes}; give at least 1."
        raise UsageError(msg)
    cohort = draw_planted_cohort(
        n_patients,
        seed,
        scenario=scenario,
        strength=strength,
        censored_share=censored_share,
        slides_per_patient=slides_per_patient,
    )
    cohort["slide"] += ".svs"
    options = {
        "scenario": scenario,
        "n_patients": n_patients,
        "seed": seed,
        "strength": strength,
        "censored_share": censored_share,
        "slides_per_patient": slides_per_patient,
        "size": list(size),
        "mpp": mpp,
    }
    target = CohortFolder(Path(folder), "slides", options)
    target.open(cohort)
    truths = target.path / TRUTH
    with target.writing():
        truths.mkdir(exist_ok=True)
    jobs = [
        _Job(
            slide=target.items / row["slide"],
            truth=truths / f"{Path(row['slide']).stem}.npz",
            parameters=TissueParameters(row["coarse_burden"], _GLANDS, row["fine_burden"]),
            overlap=None if math.isnan(row["overlap"]) else row["overlap"],
            log_hazard=row["log_hazard"],
            size=size,
            mpp=mpp,
            seed=int(slide_rng(seed, number).integers(2**32)),
        )
        for number, row in enumerate(cohort.to_dict("records"))
    ]
    waiting = [job for job in jobs if not job.finished]
    bar = tqdm(
        total=len(jobs),
        initial=len(jobs) - len(waiting),
        desc="Slides",
        unit="slide",
        disable=None if progress else True,
    )
    with bar, target.writing(), _done(waiting, processes) as done:
        for _ in done:
            bar.update(1)
    return cohort


@dataclass(frozen=True)
class _Job:
    """One slide to render."""

    slide: Path
    truth: Path
    parameters: TissueParameters
    overlap: float | None
    log_hazard: float
    size: tuple[int, int]
    mpp: float
    seed: int

    @property
    def finished(self) -> bool:
        """Whether slide and truth are there; each appears under its name when it is whole."""
        return self.slide.exists() and self.truth.exists()

    def run(self) -> None:
        truth = render_slide(
            self.slide,
            self.parameters,
            size=self.size,
            mpp=self.mpp,
            seed=self.seed,
            overlap=self.overlap,
        )
        part = self.truth.with_name(f".{self.truth.name}.part")
        try:
            replace(truth, log_hazard=self.log_hazard).save(part)
            part.replace(self.truth)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _done(jobs: list[_Job], processes: int) -> Iterator[Iterator[None]]:
    """Render slides; what is given yields once for each that is done."""
    if processes == 1 or len(jobs) < 2:
        yield map(_Job.run, jobs)
        return
    try:
        with _unseen_by_new_processes():  # one keeps an account of the pool's locks
            pool = ProcessPoolExecutor(
                min(processes, len(jobs)),
                get_context("spawn"),  # a fork would copy locks of threads that it does not copy
                _end_when_told,
            )
    except OSError as error:  # no /dev/shm, for one, where their locks would lie
        msg = f"{processes} processes cannot work together here ({error.strerror}); give 1 process."
        raise TiacfError(msg) from error
    others = set(active_children())
    try:
        with _unseen_by_new_processes():
            futures = [pool.submit(_draw, job) for job in jobs]
        yield (future.result() for future in as_completed(futures))
    except KeyboardInterrupt:
        for process in set(active_children()) - others:
            process.terminate()
        raise
    except BrokenProcessPool as error:
        msg = (
            "a process that drew slides was ended from outside, perhaps for its memory; finished slides "
            f"are kept: run it again with fewer than {processes} processes."
        )
        raise TiacfError(msg) from error
    finally:  # on an error the other slides need not be drawn first
        pool.shutdown(cancel_futures=True)


@contextmanager
def _unseen_by_new_processes() -> Iterator[None]:
    """Have processes that are started meanwhile never see what a terminal sends to them too."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_when_told() -> None:
    """Have this process end with what it is drawing removed, or at once when its parent is gone."""
    signal.signal(signal.SIGTERM, _exit)
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _exit(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not break into the tidying up
    sys.exit()


def _draw(job: _Job) -> None:
    """Do a job; a process that was told to end does not take the next one."""
    try:
        job.run()
    except SystemExit:
        os._exit(1)


def _end_with(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
    os._exit(1)
