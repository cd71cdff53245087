"""Read tissue masks from files: images, and areas drawn in QuPath."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiacrossfusion.errors import TiacfError, one_line
from tiacrossfusion.io.paths import is_folder

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from tiacrossfusion.slides.slide import Slide

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")

#: How the mask of a slide may be named, after the slide's stem or file name.
_ENDINGS = ("", "_mask", "-mask")

#: QuPath leaves out areas whose class ends with this: "Ignore*" and classes that users make like it.
_IGNORED = "*"

#: Measurements that only this program writes.
_OWN = ("Attention ", "Attribution ")


@dataclass(frozen=True)
class _Area:
    """An area drawn in QuPath, with the name of its class; empty without one."""

    shape: BaseGeometry
    name: str


def is_geojson(path: Path) -> bool:
    """Return whether a mask file is GeoJSON by its suffix, compressed or not."""
    return path.name.lower().endswith(GEOJSON_SUFFIXES)


def find_mask(masks: Path, slide: Path) -> Path:
    """Find the mask of a slide: the file itself, or in a folder the one named by the slide or its stem.

    Raises:
        TiacfError: the folder has no mask for the slide, or several.
    """
    if not is_folder(masks):
        return masks
    stem = slide.name if is_folder(slide) else slide.stem
    try:
        entries = sorted(masks.iterdir())
    except OSError as error:
        raise TiacfError(f"{masks}: cannot be read ({error.strerror}); check --masks") from error
    wanted = {name + ending for name in (stem, slide.name) for ending in _ENDINGS}
    found = [entry for entry in entries if _stem(entry) in wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise TiacfError(
            f"{masks}: several masks for {slide.name} ({', '.join(f.name for f in found)}); keep one"
        )
    raise TiacfError(
        f"{masks}: no mask for {slide.name}; name it {stem}.png, {stem}_mask.png or {stem}.geojson"
    )


def _stem(entry: Path) -> str | None:
    """Return the name of a mask file without its suffixes; None of another file."""
    for suffix in (*GEOJSON_SUFFIXES, *IMAGE_SUFFIXES):
        if entry.name.lower().endswith(suffix):
            return entry.name[: -len(suffix)]
    return None


def read_image(path: Path) -> np.ndarray:
    """Read a mask image, (H, W) or (H, W, C); of an indexed image the labels, 0 being background.

    Raises:
        TiacfError: it is no image, or cannot be read.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise TiacfError(
            f"{path}: not a mask; give an image ({', '.join(IMAGE_SUFFIXES)}) or a GeoJSON file"
        )
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        labels = _labels(path)
        if labels is not None:
            return labels
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except Exception as error:
        raise TiacfError(
            f"{path}: the mask cannot be read ({one_line(error)}); save it again"
        ) from error
    if image is None:
        raise TiacfError(f"{path}: the mask cannot be read as an image; save it as PNG")
    # JPEG rings around edges: there a mask's black is not quite 0.
    return image > 127 if path.suffix.lower() in (".jpg", ".jpeg") else image


def _labels(path: Path) -> np.ndarray | None:
    """Return the labels of an indexed image, whose colours mean nothing; None of another image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image) if image.mode == "P" else None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None  # OpenCV may read it, or says why not


def draw_areas(
    path: Path, slide: Slide, size: tuple[int, int], classes: Sequence[str]
) -> tuple[np.ndarray, str]:
    """Draw the areas of a GeoJSON file from QuPath.

    Areas of a class that ends with "*", such as QuPath's "Ignore*", are left out, and cut out of other areas.

    Args:
        path: of the file.
        slide: that it belongs to.
        size: height and width of the mask.
        classes: names of the classes to take; empty takes all but those to ignore.

    Returns:
        (H, W) uint8, and which classes were taken and left out, in words; empty where there are no classes.

    Raises:
        TiacfError: it is no such file, was written by this program, has no area of a wanted class, or all
            areas lie outside the slide.
    """
    import shapely
    from shapely.geometry import box

    areas = list(_areas(path))
    names = sorted({area.name for area in areas})
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise TiacfError(
            f"{path}: no area of the class {', '.join(unknown)}, there are {', '.join(filter(None, names))}"
            f"{' and areas without a class' if '' in names else ''}; check --mask-class"
        )
    left_out = [n for n in names if n.endswith(_IGNORED) and n not in classes]
    taken = list(classes) or [name for name in names if name not in left_out]
    if not any(area.shape.area > 0 and area.name in taken for area in areas):
        raise TiacfError(
            f"{path}: no area in it{' that is not to be ignored' if left_out else ''}; draw the tissue in "
            "QuPath with areas (polygon, brush, wand), not with points and lines"
        )
    # QuPath counts from the corner of the scanned area, the slide's readers from the whole image's.
    width, height = slide.dimensions
    offset = np.array(slide.offset)
    extent = box(-offset[0], -offset[1], width - offset[0], height - offset[1])
    if all(not area.shape.intersects(extent) for area in areas if area.name in taken):
        raise TiacfError(
            f"{path}: all areas lie outside {slide.name}; QuPath's coordinates are pixels of the full "
            "resolution, check that the mask is this slide's"
        )
    image = np.zeros(size, np.uint8)
    scale = np.array([size[1] / width, size[0] / height])
    for names_drawn, value in ((taken, 1), (left_out, 0)):
        for area in areas:
            if area.name in names_drawn:
                _fill(image, shapely.intersection(area.shape, extent), offset, scale, value)
    return image, _said(taken, left_out, names)


def _said(taken: Sequence[str], left_out: Sequence[str], names: Sequence[str]) -> str:
    if names == [""]:
        return ""
    words = f"mask of {', '.join(name or 'areas without a class' for name in taken)}"
    others = [name or "areas without a class" for name in names if name not in taken]
    cut = f", without {', '.join(left_out)}" if left_out else ""
    more = [name for name in others if name not in left_out]
    return words + cut + (f"; not used: {', '.join(more)}" if more else "")


def _fill(
    image: np.ndarray, shape: BaseGeometry, offset: np.ndarray, scale: np.ndarray, value: int
) -> None:
    def ring(coordinates: Any) -> np.ndarray:
        return np.rint((np.asarray(coordinates)[:, :2] + offset) * scale).astype(np.int32)

    for polygon in getattr(shape, "geoms", [shape]):
        if polygon.geom_type != "Polygon" or polygon.is_empty:
            continue  # points and lines have no area
        # One call with all rings fills by the even-odd rule, which leaves the holes out.
        rings = [polygon.exterior, *polygon.interiors]
        cv2.fillPoly(image, [ring(r.coords) for r in rings], value)


def _areas(path: Path) -> Iterator[_Area]:
    """Yield the areas of a GeoJSON file.

    Raises:
        TiacfError: it is no such file, or was written by this program.
    """
    from shapely import make_valid
    from shapely.geometry import shape

    try:
        document = json.loads(_text(path))  # which reads NaN, too, as QuPath before 0.5 wrote it
        features = document if isinstance(document, list) else document.get("features", [document])
        properties = [f.get("properties") or {} for f in features]
        own = any(
            str(name).startswith(_OWN)
            for said in properties
            for name in _measurements(said.get("measurements"))
        )
        areas = (
            []
            if own
            else [
                _Area(make_valid(shape(f.get("geometry", f))), _class_of(said))
                for f, said in zip(features, properties, strict=True)
                if f.get("geometry", f)
            ]
        )
    except Exception as error:
        raise TiacfError(
            f"{path}: not a GeoJSON file that QuPath would export ({one_line(error)}); "
            "use File > Export objects as GeoJSON"
        ) from error
    if own:
        raise TiacfError(f"{path}: a result of tiacf, no mask; give another file with --masks")
    yield from areas


def _text(path: Path) -> str:
    """Read UTF-8 with or without a byte order mark, or UTF-16, compressed or not."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if utf16 else "utf-8-sig")


def _measurements(said: Any) -> list[str]:
    """Return the names of an object's measurements: keys, or a list of names and values in old files."""
    if isinstance(said, dict):
        return list(said)
    return [one.get("name", "") for one in said or () if isinstance(one, dict)]


def _class_of(said: dict[str, Any]) -> str:
    """Return the name of an object's class; of derived classes QuPath writes a list of names."""
    found = said.get("classification") or {}
    if isinstance(found, str):
        return found
    return found.get("name") or ": ".join(found.get("names") or ())
