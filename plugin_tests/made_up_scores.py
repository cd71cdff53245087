"""Scores of a bag from made-up attention and attribution."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.explain.score import Score
from tiacrossfusion.explain.scores import slide_scores


def scores_of(
    bag: FeatureBag,
    attention: Mapping[str, np.ndarray],
    *,
    rolled: Mapping[str, np.ndarray] | None = None,
    attribution: Mapping[str, np.ndarray] | None = None,
) -> dict[str, list[Score]]:
    adds = None if attribution is None else SimpleNamespace(values=attribution)
    prediction = SimpleNamespace(attention=attention, rolled=rolled, attribution=adds)
    return slide_scores(bag, None, prediction)


def score(scores: list[Score], name: str) -> Score:
    """The score of this name, which must be there once."""
    (found,) = (each for each in scores if each.name == name)
    return found
