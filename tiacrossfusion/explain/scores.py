"""All scores of the patches of a slide, from a registry that other packages can extend.

A score is a function that returns a list of `Score`::

    @SCORES.register("darkness")
    def darkness(bag, bundle, prediction):
        values = 1 - bag.scales["20x"].features[:, 0].astype(float)
        return Nesting(bag).spread(Score("Darkness", "20x", values))

GeoJSON, annotation stores, figures and the report then contain it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from tiacrossfusion.explain.nesting import check_score
from tiacrossfusion.explain.score import Score, named
from tiacrossfusion.io.registry import Registry

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.explain.attribution import Attribution
    from tiacrossfusion.models.bundle import ModelBundle


class Explained(Protocol):
    """The values of a prediction per token; see `inference.prediction.Prediction`."""

    @property
    def attention(self) -> Mapping[str, np.ndarray]:
        """Attention of each token, by stage."""

    @property
    def rolled(self) -> Mapping[str, np.ndarray] | None:
        """Attention traced back to the tokens, by scale."""

    @property
    def attribution(self) -> Attribution | None:
        """Attribution of the risk."""


ScoreFunction: TypeAlias = "Callable[[FeatureBag, ModelBundle, Explained], list[Score]]"

#: All scores by name, in the order in which they are written.
SCORES: Registry[ScoreFunction] = Registry(
    "score",
    "tiacrossfusion.scores",
    {
        "attention": "tiacrossfusion.explain.attention_scores:attention_scores",
        "attribution": "tiacrossfusion.explain.attribution_scores:attribution_scores",
    },
)


def slide_scores(
    bag: FeatureBag, bundle: ModelBundle, prediction: Explained
) -> dict[str, list[Score]]:
    """Return all scores of each grid of a slide, from coarse to fine.

    Raises:
        TiacfError: the positions of the patches are unknown, or the package of a score cannot be imported.
        ValueError: a score does not have one value for each patch, or two have the same name.
    """
    scores: dict[str, list[Score]] = {scale: [] for scale in bag.scales}
    for name in SCORES.names():
        for score in SCORES[name](bag, bundle, prediction):
            check_score(bag, score)
            if named(scores[score.scale], score.name) is not None:
                raise ValueError(f"{name}: there is another score named {score.name}")
            scores[score.scale].append(score)
    return scores
