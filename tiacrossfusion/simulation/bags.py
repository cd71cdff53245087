"""Bags of features with a planted prognosis, drawn without a slide."""

import math
from collections.abc import Hashable, Iterator, Mapping
from functools import partial
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
from tiacrossfusion.simulation.planted import Scenario, draw_planted_cohort, slide_rng
from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

#: Name of the encoder in the provenance of simulated bags. There is no such encoder.
ENCODER_NAME = "simulated"

# The largest real bag has about 138,000 tokens at 20x.
_LARGEST_SIDE = 92
_WIDEST = 4096
_FOR_DIRECTIONS = 2026  # fixed, so that a model trained on one cohort can be applied to another
_SAMPLING = SamplingSpec()

Flags = npt.NDArray[np.bool_]


def draw_bag(
    row: Mapping[Hashable, Any],
    rng: np.random.Generator,
    *,
    encoder_width: int = 32,
    side: int = 5,
    auc: float = 0.95,
) -> FeatureBag:
    """Draw the bag of one slide.

    Every token is Gaussian noise of unit variance. A token with the pattern of its scale (5x: the coarse
    pattern, 20x: the fine one; 10x has none) is shifted along a unit vector, one for each of the two
    scales and the same in every bag, by `sqrt(2) * Phi^-1(auc)`: projected onto that vector, a token with
    the pattern ranks above one without it with probability `auc` (Bamber 1975, "The area above the ordinal
    dominance graph", for two normal distributions).

    Tokens with a pattern have random positions. Where the row states an overlap, that share of the fine
    pattern lies within 5x cells of the coarse pattern.

    Args:
        row: `slide`, `coarse_burden`, `fine_burden` and `overlap`, from a table of
            :func:`draw_planted_cohort` with the same `side`.
        rng: source of randomness.
        encoder_width: number of features of a token (E).
        side: side of the 5x lattice: side * side tokens at 5x, 4 times as many at 10x, 16 times at 20x.
        auc: how well the pattern of a single token can be told from noise, in [0.5, 1).

    Returns:
        Float16 features on complete nested grids, of a slide of 20x that is all tissue.

    Raises:
        UsageError: a number is out of range.
    """
    _check(encoder_width, side, auc)
    coarse, fine = _patterns(row, rng, side)
    shift = math.sqrt(2) * NormalDist().inv_cdf(auc)
    scales = {}
    for scale in SCALES:
        grid = _grid(side, scale)
        features = rng.standard_normal((len(grid), encoder_width), np.float32)
        pattern = {"5x": coarse, "20x": fine}.get(scale)
        if pattern is not None:
            features[pattern] += np.float32(shift) * _direction(scale, encoder_width)
        scales[scale] = ScaleFeatures(features.astype(np.float16), _bounds(grid, scale), grid)
    return FeatureBag(scales, _provenance(str(row["slide"]), encoder_width, side))


def draw_bags(
    cohort: pd.DataFrame,
    seed: int,
    *,
    encoder_width: int = 32,
    side: int = 5,
    auc: float = 0.95,
) -> Iterator[FeatureBag]:
    """Draw the bags of a cohort in memory, the same as :func:`simulate_bags` writes.

    Args:
        cohort: a table of :func:`draw_planted_cohort` with the same `seed` and `side`.
        seed: seed of the cohort.
        encoder_width: see :func:`draw_bag`.
        side: see :func:`draw_bag`.
        auc: see :func:`draw_bag`.

    Yields:
        The bag of each row, in order.

    Raises:
        UsageError: a number is out of range.
    """
    for number, row in enumerate(cohort.to_dict("records")):
        yield draw_bag(
            row, slide_rng(seed, number), encoder_width=encoder_width, side=side, auc=auc
        )


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
        encoder_width: see :func:`draw_bag`.
        side: see :func:`draw_bag`.
        auc: see :func:`draw_bag`.
        progress: show a progress bar.

    Returns:
        The table of :func:`draw_planted_cohort`.

    Raises:
        TiacfError: a number is out of range, or the folder holds another cohort or cannot be written.
    """
    _check(encoder_width, side, auc)
    planted: dict[str, Any] = {
        "scenario": scenario,
        "n_patients": n_patients,
        "seed": seed,
        "strength": strength,
        "censored_share": censored_share,
        "slides_per_patient": slides_per_patient,
    }
    features = {"encoder_width": encoder_width, "side": side, "auc": auc}
    cohort = draw_planted_cohort(**planted, side=side)
    target = CohortFolder(Path(folder), "bags", {**planted, **features})
    target.open(cohort)
    tasks = []
    for number, row in enumerate(cohort.to_dict("records")):
        path = target.items / f"{row['slide']}.zarr"
        draw = partial(_write_bag, path, row, slide_rng(seed, number), features)
        tasks.append(SimulationTask(target, (path,), draw))
    target.run(tasks, progress=progress)
    return cohort


def _write_bag(
    path: Path,
    row: Mapping[Hashable, Any],
    rng: np.random.Generator,
    features: Mapping[str, Any],
) -> None:
    draw_bag(row, rng, **features).save(path)


def _check(encoder_width: int, side: int, auc: float) -> None:
    """Raise a `UsageError` if bags cannot be drawn."""
    widths = f"1 to {_WIDEST} features"
    require(1 <= encoder_width <= _WIDEST, "encoder_width", encoder_width, widths)
    require(1 <= side <= _LARGEST_SIDE, "side", side, f"1 to {_LARGEST_SIDE} patches of 5x")
    require(0.5 <= auc < 1, "auc", auc, "0.5 (tokens with the pattern look like noise) to below 1")


def _patterns(
    row: Mapping[Hashable, Any], rng: np.random.Generator, side: int
) -> tuple[Flags, Flags]:
    """Which tokens have the pattern of their scale: (N5,) at 5x and (N20,) at 20x."""
    cells = _grid(side, "20x") // CELLS_20X["5x"]
    parent = cells[:, 1] * side + cells[:, 0]
    coarse, fine = np.zeros(side**2, bool), np.zeros(len(parent), bool)

    def choose(tokens: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
        return rng.choice(tokens, count, replace=False)

    coarse[choose(np.arange(len(coarse)), _count(row, "coarse_burden", len(coarse)))] = True
    n_fine = _count(row, "fine_burden", len(fine))
    if math.isnan(row["overlap"]):
        fine[choose(np.arange(len(fine)), n_fine)] = True
    else:
        n_inside, inside = _count(row, "overlap", n_fine), coarse[parent]
        fine[choose(np.flatnonzero(inside), n_inside)] = True
        fine[choose(np.flatnonzero(~inside), n_fine - n_inside)] = True
    return coarse, fine


def _count(row: Mapping[Hashable, Any], column: str, n_tokens: int) -> int:
    """Number of tokens that the share in a column means."""
    count = row[column] * n_tokens
    # A share that was written to a table and read back is exact up to the last digits.
    if not abs(count - round(count)) < 1e-6:
        raise UsageError(
            f"{row['slide']}: {column} {row[column]:.4f} is not a whole number of {n_tokens} tokens; give "
            "the side that the cohort was drawn with."
        )
    return round(count)


def _direction(scale: str, width: int) -> npt.NDArray[np.float32]:
    """Unit vector (E,) along which tokens with the pattern of a scale are shifted."""
    rng = np.random.default_rng([_FOR_DIRECTIONS, SCALES.index(scale)])
    vector = rng.standard_normal(width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _grid(side: int, scale: str) -> npt.NDArray[np.int32]:
    """Column and row (N, 2) of every cell of a scale, in row-major order."""
    length = side * CELLS_20X["5x"] // CELLS_20X[scale]
    rows, columns = np.mgrid[0:length, 0:length]
    return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.int32)


def _bounds(grid: npt.NDArray[np.int32], scale: str) -> npt.NDArray[np.int64]:
    """Level-0 bounds (N, 4) of cells of a scale."""
    length = _SAMPLING.patch_size * CELLS_20X[scale]
    return np.concatenate([grid, grid + 1], axis=1).astype(np.int64) * length


def _provenance(slide: str, encoder_width: int, side: int) -> Provenance:
    length = side * _SAMPLING.patch_size * CELLS_20X["5x"]
    return Provenance(
        slide=slide,
        slide_size=0,  # there is no file
        slide_mtime_ns=0,
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
