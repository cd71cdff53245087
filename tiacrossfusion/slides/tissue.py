"""Where the tissue is: TIAToolbox's mask with the checks it lacks, or the user's own mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.paths import is_file, is_there, missing
from tiacrossfusion.slides.grid import cell_side_20x
from tiacrossfusion.slides.mask_files import draw_areas, is_geojson, read_image
from tiacrossfusion.slides.options import Mask, PixelChange, WholeSlide
from tiacrossfusion.slides.overview import read_whole
from tiacrossfusion.slides.spec import SamplingSpec

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    from tiacrossfusion.slides.slide import Slide

#: Tissue is at least this much darker than the glass, in grey levels. Otsu's threshold splits any
#: image in two: on a blank slide it splits the scanner's noise (SD 1 to 3 at mask resolution).
MIN_CONTRAST = 12

#: A brightfield slide is bright where there is glass. Where this share of it or more is darker than
#: `BLACK`, it is fluorescence or the like, in which Otsu's threshold would take the background for tissue.
BLACK, MAX_BLACK_SHARE = 50, 0.3


def tissue_mask(
    slide: Slide, spec: SamplingSpec, change: PixelChange | None = None
) -> VirtualWSIReader:
    """Find the tissue with TIAToolbox's mask.

    Args:
        slide: an open slide.
        spec: how the mask is made.
        change: what is made of the overview first; None for nothing.

    Returns:
        A reader of the boolean mask over the whole slide; all False on a blank slide.

    Raises:
        TiacfError: the slide is not brightfield, or its overview cannot be read.
    """
    from skimage.filters import threshold_otsu
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    overview, damaged = read_whole(slide, spec.mask_mpp)
    if change is not None:
        overview = change(overview[None], spec.mask_mpp)[0]
    overview[damaged] = 255  # as glass it moves the threshold least
    grey = cv2.cvtColor(overview, cv2.COLOR_RGB2GRAY)
    if (grey < BLACK).mean() >= MAX_BLACK_SHARE:
        raise TiacfError(
            f"{slide.path or slide.name}: dark background, not a brightfield slide "
            f"({(grey < BLACK).mean():.0%} of it is near black); "
            "CrossFusion reads H&E, give a tissue mask with --masks to use it all the same"
        )
    if spec.mask_method == "otsu":
        # What TIAToolbox's OtsuTissueMasker does; importing its tools takes ten seconds.
        tissue = grey < threshold_otsu(grey)
    else:
        from tiatoolbox.tools.tissuemask import MorphologicalMasker

        tissue = MorphologicalMasker(mpp=spec.mask_mpp).fit_transform(overview[None])[0]
    glass = np.median(grey[~tissue]) if not tissue.all() else 255
    tissue &= grey <= glass - MIN_CONTRAST
    tissue |= damaged  # may have been some: its patches are tried, and counted where they fail
    return VirtualWSIReader(tissue, info=slide.reader.info, mode="bool")


def user_mask(
    slide: Slide, mask: Mask, spec: SamplingSpec, classes: Sequence[str] = ()
) -> tuple[VirtualWSIReader, str]:
    """Read a mask given by the user.

    Args:
        slide: the slide that the mask belongs to.
        mask: an array (H, W), an image file (non-zero is tissue; PNG, JPEG, TIFF, BMP, .npy) that
            shows the whole slide at any resolution, or a GeoJSON file exported from QuPath, whose
            areas are tissue; `WholeSlide` takes everything.
        spec: names the resolution that GeoJSON areas are drawn at.
        classes: names of QuPath's classes to take; empty takes all but those to ignore.

    Returns:
        A reader of the boolean mask over the whole slide, and which classes of areas were taken and left out,
        in words; empty if there are no classes.

    Raises:
        TiacfError: the file is missing or unreadable, has another shape than the slide, is too
            coarse, holds something else than numbers, or is empty.
    """
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    used = ""
    if isinstance(mask, WholeSlide):
        whole = np.ones(size_at(slide, spec.mask_mpp), bool)
        return VirtualWSIReader(whole, info=slide.reader.info, mode="bool"), used
    if isinstance(mask, np.ndarray):
        label, image = "mask array", np.asarray(mask)
    else:
        path = Path(mask)
        label = str(path)
        if not is_file(path):
            reason = "no file" if is_there(path) else missing(path)
            raise TiacfError(f"{path}: {reason}; check --masks")
        if is_geojson(path):
            size = size_at(slide, spec.mask_mpp)
            image, used = draw_areas(path, slide, size, classes)
        elif classes:
            raise TiacfError(
                f"{path}: an image has no classes; leave --mask-class out, or give GeoJSON from QuPath"
            )
        else:
            image = read_image(path)
    unfit = _unfit_values(image)
    if unfit:
        raise TiacfError(f"{label}: a mask of {unfit}; save it as 0 (no tissue) and 1 (tissue)")
    if image.ndim == 3:
        image = np.any(image[..., :3], axis=-1)
    if image.ndim != 2 or 0 in image.shape:
        raise TiacfError(f"{label}: a mask has the shape (height, width), not {image.shape}")
    width, height = slide.dimensions
    if abs(image.shape[1] * height - image.shape[0] * width) > max(width, height) * 2:
        raise TiacfError(
            f"{label}: a mask of {image.shape[1]} x {image.shape[0]} does not have the shape of "
            f"{slide.name} ({width} x {height}); it must show the whole slide"
        )
    coarsest = cell_side_20x(slide, spec)
    if width > image.shape[1] * coarsest[0] or height > image.shape[0] * coarsest[1]:
        raise TiacfError(
            f"{label}: a mask of {image.shape[1]} x {image.shape[0]} is too coarse, its pixels are "
            f"larger than the 20x patches of {slide.name}; save it with more pixels"
        )
    if not image.any():
        raise TiacfError(f"{label}: the mask is empty; mark the tissue in it, or leave --masks out")
    return VirtualWSIReader(image.astype(bool), info=slide.reader.info, mode="bool"), used


def _unfit_values(image: np.ndarray) -> str:
    """Return what a mask holds other than finite numbers; empty where it is valid."""
    if image.dtype.kind not in "biuf":
        return f"type {image.dtype}"
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return f"{int((~np.isfinite(image)).sum())} values that are not finite"
    return ""


def size_at(slide: Slide, mpp: float) -> tuple[int, int]:
    """Return height and width of a slide at a resolution, at least one pixel."""
    width, height = slide.dimensions
    return max(1, round(height * slide.mpp[1] / mpp)), max(1, round(width * slide.mpp[0] / mpp))
