"""Cohorts of rendered slides with a planted prognosis."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.runs.process_pool import ProcessPool
from tiacrossfusion.simulation.aperio import check_numbers
from tiacrossfusion.simulation.checks import require
from tiacrossfusion.simulation.cohort_folder import TRUTH, CohortFolder, SimulationTask
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.planted import (
    Scenario,
    check_scenario,
    draw_planted_cohort,
    slide_rng,
)
from tiacrossfusion.simulation.record import RecordOptions, with_record
from tiacrossfusion.simulation.scenarios import OF_SLIDES
from tiacrossfusion.simulation.slide import render_slide

# Glands are not part of the planted hazard: half of every tumour has lost them.
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
    record: RecordOptions | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Render a cohort of slides: `slides/<slide>`, `truth/<stem>.npz` and `cohort.csv`.

    The coarse burden is that of the architecture, the fine one that of the nuclei; the burden of the
    glands is one half on every slide. Slides of the same cohort that already exist in the folder are
    kept, so an interrupted run can be resumed.

    Args:
        folder: where to write; made if missing.
        n_patients: number of patients.
        seed: of everything random.
        scenario: what the log-hazard depends on.
        strength: standard deviation of the log-hazard.
        censored_share: share of the patients whose death is not observed.
        slides_per_patient: number of slides of each patient.
        size: width and height of level 0, in pixels.
        mpp: micrometres per pixel of level 0.
        processes: slides drawn at the same time. With more than one, a script that calls this needs
            `if __name__ == "__main__":`, as for all of `multiprocessing`.
        record: plant a clinical record beside the slides, see `record.add_record`.
        progress: show a progress bar.

    Returns:
        The table of :func:`draw_planted_cohort`, with file names of slides.

    Raises:
        TiacfError: a number is out of range, or the folder holds another cohort or cannot be written.
    """
    check_numbers(size, mpp, seed)
    check_scenario(scenario, OF_SLIDES)
    require(processes >= 1, "processes", processes, "at least 1")
    planted: dict[str, Any] = {
        "scenario": scenario,
        "n_patients": n_patients,
        "seed": seed,
        "strength": strength,
        "censored_share": censored_share,
        "slides_per_patient": slides_per_patient,
    }
    cohort = draw_planted_cohort(**planted)
    cohort["slide"] += ".svs"
    cohort, planted = with_record(cohort, planted, record)
    target = CohortFolder(Path(folder), "slides", {**planted, "size": list(size), "mpp": mpp})
    target.open(cohort)
    truths = target.path / TRUTH
    with target.writing():
        truths.mkdir(exist_ok=True)
    tasks = []
    for number, row in enumerate(cohort.to_dict("records")):
        slide = target.items / row["slide"]
        truth = truths / f"{slide.stem}.npz"
        draw = partial(
            _write_slide,
            slide,
            truth,
            row["log_hazard"],
            TissueParameters(row["coarse_burden"], _GLANDS, row["fine_burden"]),
            size=size,
            mpp=mpp,
            seed=int(slide_rng(seed, number).integers(2**32)),
            overlap=None if math.isnan(row["overlap"]) else row["overlap"],
        )
        tasks.append(SimulationTask(target, (slide, truth), draw))
    waiting = [task for task in tasks if not task.finished]
    several = processes > 1 and len(waiting) > 1
    target.run(waiting, ProcessPool(processes) if several else None, progress=progress)
    return cohort


def _write_slide(
    slide: Path, truth: Path, log_hazard: float, parameters: TissueParameters, **options: Any
) -> None:
    """Render a slide, then write its truth with the log-hazard of the cohort."""
    planted = render_slide(slide, parameters, **options)
    with replacing(truth) as part:
        replace(planted, log_hazard=log_hazard).save(part)
