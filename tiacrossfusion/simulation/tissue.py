"""Fill the regions of a slide with tissue."""

import cv2
import numpy as np

from tiacrossfusion.simulation.epithelium import (
    MICRONS_PER_PIXEL,
    Epithelium,
    cells_apart,
    distance_inside,
    nearest_seed,
)
from tiacrossfusion.simulation.fields import Field, Mask, enlarge, smooth_field
from tiacrossfusion.simulation.nuclei import Nuclei, place_nuclei
from tiacrossfusion.simulation.painting import TissueMaps, encode_distance
from tiacrossfusion.simulation.regions import Regions
from tiacrossfusion.simulation.truth import MICRONS_PER_MAP_PIXEL

_FINE = round(MICRONS_PER_MAP_PIXEL / MICRONS_PER_PIXEL)

_COLLAGEN = 53.0  # amount of eosin
# Added in all tumour alike: infiltration is to be recognised by the arrangement of the nests, which takes
# the field of view of 5x, and not by a colour that any magnification shows.
_DESMOPLASIA = 16.0
_RETICULUM = 32.0  # subtracted among dense lymphocytes
_VACUOLE_SPACING = 70.0  # µm
_VACUOLE_WALL = 1.6  # µm, half of the wall between two vacuoles
_CLEFT_HALF_WIDTH = 0.035  # in standard deviations of a field with a wavelength of 260 µm


def grow_tissue(seeds: np.random.SeedSequence, regions: Regions) -> tuple[TissueMaps, Nuclei]:
    """Fill the regions of a slide with tissue.

    Args:
        seeds: source of randomness; outline, epithelium, fat, stroma and nuclei have independent streams.
        regions: margins of all regions.

    Returns:
        The maps and the nuclei that a :class:`Painter` takes.
    """
    for_outline, for_epithelium, for_fat, for_stroma, for_nuclei = (
        np.random.default_rng(child) for child in seeds.spawn(5)
    )
    shape = tuple(_FINE * length for length in regions.tissue.shape)
    rough = 0.008 * smooth_field(for_outline, shape, 60 / MICRONS_PER_PIXEL)
    tissue = enlarge(regions.tissue, _FINE) + rough > 0
    tumour = tissue & (enlarge(regions.tumour, _FINE) > 0)
    infiltrating = tumour & (enlarge(regions.architecture, _FINE) > 0)
    solid = tumour & (enlarge(regions.glands, _FINE) > 0)
    atypical = tumour & (enlarge(regions.nuclei, _FINE) > 0)
    fat = tissue & ~tumour & (enlarge(regions.fat, _FINE) > 0)
    lymphoid = tissue & ~tumour & ~fat & (enlarge(regions.lymphoid, _FINE) > 0)

    epithelium = Epithelium.grow(for_epithelium, tumour, infiltrating, solid)
    glass = distance_inside(~tissue) - distance_inside(tissue)
    empty = np.maximum.reduce([epithelium.lumen, glass, _vacuoles(for_fat, fat)])
    loose = tissue & ~epithelium.mask & ~fat & ~lymphoid
    collagen, clefts = _connective(for_stroma, loose, tumour, lymphoid)
    empty = np.maximum(empty, clefts)
    fibres, directions = _fibres(for_stroma, regions.tissue.shape)

    nuclei = place_nuclei(
        for_nuclei,
        epithelium,
        stroma=loose & (empty < -2),
        lymphoid=lymphoid & (empty < -2),
        atypical=atypical,
        fibres=directions,
    )
    maps = TissueMaps(
        empty=encode_distance(cv2.GaussianBlur(empty, (0, 0), 0.7)),
        epithelium=encode_distance(epithelium.depth),
        collagen=collagen,
        fibres=fibres,
        tissue=cv2.dilate((regions.tissue > -0.1).view(np.uint8), np.ones((5, 5), np.uint8)),
    )
    return maps, nuclei


def _vacuoles(rng: np.random.Generator, fat: Mask) -> Field:
    """Signed distance in µm from the edge of the fat vacuoles, (H2, W2) float32."""
    spacing = _VACUOLE_SPACING / MICRONS_PER_PIXEL
    rows, columns = fat.shape
    y, x = np.mgrid[0:rows:spacing, 0:columns:spacing]
    y = y + rng.uniform(0, spacing, y.shape)
    x = x + rng.uniform(0, spacing, x.shape)
    seeds = np.zeros(fat.shape, bool)
    seeds[y.astype(int).clip(0, rows - 1), x.astype(int).clip(0, columns - 1)] = True
    cells = np.where(fat, nearest_seed(seeds), 0)
    depth = distance_inside(fat & cells_apart(cells))
    # The blur rounds the vacuoles and raises their walls by about 2 µm.
    depth = cv2.GaussianBlur(depth, (0, 0), 2.5)
    return np.where(fat, depth, 0) - np.float32(2 + _VACUOLE_WALL)


def _connective(
    rng: np.random.Generator, loose: Mask, tumour: Mask, lymphoid: Mask
) -> tuple[np.ndarray, Field]:
    """Amount of eosin, (H2, W2) uint8, and signed distance in µm from clefts, (H2, W2) float32."""
    shape = loose.shape
    amount = _COLLAGEN + 7 * smooth_field(rng, shape, 500 / MICRONS_PER_PIXEL)
    amount += 5 * smooth_field(rng, shape, 90 / MICRONS_PER_PIXEL)
    desmoplastic = cv2.GaussianBlur(tumour.astype(np.float32), (0, 0), 12.0)
    amount += _DESMOPLASIA * desmoplastic
    amount -= _RETICULUM * cv2.GaussianBlur(lymphoid.astype(np.float32), (0, 0), 6.0)

    # Shrinkage tears the stroma along lines, in some places.
    lines = np.abs(smooth_field(rng, shape, 260 / MICRONS_PER_PIXEL))
    torn = smooth_field(rng, shape, 700 / MICRONS_PER_PIXEL) > 0.6
    cleft = loose & torn & (desmoplastic < 0.2) & (lines < _CLEFT_HALF_WIDTH)
    clefts = cv2.GaussianBlur(distance_inside(cleft), (0, 0), 1.0) - 2.5
    return np.clip(amount, 20, 140).astype(np.uint8), clefts


def _fibres(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    """Position along and across the fibres in µm, (H8, W8, 2), and their direction, (H2, W2)."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) * MICRONS_PER_MAP_PIXEL
    wavelength = 420 / MICRONS_PER_MAP_PIXEL
    along = x + 55 * smooth_field(rng, shape, wavelength)
    across = y + 65 * smooth_field(rng, shape, wavelength)
    slope_y, slope_x = np.gradient(across)
    directions = np.arctan2(-slope_x, slope_y).astype(np.float32)
    # Nearest neighbour: a mean of two angles on either side of the wrap-around would be wrong.
    directions = directions.repeat(_FINE, axis=0).repeat(_FINE, axis=1)
    return np.stack([along, across], axis=-1), directions
