"""Tumour epithelium at 2 µm/px: lobules or nests, divided into glands or left solid."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tiacrossfusion.simulation.fields import Field, Mask, smooth_field

MICRONS_PER_PIXEL = 2.0

# Distances in µm from here on.
_LOBULE_WAVELENGTH = 440.0
_SEPTUM_HALF_WIDTH = 31.0
_NEST_WAVELENGTH = 95.0
_GLAND_RADIUS = (23.0, 40.0)
_ROUNDNESS = 1.5  # reach of a gland from its seed over the depth of its cell
_WALL = 16.0
_GAP = 2.0


@dataclass(frozen=True)
class Epithelium:
    """Maps of the tumour epithelium; H2 and W2 are its height and width at 2 µm/px.

    Attributes:
        mask: (H2, W2) bool, epithelium including the lumens of its glands.
        glandular: (H2, W2) bool, the part of the epithelium that forms glands.
        allotted: area in µm² of the glands and the gaps between them, which a sheet would fill.
        depth: (H2, W2) float32, distance in µm from the base of the gland, or from the edge of the solid
            nest, inwards; negative outside the epithelium.
        lumen: (H2, W2) float32, signed distance in µm from the edge of the lumens, positive inside.
    """

    mask: Mask
    glandular: Mask
    allotted: float
    depth: Field
    lumen: Field

    @classmethod
    def grow(
        cls, rng: np.random.Generator, tumour: Mask, infiltrating: Mask, solid: Mask
    ) -> "Epithelium":
        """Fill the tumour with epithelium.

        Args:
            rng: source of randomness.
            tumour: (H2, W2) bool.
            infiltrating: (H2, W2) bool, where there are nests and strands instead of lobules.
            solid: (H2, W2) bool, where there are sheets instead of glands.
        """
        shape = tumour.shape
        nests = smooth_field(rng, shape, _NEST_WAVELENGTH / MICRONS_PER_PIXEL) > 0
        mask = tumour & np.where(infiltrating, nests, _lobules(rng, shape))
        opening = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
        mask = cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, opening).view(bool)

        glandular = mask & ~solid
        rounded = _glands(rng, glandular)
        sheet = mask & solid
        in_gland, in_sheet = distance_inside(rounded), distance_inside(sheet)
        mask = rounded | sheet
        depth = cv2.GaussianBlur(in_gland + in_sheet, (0, 0), 1.5)
        depth = np.where(mask, depth - _GAP, -distance_inside(~mask))

        # The thickness of the wall varies.
        wall = _WALL + 1.5 * smooth_field(rng, shape, 60 / MICRONS_PER_PIXEL)
        lumen = np.where(rounded, cv2.GaussianBlur(in_gland, (0, 0), 3.0) - _GAP - wall, -_WALL)
        return cls(
            mask=mask,
            glandular=rounded,
            allotted=float(np.count_nonzero(glandular)) * MICRONS_PER_PIXEL**2,
            depth=depth.astype(np.float32),
            lumen=lumen.astype(np.float32),
        )

    def rings(self, depth: float) -> list[npt.NDArray[np.float32]]:
        """Closed lines within the glands, `depth` µm from their base.

        Returns:
            One (L, 2) float32 array for each gland that is deep enough: x and y in µm.
        """
        deep = (self.glandular & (self.depth > depth)).view(np.uint8)
        contours, _ = cv2.findContours(deep, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return [
            (contour[:, 0].astype(np.float32) + 0.5) * MICRONS_PER_PIXEL
            for contour in contours
            if len(contour) >= 6  # fewer pixels do not make a ring
        ]


def _lobules(rng: np.random.Generator, shape: tuple[int, int]) -> Mask:
    """Broad cohesive lobules between thin septa."""
    spacing = _LOBULE_WAVELENGTH / MICRONS_PER_PIXEL
    seeds = np.zeros(shape, bool)
    n_seeds = max(1, round(shape[0] * shape[1] / spacing**2))
    seeds[rng.integers(0, shape[0], n_seeds), rng.integers(0, shape[1], n_seeds)] = True
    labels = nearest_seed(seeds).astype(np.float32)
    # Wavy septa: look up each pixel's lobule at a displaced position.
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    sway = 14 / MICRONS_PER_PIXEL
    x += sway * smooth_field(rng, shape, 160 / MICRONS_PER_PIXEL)
    y += sway * smooth_field(rng, shape, 160 / MICRONS_PER_PIXEL)
    labels = cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    half_width = _SEPTUM_HALF_WIDTH * np.exp(0.35 * smooth_field(rng, shape, 100.0))
    lobules = (distance_inside(cells_apart(labels)) > half_width).astype(np.float32)
    return cv2.GaussianBlur(lobules, (0, 0), 5.0) > 0.5


def _glands(rng: np.random.Generator, glandular: Mask) -> Mask:
    """Round glands with gaps between them, in a mass of epithelium."""
    room = distance_inside(glandular)
    rows, columns = np.nonzero(room > 6)
    n_candidates = rows.size // 8
    seeds = np.zeros(glandular.shape, bool)
    if n_candidates:
        chosen = rng.integers(0, rows.size, n_candidates)
        rows, columns = rows[chosen], columns[chosen]
        radii = np.minimum(rng.uniform(*_GLAND_RADIUS, n_candidates), room[rows, columns])
        # From large to small: no later gland is larger, so a distance of 1.7 radii keeps most apart.
        free = np.ones(glandular.shape, np.uint8)
        order = np.argsort(-radii, kind="stable")
        reach = np.maximum(1, np.round(1.7 * radii / MICRONS_PER_PIXEL)).astype(int)
        for row, column, radius in zip(
            rows[order].tolist(), columns[order].tolist(), reach[order].tolist(), strict=True
        ):
            if free[row, column]:
                seeds[row, column] = True
                cv2.circle(free, (column, row), radius, 0, cv2.FILLED)
    labels = nearest_seed(seeds)
    cells = np.where(glandular, labels, 0)
    apart = cells_apart(cells) & glandular
    depth = distance_inside(apart)
    # Round the corners of the cells: cut off what is farther from the seed than the cell is deep.
    deepest = np.zeros(labels.max() + 1, np.float32)
    np.maximum.at(deepest, labels[seeds], cv2.dilate(depth, np.ones((5, 5)))[seeds])
    distance = distance_inside(~seeds)
    depth = np.minimum(depth, _ROUNDNESS * deepest[labels] - distance)
    return (cv2.GaussianBlur(depth, (0, 0), 2.0) > 1.0) & apart


def cells_apart(labels: npt.NDArray[np.generic]) -> Mask:
    """Mask of the pixels that have the label of their left and upper neighbours."""
    inside = np.ones(labels.shape, bool)
    inside[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    inside[1:] &= labels[1:] == labels[:-1]
    return inside


def nearest_seed(seeds: Mask) -> npt.NDArray[np.int32]:
    """Number, from 1 on, of the seed nearest to each pixel."""
    if not seeds.any():
        return np.ones(seeds.shape, np.int32)
    _, labels = cv2.distanceTransformWithLabels(
        (~seeds).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    return labels


def distance_inside(mask: Mask) -> Field:
    """Distance in µm from each pixel of a mask to the nearest one outside it."""
    pixels = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(pixels, 1e4) * np.float32(MICRONS_PER_PIXEL)
