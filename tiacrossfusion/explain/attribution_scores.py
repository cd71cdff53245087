"""Attribution of the risk as scores, in units of the risk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiacrossfusion.explain.nesting import Nesting
from tiacrossfusion.explain.score import Score
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.explain.scores import Explained
    from tiacrossfusion.models.bundle import ModelBundle

#: Names of the attribution maps: one for the tokens of each scale, and the sum over the scales.
ATTRIBUTIONS = {scale: f"Attribution {scale}" for scale in SCALES}
TOTAL = "Attribution total"


def attribution_scores(bag: FeatureBag, _bundle: ModelBundle, prediction: Explained) -> list[Score]:
    """Return "Attribution 5x" and so on, for the scales that the network reads, and "Attribution total".

    The total of a 20x patch is its own attribution plus its equal share of the larger patches around it,
    so that the sum over the 20x patches is the sum over the tokens of all scales. The list is empty when
    attribution was not computed.

    Raises:
        TiacfError: the positions of the patches are unknown.
        ValueError: a scale does not have one value for each patch.
    """
    if prediction.attribution is None:
        return []
    nesting = Nesting(bag)
    scores = [
        Score(ATTRIBUTIONS[scale], scale, values, signed=True, unit="risk")
        for scale, values in prediction.attribution.values.items()
    ]
    if scores:
        scores.append(Score(TOTAL, "20x", nesting.share(scores), signed=True, unit="risk"))
    return [spread for score in scores for spread in nesting.spread(score)]
