"""What a trained network loses if it reads a part of the slides: learnt, stored and judged in each fold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from tiacrossfusion.inference.estimate import from_coarse_alone, from_imputed, from_sample
from tiacrossfusion.inference.families import FamilyTable
from tiacrossfusion.inference.sampling import (
    LEAST,
    balanced_order,
    families_for,
    slide_rng,
)
from tiacrossfusion.models.from_coarse import SHARES, FromCoarse
from tiacrossfusion.networks.families import nesting_fault
from tiacrossfusion.networks.pooling import on_cpu
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.training.from_coarse import LEAST_SLIDES, fit_from_coarse, focus_target

if TYPE_CHECKING:
    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.tokens import SlideTokens
    from tiacrossfusion.training.bags import CohortBags

#: Risks of a fold's test slides from parts of them.
PARTIAL = "partial_reading.csv"
COLUMNS = ("slide", "method", "share", "risk", "recall")

#: Families that are enough for the regression, slides that it has at least if there are so many, and most
#: slides for its errors.
_ENOUGH, _LEAST, _MOST_HELD = 60_000, 60, 60


def learn_from_coarse(
    folder: Path,
    network: SurvivalNetwork,
    bags: CohortBags,
    slides: Sequence[str],
    held_back: Sequence[str],
) -> FromCoarse | None:
    """Learn what 5x tells and add it to a bundle.

    None, and nothing is written, for a network that does not pool, grids that do not nest, too few slides or
    slides of at most 16 families, which are read whole.

    Args:
        folder: of the bundle.
        network: trained, in eval mode.
        bags: of the cohort.
        slides: names of those that it is learnt from.
        held_back: names of those for its errors; where they are fewer than 5, a third of all.
    """
    if len(held_back) < LEAST_SLIDES:
        every = [*slides, *held_back]
        slides, held_back = [s for i, s in enumerate(every) if i % 3], every[::3]
    if not network.pools_families or min(len(slides), len(held_back)) < LEAST_SLIDES:
        return None
    if all(bags.counts(slide)[0] <= LEAST for slide in held_back):
        return None
    here = on_cpu(network)
    first = _tokens(bags, slides[0])
    if set(first.grid) != set(SCALES) or nesting_fault(first, SCALES) is not None:
        return None
    fitted = fit_from_coarse(
        here,
        [
            partial(_tokens, bags, slide)
            for slide in _some(slides, max(_LEAST, _ENOUGH // first.features["5x"].shape[1]))
        ],
        [partial(_tokens, bags, slide) for slide in _some(held_back, _MOST_HELD)],
    )
    fitted.save(folder)
    return fitted


@torch.no_grad()
def judge_parts(
    network: SurvivalNetwork, fitted: FromCoarse, bags: CohortBags, slides: Sequence[str]
) -> pd.DataFrame:
    """Return the risks of slides from parts of them, a row for each slide, method and share.

    The methods are "all", "5x alone", "random" and "focus". `recall` is the share of the tenth of families of
    highest attribution that are among those chosen by focus.
    """
    rows: list[tuple[object, ...]] = []
    here = on_cpu(network)
    for slide in slides:
        table = FamilyTable.of(here, _tokens(bags, slide))
        expected, count = table.expected(fitted), len(table)
        whole = table.risk(table.means)
        top = set(focus_target(table).topk(max(1, count // 10)).indices.tolist())
        rows.append((slide, "all", 1.0, float(whole), np.nan))
        alone = float(from_coarse_alone(table, expected).risk) + float(fitted.bias)
        rows.append((slide, "5x alone", 0.0, alone, np.nan))
        orders = {
            "random": balanced_order(table.curve.numpy(), slide_rng(slide, count)),
            "focus": table.by_focus(fitted).numpy(),
        }
        for share in SHARES:
            n = families_for(share, count)
            for method, order in orders.items():
                read = torch.from_numpy(order[None, :n].copy())
                estimate = from_sample if method == "random" else from_imputed
                found = float(whole) if n == count else float(estimate(table, expected, read).risk)
                recall = len(top & set(order[:n].tolist())) / len(top)
                rows.append((slide, method, share, found, recall))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _tokens(bags: CohortBags, slide: str) -> SlideTokens:
    (tokens,) = next(bags.read([[slide]]))
    return tokens.to("cpu", torch.float32)


def _some(slides: Sequence[str], most: int) -> list[str]:
    """Return at most so many slides, evenly chosen."""
    return [slides[i] for i in np.linspace(0, len(slides) - 1, min(most, len(slides))).astype(int)]
