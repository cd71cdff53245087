"""The scale of a slide: what the file states, which of it is credible, and what contradicts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsimeta import WSIMeta
    from tiatoolbox.wsicore.wsireader import WSIReader

#: Two sources contradict each other when they differ by more than this factor.
CONTRADICTION = 1.5

#: A note is made when the scale given by the user differs by more than this share from the file's.
MAX_DEVIATION = 0.1

#: A resolution tag coarser than this, in microns per pixel, is the default of a printer or an office scanner
#: (72 to 4,800 dpi are 353 to 5.3) and no microscope's.
COARSEST_TAG = 5.0

#: Objective powers that exist; files with other values, such as 0 or 40,000, were written wrongly.
POWER_RANGE = (0.5, 200.0)

#: Micrometres in the units of OME-XML; a length in pixels or in a reference frame is no scale.
_OME_UNITS = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    "nm": 1e-3,
    "pm": 1e-6,
    "Å": 1e-4,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "in": 25_400.0,
}
_OME_UNITS["inch"] = _OME_UNITS["in"]

#: Micrometres in the units of resolution tags, by tifffile's number and by OpenSlide's name.
_TAG_UNITS = {2: 25_400.0, 3: 10_000.0, "inch": 25_400.0, "centimeter": 10_000.0}

_TAG = "the resolution tag"
_TAG_NAMES = ("XResolution", "YResolution", "ResolutionUnit")

#: The magnification in the description of a page, as Ventana writes it.
_MAG = re.compile(r"\bmag=([0-9]+(?:\.[0-9]+)?)")


#: Scale and magnification in the description of a page, as Aperio writes them.
_APERIO = re.compile(r"\b(MPP|AppMag) = ([0-9.]+)")


@dataclass(frozen=True)
class Stated:
    """What one part of a file says about microns per pixel.

    Attributes:
        source: in words.
        mpp: along x and y.
    """

    source: str
    mpp: tuple[float, float]

    @property
    def mean(self) -> float:
        """Mean of x and y."""
        return (self.mpp[0] + self.mpp[1]) / 2


@dataclass(frozen=True)
class StatedScale:
    """All that a file says about its scale.

    Attributes:
        stated: microns per pixel, the most credible source first.
        power: objective power; None if unknown or impossible.
        unlikely: sources that are not believed, and why, in words.
    """

    stated: tuple[Stated, ...] = ()
    power: float | None = None
    unlikely: tuple[str, ...] = ()


@dataclass(frozen=True)
class SettledScale:
    """The scale that a slide is read with.

    Attributes:
        mpp: microns per level-0 pixel along x and y.
        power: objective power.
        caveat: what contradicts it; may be empty.
    """

    mpp: tuple[float, float]
    power: float
    caveat: str


def stated_scale(reader: WSIReader) -> StatedScale:
    """Return what a file says about its scale.

    In this order: the vendor's microns per pixel, the physical size of OME-XML, the resolution tag of the
    page that is read, the objective power.
    """
    from tiacrossfusion.slides.readers.series_reader import SeriesReader

    stated: list[Stated | None] = []
    unlikely = []
    if isinstance(reader, SeriesReader):
        said = dict(_APERIO.findall(reader.page.description))
        ome, power, why = _of_ome(reader)
        stated += [_mpp("the vendor's header", said, "MPP", "MPP"), ome]
        unlikely.append(why)
        if ome is None:  # tifffile writes the tag from it, without its unit
            stated.append(_of_tag(*(_tag(reader, name) for name in _TAG_NAMES)))
        power = power or _number(said.get("AppMag")) or _magnification(reader.page.description)
    elif hasattr(reader, "openslide_wsi"):
        said = reader.openslide_wsi.properties
        power = _number(said.get("openslide.objective-power"))
        # Of a TIFF without a vendor, OpenSlide computes it from the resolution tag.
        if said.get("openslide.vendor") != "generic-tiff":
            stated.append(_mpp("the vendor's header", said, "openslide.mpp-x", "openslide.mpp-y"))
        stated.append(_of_tag(*(said.get(f"tiff.{name}") for name in _TAG_NAMES)))
        power = power or _magnification(said.get("tiff.ImageDescription", ""))
    else:
        return stated_scale_of_info(reader.info)
    found = [each for each in stated if each is not None]
    tags = [each for each in found if each.source == _TAG and each.mean > COARSEST_TAG]
    unlikely += [
        f"its resolution tag of {25_400 / tag.mean:.0f} dpi is no microscope's" for tag in tags
    ]
    if power is not None and not POWER_RANGE[0] <= power <= POWER_RANGE[1]:
        power = None
    return StatedScale(
        tuple(each for each in found if each not in tags), power, tuple(filter(None, unlikely))
    )


def stated_scale_of_info(info: WSIMeta) -> StatedScale:
    """Return what a reader of TIAToolbox knows about the scale of its slide."""
    power = info.objective_power
    if power is not None and not POWER_RANGE[0] <= power <= POWER_RANGE[1]:
        power = None
    if info.mpp is None:
        return StatedScale((), power)
    return StatedScale((Stated("the header", (float(info.mpp[0]), float(info.mpp[1]))),), power)


def settle(file: StatedScale, mpp: float | None, power: float | None) -> SettledScale | str:
    """Return the scale to read a slide with, or why it is unknown.

    Args:
        file: what the file says.
        mpp: microns per pixel given by the user.
        power: objective power given by the user.
    """
    from tiatoolbox.utils.misc import mpp2common_objective_power, objective_power2mpp

    def of_power(value: float) -> tuple[float, float]:
        side = float(objective_power2mpp(value))
        return side, side

    best = file.stated[0] if file.stated else None
    if mpp is not None or power is not None:
        taken = of_power(power) if mpp is None and power is not None else (float(mpp or 0),) * 2
        caveat = ""
        known = best or (None if file.power is None else Stated("", of_power(file.power)))
        if known is not None and abs(np.mean(taken) / known.mean - 1) > MAX_DEVIATION:
            caveat = f"taken as {taken[0]:g} microns per pixel while the file says {known.mean:g}"
        lens = power or file.power or float(mpp2common_objective_power(np.mean(taken)))
        return SettledScale(taken, float(lens), caveat)
    if best is None and file.power is None:
        return "; ".join(
            ["the file states neither microns per pixel nor objective power", *file.unlikely]
        )
    if best is None:
        lens = float(file.power or 0)
        taken = of_power(lens)
        why = "; ".join(("the file states no microns per pixel", *file.unlikely))
        return SettledScale(
            taken, lens, f"{why}, taken as {taken[0]:g} by its objective power {lens:g}"
        )
    others = [
        f"{other.source} says {other.mean:g}"
        for other in file.stated[1:]
        if _contradict(best, other)
    ]
    if file.power is not None and _contradict(best, Stated("", of_power(file.power))):
        others.append(f"its objective power {file.power:g} means about {of_power(file.power)[0]:g}")
    caveats = []
    if others:
        caveats.append(
            f"taken as {best.mean:g} microns per pixel by {best.source}, while {' and '.join(others)}; "
            "--mpp settles it"
        )
    if max(best.mpp) > min(best.mpp) * (1 + MAX_DEVIATION):
        caveats.append(f"its pixels are not square, {best.mpp[0]:g} x {best.mpp[1]:g} microns")
    lens = file.power or float(mpp2common_objective_power(best.mean))
    return SettledScale(best.mpp, float(lens), "; ".join(caveats))


def _contradict(one: Stated, other: Stated) -> bool:
    if not (one.mean > 0 and other.mean > 0 and np.isfinite([one.mean, other.mean]).all()):
        return True
    return max(one.mean / other.mean, other.mean / one.mean) > CONTRADICTION


def _magnification(description: str) -> float | None:
    match = _MAG.search(description)
    return None if match is None else float(match[1])


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _mpp(source: str, said: Mapping[str, str], x: str, y: str) -> Stated | None:
    across, down = _number(said.get(x)), _number(said.get(y))
    return None if across is None or down is None else Stated(source, (across, down))


def _tag(reader: Any, name: str) -> Any:
    tag = reader.page.tags.get(name)
    return None if tag is None else tag.value


def _of_tag(x: Any, y: Any, unit: Any) -> Stated | None:
    """Return what a resolution tag says; None without a unit, or for no positive number."""
    microns = _TAG_UNITS.get(int(unit) if isinstance(unit, int) else unit)
    across, down = (
        value[0] / value[1] if isinstance(value, tuple) and value[1] else _number(value)
        for value in (x, y)
    )
    if microns is None or not across or not down or across < 0 or down < 0:
        return None
    return Stated(_TAG, (microns / across, microns / down))


def _of_ome(reader: Any) -> tuple[Stated | None, float | None, str]:
    """Return physical size, nominal magnification and why the size is no scale, of any OME schema."""
    text = reader.tiff.ome_metadata
    if not text:
        return None, None, ""
    from defusedxml import ElementTree

    try:
        root = ElementTree.fromstring(text)
    except Exception as error:  # of the parser and of its refusals
        return None, None, f"its OME-XML cannot be read ({type(error).__name__})"

    width, height = (str(side) for side in reader.info.slide_dimensions)
    images = [
        (image, _every(image, "Pixels")[0])
        for image in _every(root, "Image")
        if _every(image, "Pixels")
    ]
    fitting = [
        n for n, (_, p) in enumerate(images) if (p.get("SizeX"), p.get("SizeY")) == (width, height)
    ]
    if not fitting:
        return None, None, "its OME-XML has no image of this size"
    image, pixels = images[reader.series_n if reader.series_n in fitting else fitting[0]]
    power = _ome_power(root, image)
    sizes = [
        (pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "µm")) for a in "XY"
    ]
    given = [(size, unit.strip()) for size, unit in sizes if size is not None]
    if not given:
        return None, power, ""
    lengths = []
    for size, unit in (given[0], given[-1]):
        number, factor = _number(size), _OME_UNITS.get(unit)
        if number is None or factor is None:
            return None, power, f'its OME-XML has the size {size} "{unit}", which is no length'
        lengths.append(number * factor)
    return Stated("the physical size of OME-XML", (lengths[0], lengths[1])), power, ""


def _every(element: Any, name: str) -> list[Any]:
    """Return all elements of a name in any OME schema."""
    return [each for each in element.iter() if each.tag.rpartition("}")[2] == name]


def _ome_power(root: Any, image: Any) -> float | None:
    """Return the nominal magnification of the objective of an image, or of the only objective."""
    objectives = _every(root, "Objective")
    names = ("ObjectiveSettings", "ObjectiveSettingsRef", "ObjectiveRef")
    used = {each.get("ID") for name in names for each in _every(image, name)}
    for objective in objectives:
        if objective.get("ID") in used or len(objectives) == 1:
            return _number(objective.get("NominalMagnification"))
    return None
