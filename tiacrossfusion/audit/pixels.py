"""Other pixels of the same tissue: stain, light, lens and compression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from tiacrossfusion.errors import TiacfError, one_line

if TYPE_CHECKING:
    from tiacrossfusion.slides.options import PixelChange

#: Optical density of each value of a pixel; black is taken for 1 of 255, as TIAToolbox does.
_DENSITY = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


@dataclass(frozen=True, eq=False)
class StainMap:
    """A linear map of optical densities, by which one stain becomes another.

    Attributes:
        matrix: (3, 3), multiplied from the right.
        offset: (3,) added then.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, images: np.ndarray, mpp: float) -> np.ndarray:
        """Return images (B, h, w, 3) uint8 with the other stain."""
        del mpp
        changed = np.empty_like(images)
        for image, place in zip(images, changed, strict=True):  # one at a time, in float32
            density = _DENSITY[image] @ self.matrix.astype(np.float32)
            density += self.offset.astype(np.float32)
            place[:] = np.clip(255 * np.exp(-density), 0, 255).round()
        return changed


def hed_jitter(sd: float, rng: np.random.Generator) -> StainMap:
    """Return a map that jitters haematoxylin, eosin and DAB: each is multiplied by `1 + a` and raised by `b`.

    `a` and `b` are uniform with the standard deviation `sd`. Source: Tellez et al., "Whole-slide mitosis
    detection in H&E breast histology using PHH3 as a reference to train distilled stain-invariant
    convolutional networks", IEEE TMI 2018; the stains are those of scikit-image (Ruifrok and Johnston).
    """
    from skimage.color import hed_from_rgb, rgb_from_hed

    most = sd * 3**0.5
    factors, raised = rng.uniform(-most, most, (2, 3))
    return StainMap(hed_from_rgb @ np.diag(1 + factors) @ rgb_from_hed, raised @ rgb_from_hed)


@dataclass(frozen=True, eq=False)
class Stain:
    """The stain of a slide, as one of TIAToolbox's normalisers finds it.

    Attributes:
        vectors: (2, 3) optical densities of haematoxylin and eosin.
        strongest: (2,) 99th percentile of their concentrations.
    """

    vectors: np.ndarray
    strongest: np.ndarray

    @classmethod
    def of(cls, sample: np.ndarray, method: Literal["macenko", "vahadane"], label: str) -> Stain:
        """Find the stain in a sample (h, w, 3) uint8 of a slide.

        Raises:
            TiacfError: the normaliser finds none, for example in pale tissue.
        """
        from tiatoolbox.tools.stainnorm import get_normalizer

        normaliser = get_normalizer(method)
        try:
            with np.errstate(all="ignore"):
                normaliser.fit(sample)
        except Exception as error:  # of numpy and scikit-learn, on images without two stains
            raise TiacfError(f"{label}: {method} finds no stain ({one_line(error)})") from error
        vectors, strongest = normaliser.stain_matrix_target, normaliser.maxC_target
        if not np.isfinite(vectors).all() or not (strongest > 0).all():
            raise TiacfError(f"{label}: {method} finds no stain")
        return cls(vectors, strongest.ravel())

    def to(self, other: Stain) -> StainMap:
        """Return the map of TIAToolbox's normaliser that was fitted to the other stain.

        Concentrations `c` of this stain become `c * (other.strongest / strongest)` of the other; what neither
        stain explains is lost.
        """
        concentrations = np.linalg.pinv(self.vectors)  # (3, 2)
        scaled = np.diag(other.strongest / self.strongest)
        return StainMap(concentrations @ scaled @ other.vectors, np.zeros(3))


def gamma(power: float) -> PixelChange:
    """Return the change by which light x, from 0 to 1, becomes `x^power`."""
    return partial(_looked_up, np.tile(((np.arange(256) / 255) ** power)[:, None], 3))


def white_balance(gains: tuple[float, float, float]) -> PixelChange:
    """Return the change that multiplies red, green and blue."""
    return partial(_looked_up, np.arange(256)[:, None] / 255 * np.array(gains))


def _looked_up(table: np.ndarray, images: np.ndarray, mpp: float) -> np.ndarray:
    """Replace each value by that of a table (256, 3), from 0 to 1."""
    del mpp
    values = np.clip(255 * table, 0, 255).round().astype(np.uint8)
    return np.stack([values[images[..., channel], channel] for channel in range(3)], axis=-1)


def jpeg(quality: int) -> PixelChange:
    """Return the change that compresses images as JPEG, with colours at half the resolution."""
    return partial(_compressed, quality)


def _compressed(quality: int, images: np.ndarray, mpp: float) -> np.ndarray:
    import cv2

    del mpp
    changed = np.empty_like(images)
    for image, place in zip(images, changed, strict=True):
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        place[:] = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]
    return changed


def blur(microns: float) -> PixelChange:
    """Return the change that blurs with a Gaussian whose standard deviation is in microns."""
    return partial(_blurred, microns)


def _blurred(microns: float, images: np.ndarray, mpp: float) -> np.ndarray:
    import cv2

    sd = microns / mpp
    return np.stack([cv2.GaussianBlur(image, (0, 0), sd) for image in images])


def turned(images: np.ndarray, mpp: float) -> np.ndarray:
    """Turn images by 90 degrees, clockwise."""
    del mpp
    return np.rot90(images, -1, axes=(1, 2))
