"""Lay out tissue, tumour and the adverse pattern of each scale, at 8 µm/px."""

import math
from dataclasses import dataclass

import numpy as np

from tiacrossfusion.errors import UsageError
from tiacrossfusion.simulation.checks import require
from tiacrossfusion.simulation.fields import Field, Mask, margin_of_share, smooth_field
from tiacrossfusion.simulation.parameters import TissueParameters, log_hazard
from tiacrossfusion.simulation.truth import MICRONS_PER_MAP_PIXEL, SlideTruth

# Wider than a patch at 5x (512 µm for 256 px), so many patches lie entirely within one pattern.
_PATTERN_WAVELENGTH = 900.0


@dataclass(frozen=True)
class Regions:
    """Margins of the regions of a slide: a region is where its margin is above 0.

    Every array is (H8, W8) float32; a margin is a smooth field, not a distance, and is valid only within the
    parent region. With an overlap, the margin of nuclei has a step where the architecture changes.

    Attributes:
        tissue: everything but glass.
        tumour: tumour and its stroma, within tissue.
        fat: fat, within tissue outside the tumour.
        lymphoid: dense lymphocytes, within tissue outside tumour and fat.
        architecture: adverse pattern of 5x, within the tumour.
        glands: adverse pattern of 10x, within the tumour.
        nuclei: adverse pattern of 20x, within the tumour.
    """

    tissue: Field
    tumour: Field
    fat: Field
    lymphoid: Field
    architecture: Field
    glands: Field
    nuclei: Field

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        shape: tuple[int, int],
        parameters: TissueParameters,
        overlap: float | None = None,
    ) -> "Regions":
        """Lay out the regions of a slide.

        Args:
            rng: source of randomness.
            shape: rows and columns of the maps.
            parameters: share of the tumour that each adverse pattern covers.
            overlap: share of the adverse nuclei within adverse architecture, see :func:`render_slide`.

        Raises:
            UsageError: the burdens leave no room for the overlap.
        """
        everywhere = np.ones(shape, bool)
        side = max(float(min(shape)), 8.0)
        tissue = margin_of_share(_pieces(rng, shape), everywhere, rng.uniform(0.5, 0.6))
        in_tissue = tissue > 0

        field = smooth_field(rng, shape, max(0.7 * side, 8)) + 0.15 * smooth_field(
            rng, shape, max(0.1 * side, 8)
        )
        tumour = margin_of_share(field, in_tissue, rng.uniform(0.65, 0.75))
        benign = in_tissue & (tumour <= 0)
        wavelength = 700 / MICRONS_PER_MAP_PIXEL
        fat = margin_of_share(smooth_field(rng, shape, wavelength), benign, rng.uniform(0.15, 0.3))
        wavelength = 350 / MICRONS_PER_MAP_PIXEL
        lymphoid = margin_of_share(
            smooth_field(rng, shape, wavelength), benign & (fat <= 0), rng.uniform(0.04, 0.12)
        )

        in_tumour = in_tissue & (tumour > 0)
        wavelength = _PATTERN_WAVELENGTH / MICRONS_PER_MAP_PIXEL
        for_architecture, for_glands, for_nuclei = (
            smooth_field(rng, shape, wavelength) for _ in range(3)
        )
        architecture = margin_of_share(for_architecture, in_tumour, parameters.architecture)
        glands = margin_of_share(for_glands, in_tumour, parameters.glands)
        if overlap is None:
            nuclei = margin_of_share(for_nuclei, in_tumour, parameters.nuclei)
        else:
            within, without = overlap_shares(parameters, overlap)
            adverse = in_tumour & (architecture > 0)
            nuclei = np.where(
                architecture > 0,
                margin_of_share(for_nuclei, adverse, within),
                margin_of_share(for_nuclei, in_tumour & ~adverse, without),
            )
        return cls(tissue, tumour, fat, lymphoid, architecture, glands, nuclei)

    def truth(self, parameters: TissueParameters) -> SlideTruth:
        """What was planted, with the parameters that the regions were drawn with."""
        tissue = self.tissue > 0
        tumour: Mask = tissue & (self.tumour > 0)
        return SlideTruth(
            parameters=parameters,
            log_hazard=log_hazard(parameters),
            mpp_of_maps=MICRONS_PER_MAP_PIXEL,
            tissue=tissue,
            tumour=tumour,
            architecture=tumour & (self.architecture > 0),
            glands=tumour & (self.glands > 0),
            nuclei=tumour & (self.nuclei > 0),
        )


def overlap_shares(parameters: TissueParameters, overlap: float) -> tuple[float, float]:
    """Share of adverse architecture, and of the rest of the tumour, that adverse nuclei cover.

    Args:
        parameters: share of the tumour that each adverse pattern covers.
        overlap: share of the adverse nuclei within adverse architecture.

    Raises:
        UsageError: the overlap is not in [0, 1], or the burdens leave no room for it.
    """
    require(0 <= overlap <= 1, "overlap", overlap, "a share from 0 to 1")
    shares = []
    for nuclei, architecture in (
        (overlap * parameters.nuclei, parameters.architecture),
        ((1 - overlap) * parameters.nuclei, 1 - parameters.architecture),
    ):
        if nuclei > architecture:
            raise UsageError(
                f"overlap is {overlap}; with architecture {parameters.architecture} and nuclei "
                f"{parameters.nuclei} there is no room for it: give burdens of 0.5."
            )
        shares.append(nuclei / architecture if architecture else 0.0)
    return shares[0], shares[1]


def _pieces(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Field that is high in one to three irregular pieces, (H8, W8) float32."""
    rows, columns = shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    x = (x + 0.5) / columns * 2 - 1
    y = (y + 0.5) / rows * 2 - 1
    n_pieces = int(rng.integers(1, 4))
    turn = rng.uniform(0, 2 * math.pi)
    pieces = np.full(shape, -np.inf, np.float32)
    for number in range(n_pieces):
        # Several pieces lie around the centre, a single one in it.
        away = 0.0 if n_pieces == 1 else rng.uniform(0.45, 0.6)
        angle = turn + 2 * math.pi * number / n_pieces
        dx, dy = x - away * math.cos(angle), y - away * math.sin(angle)
        tilt = rng.uniform(0, math.pi)
        along = dx * math.cos(tilt) + dy * math.sin(tilt)
        across = dy * math.cos(tilt) - dx * math.sin(tilt)
        reach = rng.uniform(0.8, 1.2) / math.sqrt(n_pieces)
        slender = rng.uniform(0.75, 1.0)
        distance = np.hypot(along / (reach / slender), across / (reach * slender))
        pieces = np.maximum(pieces, 1 - distance)
    side = float(min(shape))
    pieces += 0.16 * smooth_field(rng, shape, max(0.35 * side, 8))
    pieces += 0.015 * smooth_field(rng, shape, max(0.07 * side, 8))
    # There is glass around the tissue.
    edge = np.maximum(np.abs(x), np.abs(y))
    return pieces - 25 * np.maximum(edge - 0.75, 0) ** 2
