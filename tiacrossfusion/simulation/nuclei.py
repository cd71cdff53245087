"""Place nuclei and choose their kinds."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from tiacrossfusion.simulation.epithelium import MICRONS_PER_PIXEL, Epithelium
from tiacrossfusion.simulation.fields import Field, Mask

Points = npt.NDArray[np.floating]
Angles = npt.NDArray[np.floating]

Value = TypeVar("Value", bound=np.generic)

# Nuclei per µm².
EPITHELIAL_DENSITY = 1 / 135
_FIBROBLAST_DENSITY = 1 / 1500
_STRAY_LYMPHOCYTE_DENSITY = 1 / 7000
_LYMPHOCYTE_DENSITY = 1 / 75

_RING_DEPTH = 5.0
_SECOND_ROW = 4.0
_SINGLE_ROW_SPACING = 6.0
_MITOTIC_SHARE = 0.04


class NucleusKind(IntEnum):
    """Appearance of a nucleus."""

    REGULAR = 0
    ATYPICAL = 1
    MITOSIS = 2
    FIBROBLAST = 3
    LYMPHOCYTE = 4


@dataclass(frozen=True)
class Nuclei:
    """All nuclei of a slide, from top to bottom.

    Attributes:
        points: (N, 2) float32, x and y of the centres in µm.
        angles: (N,) float32, direction of the long axis in radians.
        kinds: (N,) uint8, values of :class:`NucleusKind`.
        looks: (N,) uint16, which of the pictures of its kind each nucleus shows.
    """

    points: Points
    angles: npt.NDArray[np.float32]
    kinds: npt.NDArray[np.uint8]
    looks: npt.NDArray[np.uint16]


def place_nuclei(
    rng: np.random.Generator,
    epithelium: Epithelium,
    stroma: Mask,
    lymphoid: Mask,
    atypical: Mask,
    fibres: Field,
) -> Nuclei:
    """Place the nuclei of a slide.

    Epithelium has the same number of nuclei per area whether it forms glands or not; in a gland they lie at
    the base.

    Args:
        rng: source of randomness.
        epithelium: maps of the tumour epithelium.
        stroma: (H2, W2) bool, connective tissue, of the tumour and elsewhere.
        lymphoid: (H2, W2) bool, where lymphocytes are dense.
        atypical: (H2, W2) bool, where epithelial nuclei have the adverse look.
        fibres: (H2, W2) float32, direction of the fibres in radians.

    Returns:
        The nuclei.
    """
    sheet_points = _in_sheets(rng, epithelium)
    n_small = int(np.count_nonzero(_look_up(epithelium.glandular, sheet_points)))
    n_ring = max(0, round(epithelium.allotted * EPITHELIAL_DENSITY) - n_small)
    ring_points, ring_angles = _in_rings(rng, epithelium, n_ring)
    sheet_angles = rng.uniform(0, math.pi, len(sheet_points)).astype(np.float32)
    epithelial = np.concatenate([ring_points, sheet_points])
    adverse = _look_up(atypical, epithelial)
    # Large nuclei do not fit side by side at the base: some move towards the lumen.
    n_ring = len(ring_points)
    step = np.where(adverse[:n_ring], rng.uniform(0, 3, n_ring), 0).astype(np.float32)
    inwards = np.stack([np.cos(ring_angles), np.sin(ring_angles)], axis=1)
    epithelial[:n_ring] += step[:, None] * inwards
    epithelial_kinds = np.where(adverse, NucleusKind.ATYPICAL, NucleusKind.REGULAR)
    mitotic = adverse & (rng.random(len(epithelial)) < _MITOTIC_SHARE)
    epithelial_kinds[mitotic] = NucleusKind.MITOSIS

    fibroblasts = _scatter(rng, stroma, _FIBROBLAST_DENSITY)
    lymphocytes = np.concatenate(
        [
            _scatter(rng, stroma, _STRAY_LYMPHOCYTE_DENSITY),
            _scatter(rng, lymphoid, _LYMPHOCYTE_DENSITY),
        ]
    )
    points = np.concatenate([epithelial, fibroblasts, lymphocytes])
    angles = np.concatenate(
        [
            ring_angles,
            sheet_angles,
            _look_up(fibres, fibroblasts) + rng.normal(0, 0.2, len(fibroblasts)),
            rng.uniform(0, math.pi, len(lymphocytes)),
        ]
    )
    kinds = np.concatenate(
        [
            epithelial_kinds,
            np.full(len(fibroblasts), NucleusKind.FIBROBLAST),
            np.full(len(lymphocytes), NucleusKind.LYMPHOCYTE),
        ]
    )
    order = np.argsort(points[:, 1], kind="stable")
    return Nuclei(
        points=points[order],
        angles=angles[order].astype(np.float32),
        kinds=kinds[order].astype(np.uint8),
        looks=rng.integers(0, 1 << 16, len(points)).astype(np.uint16),
    )


def _in_rings(
    rng: np.random.Generator, epithelium: Epithelium, n_nuclei: int
) -> tuple[Points, Angles]:
    """Nuclei along the base of each gland: (N, 2), and (N,) directions towards the lumen."""
    rings = [_Ring(line) for line in epithelium.rings(_RING_DEPTH)]
    area = math.fsum(ring.area for ring in rings)
    points, angles = [np.empty((0, 2), np.float32)], [np.empty(0, np.float32)]
    for ring in rings:
        share = max(3, round(n_nuclei * ring.area / area))
        at = (np.arange(share) + rng.uniform(-0.2, 0.2, share) + rng.random()) / share
        ring_points, inwards = ring.walk(at)
        if ring.length < _SINGLE_ROW_SPACING * share:
            # Too many for one row: every other one moves towards the lumen.
            step = _SECOND_ROW * (np.arange(share) % 2)
            ring_points += step[:, None] * np.stack([np.cos(inwards), np.sin(inwards)], axis=1)
        points.append((ring_points + rng.normal(0, 0.5, ring_points.shape)).astype(np.float32))
        angles.append((inwards + rng.normal(0, 0.2, share)).astype(np.float32))
    return np.concatenate(points), np.concatenate(angles)


class _Ring:
    """A closed line of pixels, addressed by shares of its length."""

    def __init__(self, line: Points) -> None:
        steps = np.roll(line, -1, axis=0) - line
        lengths = np.hypot(steps[:, 0], steps[:, 1])
        self._along = np.concatenate([[0], np.cumsum(lengths)])
        self._closed = np.concatenate([line, line[:1]])
        # A line of pixels is about a tenth longer than the smooth one.
        self.length = 0.9 * float(self._along[-1])
        inner = float(cv2.contourArea(line))
        # Steiner's formula: the area within a parallel line this far outside.
        self.area = inner + self.length * _RING_DEPTH + math.pi * _RING_DEPTH**2

    def walk(self, at: npt.NDArray[np.float64]) -> tuple[Points, Angles]:
        """Points, (N, 2) in µm, and the inward directions, (N,) in radians."""
        reach = self._along[-1]
        where = at * reach
        # The tangent over 10 µm: between neighbouring pixels it has only eight directions.
        tangent_x, tangent_y = (self._at((where + 5) % reach) - self._at((where - 5) % reach)).T
        # The orientation of OpenCV's outer contours determines which side is the inside.
        return self._at(where % reach), np.arctan2(-tangent_x, tangent_y)

    def _at(self, where: npt.NDArray[np.float64]) -> Points:
        return np.stack(
            [np.interp(where, self._along, self._closed[:, axis]) for axis in (0, 1)], axis=1
        )


def _in_sheets(rng: np.random.Generator, epithelium: Epithelium) -> Points:
    """Nuclei of solid epithelium, and of glands too small for a ring: (N, 2)."""
    ringed = (epithelium.glandular & (epithelium.depth > _RING_DEPTH)).view(np.uint8)
    reach = 2 * math.ceil((_RING_DEPTH + 2) / MICRONS_PER_PIXEL) + 1
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    ringed = cv2.dilate(ringed, around).view(bool) & epithelium.glandular
    return _scatter(rng, epithelium.mask & ~ringed, EPITHELIAL_DENSITY)


def _scatter(rng: np.random.Generator, where: Mask, density: float) -> Points:
    """Points of a jittered triangular lattice within a mask, (N, 2) x and y in µm."""
    height, width = (length * MICRONS_PER_PIXEL for length in where.shape)
    spacing = math.sqrt(2 / math.sqrt(3) / density)
    rows = np.arange(0, height, spacing * math.sqrt(3) / 2)
    columns = np.arange(0, width, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + 0.5 * spacing * (np.arange(len(rows)) % 2)[:, None]
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.uniform(-0.42, 0.42, points.shape) * spacing
    inside = (points[:, 0] >= 0) & (points[:, 1] >= 0)
    inside &= (points[:, 0] < width) & (points[:, 1] < height)
    points = points[inside].astype(np.float32)
    return points[_look_up(where, points)]


def _look_up(values: npt.NDArray[Value], points: Points) -> npt.NDArray[Value]:
    """Values of a map at 2 µm/px at points in µm, (N,)."""
    columns, rows = (points / MICRONS_PER_PIXEL).astype(np.intp).T
    return values[
        rows.clip(0, values.shape[0] - 1),
        columns.clip(0, values.shape[1] - 1),
    ]
