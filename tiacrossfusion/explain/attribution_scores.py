"""Attribution of the risk as scores, in units of the risk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.explain.nesting import Nesting
from tiacrossfusion.explain.score import Score
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag
    from tiacrossfusion.explain.scores import Explained
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.models.config import BundleConfig

#: Names of the attribution maps: one for the tokens of each scale, and the sum over the scales.
ATTRIBUTIONS = {scale: f"Attribution {scale}" for scale in SCALES}
TOTAL = "Attribution total"

#: Strongest colour and smallest coloured size, in standard deviations of the training patients' risks.
LIMIT, NEGLIGIBLE = 2.0, 0.01

#: The standard deviation that is taken for a model without training risks, in time bins: risks lie between
#: minus the number of bins and 0.
_UNKNOWN_SD = 0.125

_MEANING = "Change of the risk, to first order, if the whole slide were like the patch {}."


def attribution_scores(bag: FeatureBag, bundle: ModelBundle, prediction: Explained) -> list[Score]:
    """Return "Attribution 5x" and so on for the scales that the network reads, its terms, and the total.

    A score is the attribution of a token times the number of tokens of its scale: the change of the risk, to
    first order, if all of them were like this one. So it is per area, and can be compared between scales and
    slides. The total of a patch of the finest grid is the sum over the patches that it lies in. The
    attributions of the tokens themselves, which add up, are in `Attribution.values`. The list is empty when
    attribution was not computed.

    Raises:
        TiacfError: the positions of the patches are unknown.
        ValueError: a scale does not have one value for each patch.
    """
    if prediction.attribution is None:
        return []
    nesting, sd = Nesting(bag), risk_sd(bundle.config)

    def score(name: str, scale: str, values: np.ndarray, at: str) -> Score:
        return Score(
            name,
            scale,
            values,
            signed=True,
            unit="risk",
            meaning=_MEANING.format(at),
            limit=LIMIT * sd,
            negligible=NEGLIGIBLE * sd,
        )

    scores = [
        score(ATTRIBUTIONS[scale], scale, values * len(values), f"at {scale}")
        for scale, values in prediction.attribution.values.items()
    ]
    total = score(TOTAL, bag.finest, nesting.total(scores), "at all scales") if scores else None
    terms = [
        score(f"Attribution {term.name}", term.scale, values * len(values), f"in its {term.name}")
        for term, values in prediction.attribution.terms.items()
    ]
    return [
        spread
        for each in (*scores, *([total] if total else []), *terms)
        for spread in nesting.spread(each)
    ]


def risk_sd(config: BundleConfig) -> float:
    """Return the standard deviation of the training patients' risks, or 1/8 of a time bin if unknown.

    It makes the colour scale of attribution, which is one for all slides of a model.
    """
    return _UNKNOWN_SD if config.risk_reference is None else config.risk_reference.sd or _UNKNOWN_SD
