"""Bags of features with a planted prognosis, drawn without a slide."""

import math
import zlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tiacrossfusion import __version__
from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import UsageError
from tiacrossfusion.simulation.checks import require
from tiacrossfusion.simulation.cohort_folder import CohortFolder, SimulationTask
from tiacrossfusion.simulation.patterns import draw_patterns
from tiacrossfusion.simulation.planted import (
    PLACED,
    Scenario,
    check_scenario,
    draw_planted_cohort,
    slide_rng,
)
from tiacrossfusion.simulation.record import RecordOptions, with_record
from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

#: Name of the encoder in the provenance of simulated bags. There is no such encoder.
ENCODER_NAME = "simulated"

# The largest real bag has about 138,000 tokens at 20x.
_LARGEST_SIDE = 92
_WIDEST = 4096
_FOR_DIRECTIONS = 2026  # fixed, so that a model trained on one cohort can be applied to another
_SAMPLING = SamplingSpec()

_FACTORS, _SITES = 16, 4  # of the nuisance


@dataclass(frozen=True)
class BagOptions:
    """How the bags of a cohort are drawn.

    Attributes:
        scenario: of the cohort.
        encoder_width: number of features of a token (E).
        side: side of the 5x lattice: side * side tokens at 5x, 4 times as many at 10x, 16 times at 20x.
        auc: how well the pattern of a single token can be told from noise, in [0.5, 1).
        tissue: share of the 20x cells that are kept, in (0, 1], as irregular pieces with holes.
        nuisance: add features that are correlated within each scale, and a vector of the patient's site;
            neither has to do with survival.

    Raises:
        UsageError: a number is out of range.
    """

    scenario: Scenario
    encoder_width: int = 32
    side: int = 5
    auc: float = 0.95
    tissue: float = 1.0
    nuisance: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_scenario(self.scenario)
        widths = f"1 to {_WIDEST} features"
        require(1 <= self.encoder_width <= _WIDEST, "encoder_width", self.encoder_width, widths)
        sides = f"1 to {_LARGEST_SIDE} patches of 5x"
        require(1 <= self.side <= _LARGEST_SIDE, "side", self.side, sides)
        aucs = "0.5 (tokens with the pattern look like noise) to below 1"
        require(0.5 <= self.auc < 1, "auc", self.auc, aucs)
        shares = "a share of the patches above 0, at most 1 (all of them)"
        require(0 < self.tissue <= 1, "tissue", self.tissue, shares)


def draw_bag(
    row: Mapping[Hashable, Any], rng: np.random.Generator, options: BagOptions
) -> FeatureBag:
    """Draw the bag of one slide.

    Every token is Gaussian noise of unit variance. A token with the pattern of its scale (see
    `patterns.draw_patterns`) is shifted along a unit vector, one for each scale and the same in every bag,
    by `sqrt(2) * Phi^-1(auc)`: projected onto that vector, a token with the pattern ranks above one without
    it with probability `auc` (Bamber 1975, "The area above the ordinal dominance graph", for two normal
    distributions).

    Nuisance adds, to each token, 16 random factors along fixed directions with standard deviations that fall
    from 4 by a fifth each, and to each slide the vector of length 2 of one of 4 sites.

    Args:
        row: of a table of :func:`draw_planted_cohort` with the same scenario and side.
        rng: source of randomness.
        options: how it is drawn.

    Returns:
        Float16 features on nested grids of a slide of 20x.

    Raises:
        UsageError: the row is of another scenario or side.
    """
    if options.scenario not in PLACED and not math.isnan(row["overlap"]):
        raise UsageError(f"{row['slide']}: states an overlap, which {options.scenario} has not")
    width = options.encoder_width
    patterns = draw_patterns(
        row, rng, scenario=options.scenario, side=options.side, tissue=options.tissue
    )
    shift = math.sqrt(2) * NormalDist().inv_cdf(options.auc)
    scales = {}
    for scale, grid in patterns.grid.items():
        features = rng.standard_normal((len(grid), width), np.float32)
        has = patterns.has[scale]
        features[has] += np.float32(shift) * pattern_direction(scale, width)
        if options.nuisance:
            loadings, sites = _nuisance(scale, width)
            features += rng.standard_normal((len(grid), len(loadings)), np.float32) @ loadings
            features += sites[zlib.crc32(str(row["patient"]).encode()) % len(sites)]
        scales[scale] = ScaleFeatures(features.astype(np.float16), _bounds(grid, scale), grid)
    return FeatureBag(scales, _provenance(str(row["slide"]), width, options.side))


def draw_bags(cohort: pd.DataFrame, seed: int, options: BagOptions) -> Iterator[FeatureBag]:
    """Draw the bags of a cohort in memory, the same as :func:`simulate_bags` writes.

    Args:
        cohort: a table of :func:`draw_planted_cohort` with the same seed, scenario and side.
        seed: seed of the cohort.
        options: how they are drawn.

    Yields:
        The bag of each row, in order.

    Raises:
        UsageError: the cohort is of another scenario or side.
    """
    for number, row in enumerate(cohort.to_dict("records")):
        yield draw_bag(row, slide_rng(seed, number), options)


def simulate_bags(
    folder: str | Path,
    n_patients: int,
    seed: int,
    *,
    scenario: Scenario,
    strength: float = 1.5,
    censored_share: float = 1 / 3,
    slides_per_patient: int = 1,
    encoder_width: int = 32,
    side: int = 5,
    auc: float = 0.95,
    tissue: float = 1.0,
    nuisance: bool = False,
    record: RecordOptions | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Write a cohort of bags: `bags/<slide>.zarr` and `cohort.csv`.

    Bags of the same cohort that already exist in the folder are kept.

    Args:
        folder: where to write; made if missing.
        n_patients: number of patients.
        seed: of everything random.
        scenario: what the log-hazard depends on.
        strength: standard deviation of the log-hazard.
        censored_share: share of the patients whose death is not observed.
        slides_per_patient: number of bags of each patient.
        encoder_width: see `BagOptions`.
        side: see `BagOptions`.
        auc: see `BagOptions`.
        tissue: see `BagOptions`.
        nuisance: see `BagOptions`.
        record: plant a clinical record beside the slides, see `record.add_record`.
        progress: show a progress bar.

    Returns:
        The table of :func:`draw_planted_cohort`.

    Raises:
        TiacfError: a number is out of range, or the folder holds another cohort or cannot be written.
    """
    options = BagOptions(scenario, encoder_width, side, auc, tissue, nuisance)
    planted: dict[str, Any] = {
        "scenario": scenario,
        "n_patients": n_patients,
        "seed": seed,
        "strength": strength,
        "censored_share": censored_share,
        "slides_per_patient": slides_per_patient,
    }
    cohort = draw_planted_cohort(**planted, side=side)
    cohort, planted = with_record(cohort, planted, record)
    target = CohortFolder(Path(folder), "bags", planted | asdict(options))
    target.open(cohort)
    tasks = []
    for number, row in enumerate(cohort.to_dict("records")):
        path = target.items / f"{row['slide']}.zarr"
        draw = partial(_write_bag, path, row, slide_rng(seed, number), options)
        tasks.append(SimulationTask(target, (path,), draw))
    target.run(tasks, progress=progress)
    return cohort


def _write_bag(
    path: Path,
    row: Mapping[Hashable, Any],
    rng: np.random.Generator,
    options: BagOptions,
) -> None:
    draw_bag(row, rng, options).save(path)


def pattern_direction(scale: str, width: int) -> npt.NDArray[np.float32]:
    """Return the unit vector (E,) along which tokens with the pattern of a scale are shifted."""
    rng = np.random.default_rng([_FOR_DIRECTIONS, SCALES.index(scale)])
    vector = rng.standard_normal(width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@cache
def _nuisance(scale: str, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the loadings (16, E) of the correlated features of a scale, and the vectors (4, E) of sites."""
    rng = np.random.default_rng([_FOR_DIRECTIONS, 3 + SCALES.index(scale)])
    loadings = rng.standard_normal((_FACTORS, width))
    loadings *= (4 * 0.8 ** np.arange(_FACTORS) / np.linalg.norm(loadings, axis=1))[:, None]
    sites = rng.standard_normal((_SITES, width))
    sites *= 2 / np.linalg.norm(sites, axis=1, keepdims=True)
    return loadings.astype(np.float32), sites.astype(np.float32)


def _bounds(grid: npt.NDArray[np.int32], scale: str) -> npt.NDArray[np.int64]:
    """Level-0 bounds (N, 4) of cells of a scale."""
    length = _SAMPLING.patch_size * CELLS_20X[scale]
    return np.concatenate([grid, grid + 1], axis=1).astype(np.int64) * length


def _provenance(slide: str, encoder_width: int, side: int) -> Provenance:
    length = side * _SAMPLING.patch_size * CELLS_20X["5x"]
    return Provenance(
        slide=slide,
        slide_size=0,  # there is no file
        slide_hash="",
        dimensions=(length, length),
        mpp=(_SAMPLING.resolution("20x"),) * 2,
        power=20.0,
        offset=(0, 0),
        mask="none",
        sampling=_SAMPLING,
        encoder=EncoderSpec(
            name=ENCODER_NAME,
            width=encoder_width,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            input_size=_SAMPLING.patch_size,
        ),
        versions={"tiacrossfusion": __version__, "numpy": np.__version__},
    )
