"""Attention of every stage of a network as scores.

Raw attention depends on the number of patches (a softmax over N tokens has the mean 1/N) and cannot be
compared between slides or scales; the percentile within the slide can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiacrossfusion.explain.nesting import Nesting
from tiacrossfusion.explain.score import Score

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.explain.scores import Explained
    from tiacrossfusion.models.bundle import ModelBundle

#: Stages of a network that may have attention, and the grid of each. "fused" is the class token's
#: attention after fusion, "rolled" the attention of all stages traced back to the tokens, on the finest grid.
STAGE_GRID = {"5x": "5x", "10x": "10x", "20x": "20x", "fused": "10x", "rolled": None}


def attention_scores(bag: FeatureBag, bundle: ModelBundle, prediction: Explained) -> list[Score]:
    """Return "Attention 5x", "Attention fused" and so on, for the stages of the network, on every grid.

    "Attention rolled" of a patch of the finest grid is the sum over the patches that it lies in, each times
    the number of patches of its scale: 1 for a patch that receives as much for its area as the average.

    Raises:
        TiacfError: the positions of the patches are unknown.
        ValueError: a stage does not have one value for each patch.
    """
    from tiacrossfusion.networks.base import SurvivalNetwork

    nesting = Nesting(bag)
    stages = dict(prediction.attention)
    if prediction.rolled is not None:
        rolled = prediction.rolled.items()
        parts = [
            Score(f"Attention rolled {scale}", scale, values * len(values))
            for scale, values in rolled
        ]
        stages["rolled"] = nesting.total(parts)
    network = bundle.network.unwrapped()
    meanings = network.attention_meanings if isinstance(network, SurvivalNetwork) else {}
    return [
        score
        for stage, grid in STAGE_GRID.items()
        if stage in stages
        for score in nesting.spread(
            Score(
                f"Attention {stage}",
                grid or bag.finest,
                stages[stage],
                meaning=meanings.get(stage, "Weight of the patch in the network."),
            )
        )
    ]
