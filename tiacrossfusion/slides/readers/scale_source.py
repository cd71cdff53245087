"""Which pyramid level patches are cut from, and how they are resampled.

The patches of all scales are cut from the level that TIAToolbox's reader takes for 20x, and averaged down
from there. Containers of one slide differ in their coarser levels: in which they are, in how they were made
(averages or every n-th pixel) and in how often they were compressed. Features of 5x and 10x patches that are
read from them differ by up to one standard deviation, read so by 0.02 on average (tested). The tiles are
decoded for the 20x patches anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiacrossfusion.slides.readers.area_average import AreaAverage
from tiacrossfusion.slides.spec import SamplingSpec

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader


@dataclass(frozen=True)
class ScaleSource:
    """How the patches of one scale are cut from a level.

    Attributes:
        level: of the pyramid, 0 being the finest.
        level_size: width and height of the level in pixels.
        downsample: of the level.
        size: width and height of the region of a patch, in pixels of the level.
        resampling: factors along x and y from the region to the patch.
        patch_size: side of a patch.
        between_pixels: a patch that begins between two pixels of the level is interpolated, as
            OpenSlide does; otherwise it begins at the nearest pixel, as in the TIFF reader.
    """

    level: int
    level_size: tuple[int, int]
    downsample: float
    size: tuple[int, int]
    resampling: np.ndarray
    patch_size: int
    between_pixels: bool

    def corners(self, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top left corner of patches, in pixels of the level.

        Args:
            bounds: (N, 4) level-0 pixels.

        Returns:
            (N, 2) int64 whole pixels x, y, and (N, 2) float64 fractions of a pixel.
        """
        exact = bounds[:, :2] / self.downsample
        whole = np.floor(exact) if self.between_pixels else np.round(exact)
        shift = exact - whole if self.between_pixels else np.zeros_like(exact)
        return whole.astype(np.int64), shift

    @property
    def region_size(self) -> tuple[int, int]:
        """Width and height of the region of a patch; interpolation needs one more pixel."""
        more = 1 if self.between_pixels and self.level > 0 else 0
        return self.size[0] + more, self.size[1] + more

    def patch(self, region: np.ndarray, corner: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Resample the region of a patch.

        Args:
            region: (h, w, 3) uint8 of `region_size`, white beyond the level.
            corner: (2,) int64, pixel of the level at which the region begins.
            shift: (2,) float64, from `corners`.

        Returns:
            (patch_size, patch_size, 3) uint8 RGB.
        """
        from tiatoolbox.utils.image import crop_and_pad_edges

        width, height = self.size
        if shift.any():
            centre = (shift[0] + (width - 1) / 2, shift[1] + (height - 1) / 2)
            region = cv2.getRectSubPix(region, (width, height), centre)
            # The reader takes the nearest pixels for the edge of the slide and paints white beyond.
            nearest = np.round(corner + shift).astype(np.int64)
            if (nearest + self.size > self.level_size).any():
                region = crop_and_pad_edges(
                    (*nearest, *(nearest + self.size)),
                    self.level_size,
                    region,
                    pad_constant_values=255,
                )
        else:
            region = region[:height, :width]
        return self.resample(region)

    def resample(self, region: np.ndarray) -> np.ndarray:
        """Resample a region of `size` to (patch_size, patch_size, 3) uint8 RGB."""
        from tiatoolbox.utils.transforms import imresize

        if self.average is not None:
            return self.average(region)
        side = (self.patch_size, self.patch_size)
        return imresize(region, scale_factor=self.resampling, output_size=side)

    @cached_property
    def average(self) -> AreaAverage | None:
        """Faster replacement of `imresize` for shrinking; None where `imresize` itself is used."""
        halved = self.size == (2 * self.patch_size, 2 * self.patch_size)
        if (self.resampling < 1).all() and not halved:  # OpenCV halves quickly
            return AreaAverage(self.size, self.patch_size)
        return None


def scale_source(
    reader: WSIReader, spec: SamplingSpec, scale: str, *, between_pixels: bool
) -> ScaleSource:
    """Return the level of the patches and the resampling of a scale."""
    level, _, _, _, _ = reader.find_read_rect_params(
        location=(0, 0),
        size=(spec.patch_size, spec.patch_size),
        resolution=spec.mpp("20x"),
        units="mpp",
    )
    width, height = reader.info.level_dimensions[level]
    downsample = float(reader.info.level_downsamples[level])
    microns = spec.patch_size * spec.mpp(scale)
    across, down = (max(1, round(microns / (mpp * downsample))) for mpp in reader.info.mpp)
    return ScaleSource(
        level=int(level),
        level_size=(int(width), int(height)),
        downsample=downsample,
        size=(across, down),
        resampling=np.array([spec.patch_size / across, spec.patch_size / down]),
        patch_size=spec.patch_size,
        between_pixels=between_pixels,
    )
