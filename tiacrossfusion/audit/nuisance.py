"""Nuisances: what may differ between two scans of the same tissue without meaning anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from tiacrossfusion.audit import pixels

if TYPE_CHECKING:
    from tiacrossfusion.slides.options import PixelChange
    from tiacrossfusion.slides.spec import SamplingSpec

#: Another slide's stain, by a normaliser.
StainMethod = Literal["macenko", "vahadane"]


@dataclass(frozen=True)
class Nuisance:
    """Another way to stain, scan or read the same slide.

    Attributes:
        name: in tables.
        kind: "stain", "scanner", "sampling" or "turn".
        pixels: the change of pixels, drawn for a slide; None leaves them.
        stain_of_another: normaliser that brings the slide to the stain of another slide.
        sampled: other fields of the sampling, from those of the model.
        margin: how far outside the slide the grids begin, in sides of a 20x patch.
        mpp: factor of the slide's scale.
        turned_grid: the places of the patches are turned by 90 degrees.
    """

    name: str
    kind: Literal["stain", "scanner", "sampling", "turn"]
    pixels: Callable[[np.random.Generator], PixelChange] | None = None
    stain_of_another: StainMethod | None = None
    sampled: Callable[[SamplingSpec], dict[str, object]] | None = None
    margin: float = 0.0
    mpp: float = 1.0
    turned_grid: bool = False


def _always(change: PixelChange) -> Callable[[np.random.Generator], PixelChange]:
    return lambda _: change


def _other_masker(spec: SamplingSpec) -> dict[str, object]:
    return {"mask_method": "morphological" if spec.mask_method == "otsu" else "otsu"}


def _half_the_tissue(spec: SamplingSpec) -> dict[str, object]:
    return {"min_mask_ratio": spec.min_mask_ratio / 2}


#: All that are tried, in the order of the tables.
NUISANCES = (
    Nuisance("HED jitter, SD .02", "stain", partial(pixels.hed_jitter, 0.02)),
    Nuisance("HED jitter, SD .05", "stain", partial(pixels.hed_jitter, 0.05)),
    Nuisance("stain of another slide, Macenko", "stain", stain_of_another="macenko"),
    Nuisance("stain of another slide, Vahadane", "stain", stain_of_another="vahadane"),
    Nuisance("gamma .9", "scanner", _always(pixels.gamma(0.9))),
    Nuisance("gamma 1.1", "scanner", _always(pixels.gamma(1.1))),
    Nuisance(
        "white balance, warmer by 5 %", "scanner", _always(pixels.white_balance((1.05, 1.0, 0.95)))
    ),
    Nuisance(
        "white balance, colder by 5 %", "scanner", _always(pixels.white_balance((0.95, 1.0, 1.05)))
    ),
    Nuisance("JPEG quality 70", "scanner", _always(pixels.jpeg(70))),
    Nuisance("JPEG quality 50", "scanner", _always(pixels.jpeg(50))),
    Nuisance("blur .5 microns", "scanner", _always(pixels.blur(0.5))),
    Nuisance("blur 1 micron", "scanner", _always(pixels.blur(1.0))),
    Nuisance("scale 2 % larger", "sampling", mpp=1.02),
    Nuisance("scale 2 % smaller", "sampling", mpp=0.98),
    Nuisance("grid moved by half a 20x patch", "sampling", margin=0.5),
    Nuisance("grid moved by half a 5x patch", "sampling", margin=2.0),
    Nuisance("TIAToolbox's other tissue mask", "sampling", sampled=_other_masker),
    Nuisance("half the tissue suffices", "sampling", sampled=_half_the_tissue),
    Nuisance("patches turned by 90 degrees", "turn", _always(pixels.turned)),
    Nuisance("grid turned by 90 degrees", "turn", turned_grid=True),
    Nuisance("slide turned by 90 degrees", "turn", _always(pixels.turned), turned_grid=True),
)
