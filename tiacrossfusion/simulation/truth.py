"""The ground truth of a simulated slide: what was planted, and where."""

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.simulation.parameters import TissueParameters

MICRONS_PER_MAP_PIXEL = 8.0
_MAPS = ("tissue", "tumour", "architecture", "glands", "nuclei")


@dataclass(frozen=True)
class SlideTruth:
    """Parameters of a simulated slide, and maps of its adverse patterns.

    Pixel `[row, column]` of a map covers the square from `(8 * column, 8 * row)` to
    `(8 * column + 8, 8 * row + 8)` micrometres from the top left corner of the slide.

    Attributes:
        parameters: the requested burdens.
        log_hazard: that of the slide's cohort, or :func:`log_hazard` of the parameters with unit weights.
        mpp_of_maps: size of a map pixel, 8.0 µm.
        tissue: (H8, W8) bool, everything that is not glass.
        tumour: (H8, W8) bool, within `tissue`.
        architecture: (H8, W8) bool, tumour with the adverse pattern of 5x.
        glands: (H8, W8) bool, tumour with the adverse pattern of 10x.
        nuclei: (H8, W8) bool, tumour with the adverse pattern of 20x.
    """

    parameters: TissueParameters
    log_hazard: float
    mpp_of_maps: float
    tissue: npt.NDArray[np.bool_]
    tumour: npt.NDArray[np.bool_]
    architecture: npt.NDArray[np.bool_]
    glands: npt.NDArray[np.bool_]
    nuclei: npt.NDArray[np.bool_]

    @property
    def overlap(self) -> float:
        """Share of the adverse nuclei's area within adverse architecture; NaN without adverse nuclei."""
        area = np.count_nonzero(self.nuclei)
        return np.count_nonzero(self.nuclei & self.architecture) / area if area else float("nan")

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz file; the suffix of `path` is kept as given."""
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file,
                parameters=np.array(astuple(self.parameters)),
                log_hazard=np.array(self.log_hazard),
                mpp_of_maps=np.array(self.mpp_of_maps),
                **{name: getattr(self, name) for name in _MAPS},
            )

    @classmethod
    def load(cls, path: str | Path) -> "SlideTruth":
        """Read a file that :meth:`save` wrote.

        Raises:
            TiacfError: the file is missing, damaged or not one of these.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as stored:
                truth = cls(
                    parameters=TissueParameters(*stored["parameters"].tolist()),
                    log_hazard=float(stored["log_hazard"]),
                    mpp_of_maps=float(stored["mpp_of_maps"]),
                    **{name: stored[name] for name in _MAPS},
                )
            shapes = {getattr(truth, name).shape for name in _MAPS}
            kinds = {getattr(truth, name).dtype.kind for name in _MAPS}
            if len(shapes) > 1 or len(shapes.pop()) != 2 or kinds != {"b"}:
                raise ValueError("its maps are not boolean or differ in size")
            if not 0 < truth.mpp_of_maps < float("inf"):
                raise ValueError(f"its maps have pixels of {truth.mpp_of_maps:g} µm")
        except Exception as error:  # numpy raises many types for a damaged archive
            raise TiacfError(
                f"{path}: not the truth of a simulated slide, or damaged ({one_line(error)}); simulate "
                "the slides again"
            ) from error
        return truth
