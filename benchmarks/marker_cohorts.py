"""Cohorts of bags with kinds of tissue, of which the share of one or the place of two goes with survival."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.simulation.bags import BagOptions, draw_bag
from tiacrossfusion.simulation.fields import smooth_field
from tiacrossfusion.simulation.follow_up import follow_up
from tiacrossfusion.simulation.planted import draw_planted_cohort

#: Dirichlet weights of the kinds of tissue: two are common, two are rare.
WEIGHTS = (4.0, 3.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.3)


@dataclass(frozen=True)
class Kind:
    """What is planted.

    Attributes:
        planted: "none", "share" (of the kind `marker`), or "place" (kind 5 beside kind 4, or away).
        marker: number of the kind.
        strength: SD of the log-hazard.
        apart: distance of the kinds' centres from the common centre, in SDs of a token.
    """

    planted: str
    marker: int = 4
    strength: float = 0.7
    apart: float = 4.0


@dataclass(frozen=True)
class Drawn:
    """A cohort on disk.

    Attributes:
        bags: folder.
        table: path of the follow-up.
        kinds: (K, E) centres of the kinds of tissue.
    """

    bags: Path
    table: Path
    kinds: np.ndarray


def draw(
    kind: Kind,
    patients: int,
    side: int,
    width: int,
    seed: int,
    folder: Path,
    dtype: str = "float16",
) -> Drawn:
    """Draw bags of 20x tokens on a lattice of `side` columns, and follow-up."""
    rng = np.random.default_rng([seed, 18])
    number = len(WEIGHTS)
    centres = rng.standard_normal((number, width))
    centres *= kind.apart / np.linalg.norm(centres, axis=1)[:, None]
    template = draw_bag(
        draw_planted_cohort(1, 0, scenario="coarse", side=2).iloc[0].to_dict(),
        np.random.default_rng(0),
        BagOptions("coarse", width, 2),
    )
    bags = folder / "bags"
    bags.mkdir(parents=True, exist_ok=True)
    names = [f"P{seed}-{i:04d}" for i in range(patients)]
    burden = np.zeros(patients)
    for place, name in enumerate(names):
        labels, burden[place] = _labels(kind, rng, side)
        tokens = centres[labels] + rng.standard_normal((side * side, width), np.float32)
        rows, columns = np.divmod(np.arange(side * side), side)
        grid = np.stack([columns, rows], 1).astype(np.int32)
        bounds = np.concatenate([grid, grid + 1], 1).astype(np.int64) * 256
        made = template.provenance.model_copy(
            update={"slide": name, "dimensions": (side * 256, side * 256)}
        )
        scales = {"20x": ScaleFeatures(tokens.astype(dtype), bounds, grid)}
        FeatureBag(scales, made).save(bags / f"{name}.zarr")
    spread = burden.std()
    eta = kind.strength * (burden - burden.mean()) / spread if spread else burden
    time, event = follow_up(
        eta,
        rng.standard_exponential(patients),
        rng.standard_exponential(patients),
        censored_share=0.4,
    )
    table = folder / "table.csv"
    pd.DataFrame({"slide": names, "patient": names, "time": time, "event": event}).to_csv(
        table, index=False
    )
    return Drawn(bags, table, centres)


def _labels(kind: Kind, rng: np.random.Generator, side: int) -> tuple[np.ndarray, float]:
    """Return the kind of tissue of each cell (side * side,), and what drives the hazard."""
    share = rng.dirichlet(WEIGHTS)
    fields = [smooth_field(rng, (side, side), 8.0).ravel() for _ in WEIGHTS]
    beside = rng.random()
    # The kind with the largest field plus offset, with offsets that give the shares.
    offset = np.log(np.maximum(share, 1e-4))
    for _ in range(25):
        found = np.argmax(np.stack(fields) + offset[:, None], axis=0)
        got = np.bincount(found, minlength=len(share)) / len(found)
        offset += 0.5 * np.log(np.maximum(share, 1e-4) / np.maximum(got, 1e-4))
    labels = np.argmax(np.stack(fields) + offset[:, None], axis=0)
    if kind.planted == "place":
        _place(rng, labels, side, beside)
    if kind.planted == "share":
        return labels, float((labels == kind.marker).mean())
    return labels, beside if kind.planted == "place" else 0.0


def _place(rng: np.random.Generator, labels: np.ndarray, side: int, beside: float) -> None:
    """Move kinds 4 and 5: a share `beside` of the cells of kind 5 goes around kind 4, the others anywhere.

    Both change places with the cells that were there, so that no share changes.
    """
    field = smooth_field(rng, (side, side), 8.0).ravel()
    order = np.argsort(-field, kind="stable")
    four, five = np.flatnonzero(labels == 4), np.flatnonzero(labels == 5)
    others = labels[(labels != 4) & (labels != 5)]
    inner, rest = order[: len(four)], order[len(four) :]
    near = round(beside * len(five))
    ring, far = rest[:near], rest[near:]
    elsewhere = far[np.argsort(-smooth_field(rng, (side, side), 8.0).ravel()[far], kind="stable")]
    labels[inner], labels[ring] = 4, 5
    labels[elsewhere[: len(five) - near]] = 5
    left = np.sort(
        np.setdiff1d(np.arange(len(labels)), [*inner, *ring, *elsewhere[: len(five) - near]])
    )
    labels[left] = others
