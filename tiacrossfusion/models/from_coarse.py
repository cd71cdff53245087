"""What the 5x tokens of a slide tell of the 10x and 20x tokens inside them: a regression, and its errors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.models.files import FROM_COARSE

if TYPE_CHECKING:
    from torch import Tensor

#: Shares of families at which errors are measured.
SHARES = (0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True, eq=False)
class FromCoarse:
    """Regression of what a network pools of a family (a 5x cell and what is inside) on its 5x token.

    The features of family i are `phi_i = [1; v_i; mean of v over the 3 x 3 cells around i]`, where v are the
    principal components of `[x5; what the network pools of the 5x token]`.

    Attributes:
        centre: (U,) subtracted before the projection.
        directions: (U, q) of the projection.
        coefficients: (1 + 2 q, C), from phi to the mean of what is pooled, for each token.
        focus: (1 + 4 q,), from `[phi; phi^2]` to the attribution of a family without its sign.
        widening: (4,) factor of t intervals by the shares `SHARES`, found on slides that were held back.
        focus_error: (4,) the error of the risk that 95 % of these slides do not exceed, if the families of
            highest focus are read, by share.
        coarse_error: () the same of the risk from 5x alone, after `bias` was added.
        bias: () mean of the risk less that from 5x alone.
        variance: () of that difference.
    """

    centre: Tensor
    directions: Tensor
    coefficients: Tensor
    focus: Tensor
    widening: Tensor
    focus_error: Tensor
    coarse_error: Tensor
    bias: Tensor
    variance: Tensor

    def widened(self, share: float) -> float:
        """Return the factor of t intervals at a share of families."""
        return float(np.interp(share, SHARES, self.widening.numpy()))

    def focus_width(self, share: float) -> float:
        """Return the half-width of intervals by focus at a share of families; 0 if all were read."""
        errors = [float(self.coarse_error), *self.focus_error.tolist(), 0.0]
        return float(np.interp(share, (0.0, *SHARES, 1.0), errors))

    def save(self, folder: Path) -> None:
        """Write the file of a bundle.

        In float32: directions are over the SD of a feature, and one that hardly varies would exceed float16.

        Raises:
            OSError: it cannot be written.
        """
        from safetensors.torch import save

        tensors = {each.name: getattr(self, each.name) for each in fields(self)}
        with replacing(folder / FROM_COARSE) as part:
            part.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @classmethod
    def load(cls, folder: Path) -> FromCoarse | None:
        """Read the file of a bundle; None if it has none.

        Raises:
            TiacfError: the file is damaged.
        """
        from safetensors.torch import load_file

        path = folder / FROM_COARSE
        if not path.exists():
            return None
        try:
            found = cls(**{name: tensor.float() for name, tensor in load_file(path).items()})
        except Exception as error:  # safetensors raises many kinds
            raise TiacfError(
                f"{path}: cannot be read ({one_line(error)}); get the bundle again, or run tiacf calibrate"
            ) from error
        width = 1 + 2 * found.directions.shape[1]
        if len(found.coefficients) != width or len(found.focus) != 2 * width - 1:
            raise TiacfError(f"{path}: its tensors do not fit together; get the bundle again")
        return found


def t_quantile(count: int, level: float = 0.975) -> float:
    """Return the quantile of Student's t with `count - 1` degrees of freedom."""
    from scipy.stats import t as student  # a second, which few commands need

    return float(student.ppf(level, max(1, count - 1)))
