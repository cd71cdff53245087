"""Cohorts of rendered slides with a planted prognosis."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from tiacrossfusion.errors import UsageError
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.runs.process_pool import ProcessPool
from tiacrossfusion.simulation.aperio import check_numbers
from tiacrossfusion.simulation.cohort_folder import TRUTH, CohortFolder, SimulationTask
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
    cohort, so that a run that was stopped is resumed.

    Args:
        folder: Where to write; made when it does not exist.
        n_patients: Number of patients.
        seed: Seed of everything random.
        scenario: What the log-hazard depends on, see :func:`draw_planted_cohort`.
        strength: Standard deviation of the log-hazard; 0 plants nothing.
        censored_share: Share of the patients whose death is not observed, in [0, 1).
        slides_per_patient: Number of slides of each patient, which share the burdens.
        size: Width and height of level 0, in pixels.
        mpp: Micrometres per pixel of level 0.
        processes: Slides drawn at the same time. With more than one, a script that calls this needs
            `if __name__ == "__main__":`, as for all of `multiprocessing`.
        progress: Whether to show a progress bar.

    Returns:
        The table, as :func:`draw_planted_cohort` gives it, with file names of slides.

    Raises:
        TiacfError: a number is out of its range, or the folder holds another cohort or cannot be written.
    """
    check_numbers(size, mpp, seed)
    if processes < 1:
        raise UsageError(f"processes is {processes}; give at least 1.")
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
    tasks = [
        _SlideTask(
            slide=target.items / row["slide"],
            truth=truths / f"{Path(row['slide']).stem}.npz",
            parameters=TissueParameters(row["coarse_burden"], _GLANDS, row["fine_burden"]),
            overlap=None if math.isnan(row["overlap"]) else row["overlap"],
            log_hazard=row["log_hazard"],
            size=size,
            mpp=mpp,
            seed=int(slide_rng(seed, number).integers(2**32)),
            folder=target,
        )
        for number, row in enumerate(cohort.to_dict("records"))
    ]
    waiting = [task for task in tasks if not task.finished]
    together = processes > 1 and len(waiting) > 1
    target.run(waiting, ProcessPool(processes) if together else None, progress=progress)
    return cohort


@dataclass
class _SlideTask(SimulationTask):
    """One slide to render."""

    slide: Path
    truth: Path
    parameters: TissueParameters
    overlap: float | None
    log_hazard: float
    size: tuple[int, int]
    mpp: float
    seed: int
    folder: CohortFolder

    def __post_init__(self) -> None:
        """Name the slide."""
        self.label = self.slide.name

    @property
    def finished(self) -> bool:
        """Whether slide and truth are in place; each appears under its name when it is whole."""
        return self.slide.exists() and self.truth.exists()

    def draw(self) -> None:
        """Render the slide, then write its truth."""
        truth = render_slide(
            self.slide,
            self.parameters,
            size=self.size,
            mpp=self.mpp,
            seed=self.seed,
            overlap=self.overlap,
        )
        with replacing(self.truth) as part:
            replace(truth, log_hazard=self.log_hazard).save(part)
