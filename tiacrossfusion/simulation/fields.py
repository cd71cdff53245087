"""Smooth random fields and regions of a given area."""

import math

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], wavelength: float) -> Field:
    """Draw a Gaussian random field.

    It is drawn on a coarse grid and enlarged, so its cost hardly depends on the wavelength.

    Args:
        rng: source of randomness.
        shape: rows and columns.
        wavelength: typical distance between neighbouring maxima, in pixels, 4 or more.

    Returns:
        `shape` float32, with expected mean 0 and standard deviation 1.
    """
    step = wavelength / 4
    rows, columns = (math.ceil(length / step) + 6 for length in shape)
    noise = rng.standard_normal((rows, columns), np.float32)
    coarse = cv2.GaussianBlur(noise, (0, 0), 1.0)
    coarse *= 2 * math.sqrt(math.pi)  # makes up for the deviation that the blur takes away
    # Sample from row and column 3 on, where the blur has no border effects.
    to_coarse = np.array([[1 / step, 0, 3], [0, 1 / step, 3]])
    return cv2.warpAffine(
        coarse,
        to_coarse,
        (shape[1], shape[0]),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def margin_of_share(field: Field, where: Mask, share: float) -> Field:
    """Shift a field so that it is positive on a given share of a region.

    Args:
        field: (H, W) float32.
        where: (H, W) bool, the region.
        share: share of the region's pixels, in [0, 1].

    Returns:
        (H, W) float32; `margin > 0` holds for the requested share of `where`, the pixels with the highest
        values of the field.
    """
    values = np.sort(field[where])
    n_below = values.size - round(share * values.size)
    if n_below == 0:
        return np.ones_like(field)
    if n_below == values.size:
        return -np.ones_like(field)
    return field - (values[n_below - 1] + values[n_below]) / 2


def enlarge(field: Field, factor: int) -> Field:
    """Enlarge a (H, W) field linearly to (H * factor, W * factor); pixel areas stay in place."""
    return cv2.resize(field, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
