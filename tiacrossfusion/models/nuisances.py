"""How far the risk of a slide moves under nuisances: what an audit of slides teaches a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.models.files import NUISANCES
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Nuisances:
    """Mean changes of features under nuisances, and what they leave unexplained of the risk.

    Attributes:
        changes: (K, 3, E) float32, the change of a slide's mean features at 5x, 10x and 20x under each of K
            nuisances, averaged over the audited slides, in the encoder's units.
        residual: () root mean square, over slides and nuisances, of the change of the risk less that which
            `expected_changes` gives for the mean change of the other slides.
    """

    changes: Tensor
    residual: Tensor

    def risk_sd(self, risk: float, gradient: np.ndarray, num_bins: int) -> float:
        """Return the root mean square of the change of a slide's risk over the nuisances.

        `sqrt(1/K sum_k d_k^2 + residual^2)`, with `d_k` the change that `expected_changes` gives.

        Args:
            risk: of the slide.
            gradient: (3, E) of it by a change that all tokens of a scale share.
            num_bins: time bins of the model.
        """
        moved = expected_changes(risk, gradient, self.changes.numpy(), num_bins)
        return float(np.sqrt((moved**2).mean() + float(self.residual) ** 2))

    def save(self, folder: Path) -> None:
        """Write the file of a bundle.

        Raises:
            OSError: it cannot be written.
        """
        from safetensors.torch import save

        with replacing(folder / NUISANCES) as part:
            part.write_bytes(save({name: t.contiguous() for name, t in vars(self).items()}))

    @classmethod
    def load(cls, folder: Path, width: int) -> Nuisances | None:
        """Read the file of a bundle, for features of a width; None if it has none.

        Raises:
            TiacfError: the file is damaged, or of other features.
        """
        from safetensors.torch import load_file

        path = folder / NUISANCES
        if not path.exists():
            return None
        remedy = "remove it, and run tiacf audit --update-model again"
        try:
            found = cls(**{name: tensor.float() for name, tensor in load_file(path).items()})
        except Exception as error:  # safetensors raises many kinds
            raise TiacfError(f"{path}: cannot be read ({one_line(error)}); {remedy}") from error
        if found.changes.shape[1:] != (len(SCALES), width) or found.residual.shape != ():
            raise TiacfError(f"{path}: its tensors do not fit the model; {remedy}")
        if not all(bool(tensor.isfinite().all()) for tensor in vars(found).values()):
            raise TiacfError(f"{path}: has values that are not finite; {remedy}")
        return found


def expected_changes(
    risk: float, gradient: np.ndarray, changes: np.ndarray, num_bins: int
) -> np.ndarray:
    """Return how far changes of the mean features move the risk of a slide, (K,).

    The risk lies between minus the number of bins and 0. It is taken for linear in the features on the scale
    `u = log((bins + risk) / -risk)`, which has no bounds, so that large changes stay within them.

    Args:
        risk: of the slide.
        gradient: (3, E) of it by a change that all tokens of a scale share.
        changes: (K, 3, E).
        num_bins: time bins of the model.
    """
    inside = 1e-6 * num_bins
    here = float(np.clip(risk, -num_bins + inside, -inside))
    start = np.log((num_bins + here) / -here)
    slope = num_bins / ((num_bins + here) * -here)
    moved = start + slope * np.tensordot(changes.astype(np.float64), gradient, axes=2)
    return -num_bins / (1 + np.exp(np.clip(moved, -50, 50))) - here
