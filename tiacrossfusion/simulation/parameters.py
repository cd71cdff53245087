"""Parameters of a simulated slide, and its log-hazard."""

import math
from dataclasses import astuple, dataclass, fields

import numpy as np

from tiacrossfusion.errors import UsageError

# A uniform burden has variance 1/12: the sum of three of them, each times 2, has variance 1.
_SCALE = 2.0


@dataclass(frozen=True)
class TissueParameters:
    """Share of the tumour that shows the adverse pattern, one burden for each magnification.

    Attributes:
        architecture: burden at 5x (2 µm/px), in [0, 1]: small infiltrating nests and strands in desmoplastic
            stroma instead of broad cohesive lobules.
        glands: burden at 10x (1 µm/px), in [0, 1]: solid sheets without lumens instead of round glands with
            open lumens and a row of peripheral nuclei.
        nuclei: burden at 20x (0.5 µm/px), in [0, 1]: large, irregular, vesicular or dark nuclei of uneven
            size, with mitoses, instead of small, round, uniform ones.

    Raises:
        UsageError: a burden is not a number in [0, 1].
    """

    architecture: float
    glands: float
    nuclei: float

    def __post_init__(self) -> None:
        """Check the burdens."""
        for field in fields(self):
            burden = getattr(self, field.name)
            if not isinstance(burden, int | float | np.floating) or not 0 <= burden <= 1:
                raise UsageError(
                    f"TissueParameters: {field.name} is {burden!r}; "
                    "give the share of the tumour that is adverse, a number from 0 to 1."
                )


def log_hazard(
    parameters: TissueParameters,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> float:
    """Log-hazard ratio to a patient whose three burdens are one half.

    It is `2 * sum(weight * (burden - 1/2))`. For independent uniform burdens its standard deviation is
    `norm(weights) / sqrt(3)`, 1 with unit weights. A burden of 1 instead of 0 multiplies the hazard by
    `exp(2 * weight)`, 7.4 with a unit weight.

    Args:
        parameters: the burdens.
        weights: weight of architecture, glands and nuclei.

    Returns:
        The log-hazard ratio (natural logarithm).
    """
    burdens = astuple(parameters)
    return math.fsum(
        _SCALE * weight * (burden - 0.5) for weight, burden in zip(weights, burdens, strict=True)
    )


def draw_parameters(rng: np.random.Generator) -> TissueParameters:
    """Draw three independent burdens, uniform in [0, 1]."""
    architecture, glands, nuclei = rng.random(3).tolist()
    return TissueParameters(architecture, glands, nuclei)
