"""Planted cohorts for reading a part of the families: fine patterns that 5x shows more or less."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.cohorts.folds import Fold
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.models.bundle import ModelBundle, load_bundle
from tiacrossfusion.simulation.bags import BagOptions, draw_bag, pattern_direction
from tiacrossfusion.simulation.fields import smooth_field
from tiacrossfusion.simulation.follow_up import follow_up
from tiacrossfusion.simulation.planted import draw_planted_cohort
from tiacrossfusion.training.config import make_config
from tiacrossfusion.training.plan import Cohort
from tiacrossfusion.training.run import TrainingRun

SIDE, WIDTH, SHIFT = 16, 32, 2.33  # AUC of a token .95


@dataclass(frozen=True)
class Planted:
    """A kind of cohort.

    Attributes:
        kind: "diffuse", "colocation" or "rare".
        visible: correlation of one 5x feature with the fine pattern's density in its cell.
        middle: correlation of one feature of the 10x tokens with it.
    """

    kind: str
    visible: float
    middle: float = 0.0

    def folder(self, seed: int) -> str:
        """Return the name of a folder for one cohort."""
        return f"{self.name.replace(', ', '-').replace(' ', '')}-{seed}"

    @property
    def name(self) -> str:
        """Name in tables."""
        seen = f"{self.kind}, r {self.visible:g}"
        return f"{seen}, 10x r {self.middle:g}" if self.middle else seen


def draw(planted: Planted, patients: int, seed: int) -> tuple[Cohort, pd.DataFrame]:
    """Draw bags and follow-up: log-hazard .6 and .8 times the coarse and the fine burden, in SD."""
    rng = np.random.default_rng([seed, 77])
    slides = [_slide(planted, rng) for _ in range(patients)]
    coarse, fine = (np.array([s[i] for s in slides]) for i in (0, 1))
    coarse, fine = (
        np.where(x.std() > 0, (x - x.mean()) / max(x.std(), 1e-9), 0) for x in (coarse, fine)
    )
    eta = 0.6 * coarse + 0.8 * fine if coarse.any() else fine
    density = np.concatenate([s[2] for s in slides])
    mean, sd = density.mean(), density.std()
    template = draw_bag(
        draw_planted_cohort(1, 0, scenario="coarse", side=2).iloc[0].to_dict(),
        np.random.default_rng(0),
        BagOptions("coarse", WIDTH, 2),
    )
    names = [f"S{seed}-{i:04d}" for i in range(patients)]
    bags = {
        name: _bag(planted, rng, slide, (mean, sd), name, template)
        for name, slide in zip(names, slides, strict=True)
    }
    time, event = follow_up(
        eta,
        rng.standard_exponential(patients),
        rng.standard_exponential(patients),
        censored_share=0.3,
    )
    table = pd.DataFrame(
        {"slide": names, "patient": names, "time": time, "event": event, "log_hazard": eta}
    )
    checked = CohortTable(
        table.set_index("patient")[["time", "event"]].sort_index(),
        table[["slide", "patient"]],
        "months",
        "planted",
    )
    return Cohort(planted.kind, checked, bags), table


def _slide(
    planted: Planted, rng: np.random.Generator
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Return what drives the hazard at 5x and 20x, the fine density and the place of the coarse."""
    field = smooth_field(rng, (SIDE, SIDE), 12.0)
    if planted.kind == "colocation":
        has = np.zeros(SIDE**2, bool)
        has[rng.permutation(SIDE**2)[: SIDE**2 // 2]] = True
        overlap = rng.random()
        return 0.0, overlap, np.where(has, overlap, 1 - overlap), has
    burden = rng.random()
    has = rng.random(SIDE**2) < burden
    if planted.kind == "rare":
        cut = np.quantile(field, 1 - 0.1 * rng.random())
        density = np.where(field > cut, 0.8, 0.0).ravel()
    else:
        level = rng.random() * 0.9 + 0.05
        density = 1 / (1 + np.exp(-(np.log(level / (1 - level)) + 2.5 * field.ravel())))
    return burden, float(density.mean()), density, has


def _bag(
    planted: Planted,
    rng: np.random.Generator,
    slide: tuple[float, float, np.ndarray, np.ndarray],
    moments: tuple[float, float],
    name: str,
    template: FeatureBag,
) -> FeatureBag:
    """Draw the tokens: 1 to 4 10x cells in each 5x cell, with all their 20x cells."""
    _, _, density, has = slide
    rows, columns = np.divmod(np.arange(SIDE**2), SIDE)
    grid5 = np.stack([columns, rows], 1)
    quarter = np.array([(x, y) for y in (0, 1) for x in (0, 1)])
    kept = [rng.permutation(4)[: rng.integers(1, 5)] for _ in grid5]
    family10 = np.repeat(np.arange(len(grid5)), [len(k) for k in kept])
    grid10 = 2 * grid5[family10] + quarter[np.concatenate(kept)]
    family20 = np.repeat(family10, 4)
    grid20 = 2 * np.repeat(grid10, 4, axis=0) + np.tile(quarter, (len(grid10), 1))
    z = (density - moments[0]) / moments[1]
    features = {}
    for scale, grid, family in (
        ("5x", grid5, None),
        ("10x", grid10, family10),
        ("20x", grid20, family20),
    ):
        x = rng.standard_normal((len(grid), WIDTH)).astype(np.float32)
        own = pattern_direction(scale, WIDTH)
        if scale == "20x":
            x[rng.random(len(grid)) < density[family]] += SHIFT * own
        elif scale == "5x":
            x[has] += SHIFT * own
        seen = {"5x": planted.visible, "10x": planted.middle, "20x": 0.0}[scale]
        if seen:
            shown = _other(own)
            signal = seen * z[slice(None) if family is None else family]
            noise = np.sqrt(1 - seen**2) * rng.standard_normal(len(grid))
            x += ((signal + noise) - x @ shown)[:, None].astype(np.float32) * shown
        order = np.lexsort((grid[:, 0], grid[:, 1]))
        length = 256 * {"5x": 4, "10x": 2, "20x": 1}[scale]
        places = grid[order].astype(np.int32)
        bounds = np.concatenate([places, places + 1], axis=1).astype(np.int64) * length
        features[scale] = ScaleFeatures(x[order].astype(np.float16), bounds, places)
    side = SIDE * 4 * 256
    made = template.provenance.model_copy(update={"slide": name, "dimensions": (side, side)})
    return FeatureBag(features, made)


def _other(direction: np.ndarray) -> np.ndarray:
    """Return a unit vector at right angles to a direction."""
    vector = np.roll(direction, 1) - (np.roll(direction, 1) @ direction) * direction
    return vector / np.linalg.norm(vector)


def one_thread() -> None:
    """Compute on one thread, without warnings: cohorts are judged beside each other."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def train_holdout(
    place: Path, cohort: Cohort, model: str, test_share: float, **settings: Any
) -> tuple[ModelBundle, Fold]:
    """Train a model on the patients outside one test part; what the folder has is not trained again."""
    config = make_config(
        {
            "time_unit": "months",
            "models": (model,),
            "protocol": {"protocol": "holdout", "test_share": test_share},
            **settings,
        },
        "benchmark",
    )
    run = TrainingRun(place, cohort, config, say=lambda _: None)
    run.fit(model)
    return load_bundle(place / model / "fold-0" / "bundle"), run.plan.folds[0]
