"""Read single patches through TIAToolbox's reader."""

from __future__ import annotations

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.readers.scale_source import ScaleSource, scale_source
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SamplingSpec

#: A warning is given when patches are enlarged by more than this; scanners of one power differ by 10 %.
REMARKED_ENLARGEMENT = 1.1

#: A slide is refused when its patches are enlarged by more than this, unless that is allowed.
MOST_ENLARGEMENT = 2.0

#: A patch of fewer than 8 pixels: the scale must be wrong.
IMPOSSIBLE_ENLARGEMENT = 32.0


def read_patch(slide: Slide, bounds: np.ndarray, scale: str, spec: SamplingSpec) -> np.ndarray:
    """Read the patch at level-0 bounds (4,) at its scale; see `cut_patch`."""
    source = scale_source(slide.reader, spec, scale, between_pixels=False)
    return cut_patch(slide, bounds, source)


def cut_patch(slide: Slide, bounds: np.ndarray, source: ScaleSource) -> np.ndarray:
    """Read the patch at level-0 bounds (4,) at its scale; beyond the slide it is white.

    Args:
        slide: an open slide.
        bounds: level-0 pixels x0, y0, x1, y1, of which only the corner is used.
        source: level and resampling of the scale, see `scale_source`.

    Returns:
        (patch_size, patch_size, 3) uint8 RGB.

    Raises:
        TiacfError: the region cannot be decoded, or comes in another size.
    """
    x, y = int(bounds[0]), int(bounds[1])
    with slide.reading(f"the region at x={x}, y={y}"):
        region = slide.reader.read_rect(
            location=(x, y),
            size=source.size,
            resolution=source.level,
            units="level",
            pad_mode="constant",
            pad_constant_values=255,  # the readers' own default differs: OpenSlide white, TIFF black
        )
        if region.shape[1::-1] != source.size:
            raise ValueError(
                f"{region.shape[1]} x {region.shape[0]} pixels came for {source.size[0]} x "
                f"{source.size[1]}"
            )
        return np.ascontiguousarray(source.resample(np.ascontiguousarray(region[..., :3])))


def enlargement(slide: Slide, spec: SamplingSpec) -> float:
    """Return how many times 20x patches are enlarged, at most 1 where the slide is fine enough."""
    return max(slide.mpp) / spec.mpp("20x")


def coarse_base(slide: Slide, spec: SamplingSpec) -> str:
    """Return a warning that a slide was scanned too coarsely for 20x patches; else empty."""
    ratio = enlargement(slide, spec)
    if ratio <= REMARKED_ENLARGEMENT:
        return ""
    return (
        f"scanned at {max(slide.mpp):g} microns per pixel, so its 20x patches ({spec.mpp('20x'):g}) are "
        f"enlarged {ratio:.2g} times and lack the detail that the model was trained on"
    )


def check_enlargement(slide: Slide, spec: SamplingSpec, *, allow: bool) -> None:
    """Refuse a slide whose 20x patches would be enlarged too much.

    Raises:
        TiacfError: they are enlarged more than twice and that is not allowed, or so much that the scale
            must be wrong.
    """
    ratio = enlargement(slide, spec)
    if ratio <= MOST_ENLARGEMENT or (allow and ratio <= IMPOSSIBLE_ENLARGEMENT):
        return
    remedy = (
        "if that is so, add --allow-enlarged"
        if ratio <= IMPOSSIBLE_ENLARGEMENT
        else "one of the two is wrong"
    )
    raise TiacfError(
        f"{slide.path or slide.name}: {max(slide.mpp):g} microns per pixel, while 20x patches have "
        f"{spec.mpp('20x'):g}: they would be enlarged {ratio:.2g} times; give the right scale with --mpp, "
        f"the full resolution of the slide, or {remedy}"
    )
