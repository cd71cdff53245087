"""When enough of a slide was read: the interval is narrow, or the risk group is certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiacrossfusion.inference.estimate import half_width
from tiacrossfusion.models.from_coarse import t_quantile

if TYPE_CHECKING:
    from tiacrossfusion.inference.budget import Until
    from tiacrossfusion.models.config import RiskReference
    from tiacrossfusion.models.from_coarse import FromCoarse

#: Slides whose risk group may be wrong.
_WRONG = 0.01


def is_certain(
    risk: float,
    se: float,
    read: int,
    families: int,
    until: Until,
    fitted: FromCoarse | None,
    reference: RiskReference,
    looks: int,
) -> bool:
    """Return whether a slide has been read far enough.

    For the risk group, the error of 1 % is divided by the number of looks (Bonferroni).

    Args:
        risk: estimated.
        se: its standard error.
        read: number of families read.
        families: of the slide.
        until: what is wanted.
        fitted: of the bundle, if it has errors from other slides.
        reference: risks of the training patients.
        looks: how often it is asked at most.
    """
    width = half_width(se, read, read / families, fitted)
    if until != "group":
        return width <= until * reference.sd
    wide = width * t_quantile(read, 1 - _WRONG / (2 * looks)) / t_quantile(read)
    return abs(risk - reference.cutoff) > wide
