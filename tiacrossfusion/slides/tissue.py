"""Where the tissue is: TIAToolbox's mask with the checks it lacks, or the user's own mask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.paths import is_file, is_folder, is_there, missing
from tiacrossfusion.slides.grid import cell_side_20x
from tiacrossfusion.slides.options import Mask, WholeSlide
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

MASK_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
MASK_GEOJSON_SUFFIXES = (".geojson", ".json")


def tissue_mask(slide: Slide, spec: SamplingSpec) -> VirtualWSIReader:
    """Find the tissue with TIAToolbox's mask.

    Returns:
        A reader of the boolean mask over the whole slide; all False on a blank slide.

    Raises:
        TiacfError: the slide is not brightfield, or its overview cannot be read.
    """
    from skimage.filters import threshold_otsu
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    overview, damaged = read_whole(slide, spec.mask_mpp)
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


def user_mask(slide: Slide, mask: Mask, spec: SamplingSpec) -> VirtualWSIReader:
    """Read a mask given by the user.

    Args:
        slide: the slide that the mask belongs to.
        mask: an array (H, W), an image file (non-zero is tissue; PNG, JPEG, TIFF, BMP, .npy) that
            shows the whole slide at any resolution, or a GeoJSON file exported from QuPath, whose
            areas are tissue; `WholeSlide` takes everything.
        spec: names the resolution that GeoJSON areas are drawn at.

    Returns:
        A reader of the boolean mask over the whole slide.

    Raises:
        TiacfError: the file is missing or unreadable, has another shape than the slide, is too
            coarse, holds something else than numbers, or is empty.
    """
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    if isinstance(mask, WholeSlide):
        return VirtualWSIReader(
            np.ones(_size_at(slide, spec.mask_mpp), bool), info=slide.reader.info, mode="bool"
        )
    if isinstance(mask, np.ndarray):
        label, image = "mask array", np.asarray(mask)
    else:
        path = Path(mask)
        label = str(path)
        if not is_file(path):
            reason = "no file" if is_there(path) else missing(path)
            raise TiacfError(f"{path}: {reason}; check --masks")
        image = _draw_geojson(slide, path, spec) if is_geojson(path) else _read_image(path)
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
    return VirtualWSIReader(image.astype(bool), info=slide.reader.info, mode="bool")


def _unfit_values(image: np.ndarray) -> str:
    """Return what a mask holds other than finite numbers; empty where it is valid."""
    if image.dtype.kind not in "biuf":
        return f"type {image.dtype}"
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return f"{int((~np.isfinite(image)).sum())} values that are not finite"
    return ""


def is_geojson(path: Path) -> bool:
    """Return whether a mask file is GeoJSON by its suffix (`.geojson`, `.json`)."""
    return path.suffix.lower() in MASK_GEOJSON_SUFFIXES


def find_mask(masks: Path, slide: Path) -> Path:
    """Find the mask of a slide: the file itself, or in a folder the one named by the slide or its stem.

    Raises:
        TiacfError: there is none, or more than one.
    """
    if not is_folder(masks):
        return masks
    stem = slide.name if is_folder(slide) else slide.stem
    try:
        entries = sorted(masks.iterdir())
    except OSError as error:
        raise TiacfError(f"{masks}: cannot be read ({error.strerror}); check --masks") from error
    found = [
        entry
        for entry in entries
        if entry.stem in (stem, slide.name)
        and entry.suffix.lower() in (*MASK_IMAGE_SUFFIXES, *MASK_GEOJSON_SUFFIXES)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise TiacfError(
            f"{masks}: several masks for {slide.name} ({', '.join(f.name for f in found)}); keep one"
        )
    raise TiacfError(f"{masks}: no mask for {slide.name}; name it {stem}.png or {stem}.geojson")


def _read_image(path: Path) -> np.ndarray:
    if path.suffix.lower() not in MASK_IMAGE_SUFFIXES:
        raise TiacfError(
            f"{path}: not a mask; give an image ({', '.join(MASK_IMAGE_SUFFIXES)}) or a GeoJSON file"
        )
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except Exception as error:
        raise TiacfError(
            f"{path}: the mask cannot be read ({one_line(error)}); save it again"
        ) from error
    if image is None:
        raise TiacfError(f"{path}: the mask cannot be read as an image; save it as PNG")
    # JPEG rings around edges: there a mask's black is not quite 0.
    return image > 127 if path.suffix.lower() in (".jpg", ".jpeg") else image


def _size_at(slide: Slide, mpp: float) -> tuple[int, int]:
    """Return height and width of a slide at a resolution, at least one pixel."""
    width, height = slide.dimensions
    return max(1, round(height * slide.mpp[1] / mpp)), max(1, round(width * slide.mpp[0] / mpp))


def _draw_geojson(slide: Slide, path: Path, spec: SamplingSpec) -> np.ndarray:
    """Draw the areas of a GeoJSON file from QuPath at the mask's resolution, (H, W) bool."""
    import geojson
    from shapely import make_valid
    from shapely.geometry import box, shape

    try:
        document = geojson.loads(path.read_text(encoding="utf-8"))
        features = document if isinstance(document, list) else document.get("features", [document])
        shapes = [make_valid(shape(f.get("geometry", f))) for f in features if f.get("geometry", f)]
    except Exception as error:
        raise TiacfError(
            f"{path}: not a GeoJSON file that QuPath would export ({one_line(error)}); "
            "use File > Export objects as GeoJSON"
        ) from error
    width, height = slide.dimensions
    image = np.zeros(_size_at(slide, spec.mask_mpp), np.uint8)
    # QuPath counts from the corner of the scanned area, the slide's readers from the whole image's.
    offset = np.array(slide.offset)
    scale = np.array([image.shape[1] / width, image.shape[0] / height])
    extent = box(-offset[0], -offset[1], width - offset[0], height - offset[1])
    if not any(area.area > 0 for area in shapes):
        raise TiacfError(
            f"{path}: no area in it; draw the tissue in QuPath with areas (polygon, brush, wand), "
            "not with points and lines"
        )
    areas = [area.intersection(extent) for area in shapes]
    if all(area.is_empty for area in areas):
        raise TiacfError(
            f"{path}: all areas lie outside {slide.name}; QuPath's coordinates are pixels of the full "
            "resolution, check that the mask is this slide's"
        )

    def ring(coordinates: Any) -> np.ndarray:
        return np.rint((np.asarray(coordinates)[:, :2] + offset) * scale).astype(np.int32)

    for area in areas:
        for polygon in getattr(area, "geoms", [area]):
            if polygon.geom_type != "Polygon" or polygon.is_empty:
                continue  # points and lines have no area
            # One call with all rings fills by the even-odd rule, which leaves the holes out.
            rings = [polygon.exterior, *polygon.interiors]
            cv2.fillPoly(image, [ring(r.coords) for r in rings], 1)
    return image
