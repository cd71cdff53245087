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
#: attention after fusion, "rolled" the attention of all stages traced back to the tokens.
STAGE_GRID = {"5x": "5x", "10x": "10x", "20x": "20x", "fused": "10x", "rolled": "20x"}


def attention_scores(bag: FeatureBag, _bundle: ModelBundle, prediction: Explained) -> list[Score]:
    """Return "Attention 5x", "Attention fused" and so on, for the stages of the network, on every grid.

    "Attention rolled" of a 20x patch is its own plus its equal share of the larger patches around it, so
    that the sum over the 20x patches is the sum over the tokens of all scales.

    Raises:
        TiacfError: the positions of the patches are unknown.
        ValueError: a stage does not have one value for each patch.
    """
    nesting = Nesting(bag)
    stages = dict(prediction.attention)
    if prediction.rolled is not None:
        rolled = prediction.rolled.items()
        parts = [Score(f"Attention rolled {scale}", scale, values) for scale, values in rolled]
        stages["rolled"] = nesting.share(parts)
    return [
        score
        for stage, grid in STAGE_GRID.items()
        if stage in stages
        for score in nesting.spread(Score(f"Attention {stage}", grid, stages[stage]))
    ]
