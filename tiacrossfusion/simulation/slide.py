"""Render a slide from parameters and a seed: a file, and what was planted in it."""

import math
from pathlib import Path

import cv2
import numpy as np

from tiacrossfusion.simulation.aperio import BLOCK, Pixels, check_slide, write_slide
from tiacrossfusion.simulation.painting import Painter
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.regions import Regions
from tiacrossfusion.simulation.staining import Stain
from tiacrossfusion.simulation.tissue import grow_tissue
from tiacrossfusion.simulation.truth import MICRONS_PER_MAP_PIXEL, SlideTruth

_SPECKS_PER_SQUARE_MILLIMETRE = 0.5


def render_slide(
    path: str | Path,
    parameters: TissueParameters,
    *,
    size: tuple[int, int] = (10_000, 10_000),
    mpp: float = 0.25,
    seed: int = 0,
    overlap: float | None = None,
    progress: bool = False,
) -> SlideTruth:
    """Render an H&E-like slide with a planted prognosis.

    The file is an Aperio-style pyramid: JPEG tiles of 256 px, levels reduced 1, 4 and 16 times, a
    magnification of `10 / mpp`. The same arguments give the same bytes. Colours, outline and benign tissue
    depend on the seed only. So does the order in which parts of the tumour become adverse as a burden grows.

    Args:
        path: the slide to write; ends in .svs, in a folder that exists.
        parameters: share of the tumour that is adverse at each scale.
        size: width and height of level 0, in pixels, 300 or more.
        mpp: micrometres per pixel of level 0: 0.25 for 40x, 0.5 for 20x.
        seed: of everything random.
        overlap: share of the adverse nuclei that lies within adverse architecture, in [0, 1]; any share is
            possible when both burdens are one half. None: the two are independent.
        progress: show a progress bar.

    Returns:
        What was planted and where.

    Raises:
        UsageError: the folder is missing, the suffix is not .svs, a number is out of range, or the burdens
            leave no room for the overlap.
    """
    path = Path(path)
    check_slide(path, size, mpp, seed)
    for_regions, for_tissue, for_stain = np.random.SeedSequence(seed).spawn(3)
    width, height = (math.ceil(length * mpp / MICRONS_PER_MAP_PIXEL) for length in size)
    rng = np.random.default_rng(for_regions)
    regions = Regions.draw(rng, (height, width), parameters, overlap)
    maps, nuclei = grow_tissue(for_tissue, regions)
    stain = Stain.draw(np.random.default_rng(for_stain), BLOCK)
    write_slide(path, size, mpp, Painter(maps, nuclei, stain, mpp), progress=progress)
    return regions.truth(parameters)


def blank_slide(
    path: str | Path,
    *,
    size: tuple[int, int] = (10_000, 10_000),
    mpp: float = 0.25,
    seed: int = 0,
) -> None:
    """Render a slide without tissue: glass, the scanner's noise and a few specks of dust.

    Args:
        path: the slide to write; ends in .svs, in a folder that exists.
        size: width and height of level 0, in pixels, 300 or more.
        mpp: micrometres per pixel of level 0.
        seed: of colour, noise and dust.

    Raises:
        UsageError: the folder is missing, the suffix is not .svs, or a number is out of range.
    """
    path = Path(path)
    check_slide(path, size, mpp, seed)
    rng = np.random.default_rng(seed)
    stain = Stain.draw(rng, BLOCK)
    area = size[0] * size[1] * (mpp / 1000) ** 2
    n_specks = 2 + round(area * _SPECKS_PER_SQUARE_MILLIMETRE)
    centres = rng.uniform(0, size, (n_specks, 2))
    radii = rng.uniform(2, 8, n_specks) / mpp
    squeezed = rng.uniform(0.4, 1.0, n_specks)
    tilts = rng.uniform(0, 180, n_specks)

    def paint(x: int, y: int, width: int, height: int) -> Pixels:
        glass = stain.empty(x, y, width, height)
        light = np.full((height, width), 255, np.uint8)
        for (column, row), radius, squeeze, tilt in zip(
            centres, radii, squeezed, tilts, strict=True
        ):
            centre = (round(column - x), round(row - y))
            axes = (round(radius), max(1, round(radius * squeeze)))
            cv2.ellipse(light, centre, axes, tilt, 0, 360, 110, cv2.FILLED)
        # Dust is out of focus.
        light = cv2.blur(light, (5, 5))
        return cv2.multiply(glass, cv2.merge([light] * 3), scale=1 / 255)

    write_slide(path, size, mpp, paint, progress=False)
