"""Feature files of another program, one a scale, become one bag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.interop.h5_reading import read_h5
from tiacrossfusion.interop.one_slide import (
    check_counts,
    check_cover,
    check_inside,
    check_same_origin,
)
from tiacrossfusion.interop.positions import level0_corners, nested_grid, patch_sides
from tiacrossfusion.interop.pt_files import read_pt
from tiacrossfusion.interop.scale_file import CoordsUnit, ScaleFile
from tiacrossfusion.interop.sources import SlideFiles
from tiacrossfusion.slides.spec import SamplingSpec

_PATCH_SIZE = 256


@dataclass(frozen=True)
class ImportOptions:
    """What the files do not state; what they state has precedence, or must agree.

    Attributes:
        encoder: a name as in `tiacf encoders`; over the name in the files.
        patch_size: side of a patch in pixels of its scale; None for what the files say, else 256.
        mpp: microns per level-0 pixel of the slides.
        own_mpp: the same of single slides, by name, instead.
        power: objective power of level 0 of the slides.
        coords: unit of the coordinates where the files do not state it.
        units: how other slides are to be sampled for a model that is trained on the bags.
    """

    encoder: str | None = None
    patch_size: int | None = None
    mpp: float | None = None
    own_mpp: Mapping[str, float] = field(default_factory=dict)
    power: float | None = None
    coords: CoordsUnit | None = None
    units: Literal["mpp", "power"] = "power"


def import_bag(slide: SlideFiles, options: ImportOptions) -> tuple[FeatureBag, list[str]]:
    """Read the files of a slide and check that they belong together.

    Returns:
        The bag, and notes on what looks odd or is not known.

    Raises:
        TiacfError: a scale of other slides is missing, a file cannot be read, or they do not belong
            together.
    """
    if options.own_mpp:
        if slide.name not in options.own_mpp:
            raise TiacfError(f"{slide.name}: the CSV of --mpp has no row for it; add one")
        options = replace(options, mpp=options.own_mpp[slide.name])
    if slide.absent:
        there = ", ".join(str(path) for path in slide.files.values())
        raise TiacfError(
            f"{slide.name}: no file at {' and '.join(slide.absent)} beside {there}; all slides need "
            "the same scales"
        )
    files = {
        scale: read_pt(path) if path.suffix == ".pt" else read_h5(path)
        for scale, path in slide.files.items()
    }
    check_same_origin(files, slide.name)
    own = {scale: file.provenance for scale, file in files.items() if file.provenance is not None}
    if own and len(own) < len(files):
        raise TiacfError(
            f"{slide.name}: tiacf wrote the files of {' and '.join(own)}, another program the rest; "
            "give files of one kind"
        )
    if own:
        return _own_bag(files, next(iter(own.values())), options), []
    return _foreign_bag(slide.name, files, options)


def _own_bag(
    files: dict[str, ScaleFile], provenance: Provenance, options: ImportOptions
) -> FeatureBag:
    """Return the bag of files that this package wrote; they have been compared."""
    if options.encoder not in (None, provenance.encoder.name):
        raise TiacfError(
            f"{provenance.slide}: --encoder {options.encoder}: the files say "
            f"{provenance.encoder.name}; leave it out"
        )
    imported = provenance.imported or _imported(files)  # they may have been another's before
    scales = {
        scale: ScaleFeatures(file.features, file.bounds, file.grid) for scale, file in files.items()
    }
    return FeatureBag(scales, provenance.model_copy(update={"imported": imported}))


def _foreign_bag(
    name: str, files: dict[str, ScaleFile], options: ImportOptions
) -> tuple[FeatureBag, list[str]]:
    """Return a bag of files of another program, with notes."""
    encoder = options.encoder or _first(files, "encoder")
    if not encoder:
        raise TiacfError(
            f"{name}: the files do not say what made the features; give --encoder, a name as in "
            "`tiacf encoders`"
        )
    power = _first(files, "power") or options.power
    patch_size = _patch_size(name, files, options)
    dimensions = _first(files, "dimensions")

    corners: dict[str, np.ndarray | None] = {}
    reasons = {}
    for scale, file in files.items():
        corners[scale], reasons[scale] = level0_corners(
            file, scale, unit=options.coords, mpp=options.mpp, power=power
        )
    sides = patch_sides(
        files, corners, patch_size=patch_size, mpp=options.mpp, power=power, label=name
    )
    bounds = {}
    for scale, points in corners.items():
        if points is not None and sides:
            edges = np.concatenate([points, points + sides[scale]], axis=1)
            bounds[scale] = np.rint(edges).astype(np.int64)
            if dimensions is not None:
                check_inside(bounds[scale], dimensions, scale, name)
        elif points is not None:
            reasons[scale] = "size of the patches unknown; give --mpp or --power"
    notes = check_cover(bounds, name)
    if len(bounds) < len(files):
        notes += check_counts(files, name)
        lost = [scale for scale in files if scale not in bounds]
        why = " and ".join(dict.fromkeys(reasons[scale] for scale in lost))
        notes.append(f"positions unknown at {', '.join(lost)} ({why})")
    grids = nested_grid(bounds) if len(bounds) == len(files) else {}
    scales = {
        scale: ScaleFeatures(file.features, bounds.get(scale), grids.get(scale))
        for scale, file in files.items()
    }
    provenance = Provenance(
        slide=_first(files, "name") or name,
        slide_size=None,
        slide_hash=None,
        dimensions=dimensions,
        mpp=None if options.mpp is None else (options.mpp, options.mpp),
        power=power,
        offset=(0, 0),
        mask=None,
        sampling=SamplingSpec(units=options.units, patch_size=patch_size),
        encoder=EncoderSpec(name=encoder, width=next(iter(files.values())).features.shape[1]),
        versions={"tiacrossfusion": version("tiacrossfusion")},
        imported=_imported(files),
    )
    return FeatureBag(scales, provenance), notes


def _patch_size(name: str, files: dict[str, ScaleFile], options: ImportOptions) -> int:
    """Side of a patch in pixels of its scale."""
    said = [file.facts.patch_size for file in files.values()] + [options.patch_size]
    sizes = sorted({size for size in said if size is not None})
    if len(sizes) > 1:
        raise TiacfError(
            f"{name}: patch sizes {' and '.join(map(str, sizes))} in the files and --patch-size; "
            "all scales need one patch size"
        )
    size = sizes[0] if sizes else _PATCH_SIZE
    if not 16 <= size <= 4096:
        raise TiacfError(f"{name}: patches of {size} px; a bag takes 16 to 4096")
    return size


def _first(files: dict[str, ScaleFile], fact: str) -> Any:
    """Return a fact from the first file that states it; the files have been compared."""
    return next((v for f in files.values() if (v := getattr(f.facts, fact)) is not None), None)


def _imported(files: dict[str, ScaleFile]) -> str:
    """Return format and files, for the provenance."""
    formats = dict.fromkeys(file.format for file in files.values())
    return f"{', '.join(formats)}: {', '.join(str(f.path) for f in files.values())}"
