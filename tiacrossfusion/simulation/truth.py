"""What was planted in a simulated slide, and where."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.simulation.parameters import TissueParameters

MICRONS_PER_MAP_PIXEL = 8.0


@dataclass(frozen=True)
class SlideTruth:
    """Parameters of a simulated slide and the maps of where they show.

    Pixel `[row, column]` of a map covers the square from `(8 * column, 8 * row)` to
    `(8 * column + 8, 8 * row + 8)` micrometres, seen from the top left corner of the slide.

    Attributes:
        parameters: The burdens that were asked.
        log_hazard: :func:`log_hazard` of the parameters with unit weights, or what the cohort of the slide
            planted in its place.
        mpp_of_maps: Size of a map pixel, 8.0 µm.
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
        """Share of the adverse nuclei's area within adverse architecture; NaN without any."""
        area = np.count_nonzero(self.nuclei)
        return np.count_nonzero(self.nuclei & self.architecture) / area if area else float("nan")

    def save(self, path: str | Path) -> None:
        """Write the truth to a compressed .npz file.

        Args:
            path: Where to write it; the suffix is kept as given.
        """
        burdens = self.parameters
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file,
                parameters=np.array([burdens.architecture, burdens.glands, burdens.nuclei]),
                log_hazard=np.array(self.log_hazard),
                mpp_of_maps=np.array(self.mpp_of_maps),
                tissue=self.tissue,
                tumour=self.tumour,
                architecture=self.architecture,
                glands=self.glands,
                nuclei=self.nuclei,
            )

    @classmethod
    def load(cls, path: str | Path) -> "SlideTruth":
        """Read what :meth:`save` wrote.

        Args:
            path: The .npz file.

        Returns:
            The truth.

        Raises:
            TiacfError: It is not there, damaged or something else.
        """
        maps = ("tissue", "tumour", "architecture", "glands", "nuclei")
        try:
            with np.load(Path(path), allow_pickle=False) as stored:
                truth = cls(
                    parameters=TissueParameters(*stored["parameters"].tolist()),
                    log_hazard=float(stored["log_hazard"]),
                    mpp_of_maps=float(stored["mpp_of_maps"]),
                    **{name: stored[name] for name in maps},
                )
            shapes = {getattr(truth, name).shape for name in maps}
            kinds = {getattr(truth, name).dtype.kind for name in maps}
            if len(shapes) > 1 or len(shapes.pop()) != 2 or kinds != {"b"}:
                raise ValueError("its maps are not of one size, or no maps")
            if not 0 < truth.mpp_of_maps < float("inf"):
                raise ValueError(f"its maps have pixels of {truth.mpp_of_maps:g} µm")
        except Exception as error:  # numpy raises many kinds on a damaged archive
            raise TiacfError(
                f"{path}: not the truth of a simulated slide, or damaged ({one_line(error)}); simulate "
                "the slides again"
            ) from error
        return truth
