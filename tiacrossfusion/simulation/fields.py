"""Smooth random fields and regions of a given area."""

import math

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], wavelength: float) -> Field:
    """Gaussian random field.

    It is drawn on a coarse grid and enlarged, so that its cost hardly depends on the wavelength.

    Args:
        rng: Source of randomness.
        shape: Rows and columns.
        wavelength: Typical distance between neighbouring maxima, in pixels, 4 or more.

    Returns:
        `shape` float32, with the mean 0 and the standard deviation 1 in the long run.
    """
    step = wavelength / 4
    rows, columns = (math.ceil(length / step) + 6 for length in shape)
    noise = rng.standard_normal((rows, columns), np.float32)
    coarse = cv2.GaussianBlur(noise, (0, 0), 1.0)
    coarse *= 2 * math.sqrt(math.pi)  # a Gaussian of width 1 leaves this part of the deviation
    # Sample from row and column 3 on: the blur has no border effects there.
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
        share: Share of the region's pixels, in [0, 1].

    Returns:
        (H, W) float32; `(margin > 0) & where` has the asked share of `where`, the pixels with
        the highest values of the field.
    """
    values = np.sort(field[where])
    n_below = values.size - round(share * values.size)
    if n_below == 0:
        return np.ones_like(field)
    if n_below == values.size:
        return -np.ones_like(field)
    return field - (values[n_below - 1] + values[n_below]) / 2


def enlarge(field: Field, factor: int) -> Field:
    """Enlarge a field linearly, pixel areas kept in place.

    Args:
        field: (H, W) float32.
        factor: Pixels to make of one, along each side.

    Returns:
        (H * factor, W * factor) float32.
    """
    return cv2.resize(field, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
