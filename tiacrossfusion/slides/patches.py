"""Read single patches through TIAToolbox's reader."""

from __future__ import annotations

import numpy as np

from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SamplingSpec

#: A warning is given when patches are enlarged by more than this; scanners of one power differ by 10 %.
MAX_ENLARGEMENT = 1.2


def read_patch(slide: Slide, bounds: np.ndarray, scale: str, spec: SamplingSpec) -> np.ndarray:
    """Read the patch at level-0 bounds (4,) at its scale; beyond the slide it is white.

    Returns:
        (patch_size, patch_size, 3) uint8 RGB.

    Raises:
        TiacfError: the region cannot be decoded, or comes in another size.
    """
    x, y = int(bounds[0]), int(bounds[1])
    with slide.reading(f"the region at x={x}, y={y}"):
        patch = slide.reader.read_rect(
            location=(x, y),
            size=(spec.patch_size, spec.patch_size),
            resolution=spec.resolution(scale),
            units=spec.units,
            pad_mode="constant",
            pad_constant_values=255,  # the readers' own default differs: OpenSlide white, TIFF black
        )
        if patch.shape[:2] != (spec.patch_size, spec.patch_size):
            raise ValueError(
                f"{patch.shape[1]} x {patch.shape[0]} pixels came for {spec.patch_size} x "
                f"{spec.patch_size}"
            )
    return np.ascontiguousarray(patch[..., :3])


def coarse_base(slide: Slide, spec: SamplingSpec) -> str:
    """Return a warning that a slide was scanned too coarsely for 20x patches; else empty."""
    wanted = spec.resolution("20x")
    base = max(slide.mpp) if spec.units == "mpp" else slide.power
    ratio = base / wanted if spec.units == "mpp" else wanted / base
    if ratio <= MAX_ENLARGEMENT:
        return ""
    return (
        f"scanned at {base:g} {spec.units}, so its 20x patches ({wanted:g} {spec.units}) are enlarged "
        f"{ratio:.1f} times and lack the detail that the model was trained on"
    )
