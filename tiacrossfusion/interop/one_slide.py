"""Check that the files of several scales come from one slide and one encoder."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.interop.scale_file import ScaleFile
from tiacrossfusion.slides.spec import SCALES, SamplingSpec

#: Two scales of one slide: a coarse patch that is kept has tissue that finer patches lie on, and a finer
#: one lies in a coarse patch unless the tissue fills too little of that. In simulated slides of four kinds
#: of tissue, with grids shifted at random and the least share of tissue in a patch at 0, 1/4 and 1/2, the
#: coarser patches that hold a finer one were 0.92 or more of all (where one scale was another slide's, 0.71
#: or less), the finer ones in a coarser one 0.34 or more, and the larger of both shares 0.95 or more.
_LEAST_FILLED, _DOUBTED_FILLED = 0.8, 0.9
_LEAST_INSIDE, _DOUBTED_INSIDE = 0.2, 0.5
_LEAST_LARGER = 0.9

#: A patch holds four of the next finer scale. More than twice that, or fewer than one, is no grid of
#: the same tissue; a handful of patches may touch more.
_MOST_FINER = 8

#: Microns per pixel of a tile may differ from its scale's by this share; scanners of one power do.
_TILE_ERROR = 0.15

_MICRONS = SamplingSpec()


def check_same_origin(files: dict[str, ScaleFile], label: str) -> None:
    """Check that the files state one encoder and one slide.

    Raises:
        TiacfError: they differ in it, a file is of another scale, or two hold the same features.
    """
    for scale, file in files.items():
        _check_tile(file, scale, label)
        magnification = file.facts.magnification
        if magnification is not None and magnification != float(scale.removesuffix("x")):
            raise TiacfError(
                f"{label}: {file.path} is of {magnification:g}x, given as {scale}; "
                "check which folder is which scale"
            )
    said = {
        "features of width": lambda file: file.features.shape[1],
        "the encoder": lambda file: file.facts.encoder,
        "the slide": lambda file: file.facts.name,
        "level-0 dimensions": lambda file: file.facts.dimensions,
        "the level-0 magnification": lambda file: file.facts.power,
        "the provenance": lambda file: file.provenance,
    }
    for one, other in combinations(files, 2):
        for what, of in said.items():
            first, second = of(files[one]), of(files[other])
            if first is not None and second is not None and first != second:
                shown = (
                    f"{value:g}" if isinstance(value, float) else str(value)[:100]
                    for value in (first, second)
                )
                pair = "" if what == "the provenance" else f": {' and '.join(shown)}"
                raise TiacfError(
                    f"{label}: {one} and {other} differ in {what}{pair}; "
                    "the files must come from one slide and one encoder"
                )
        if np.array_equal(files[one].features, files[other].features) and len(files[one]) > 1:
            raise TiacfError(
                f"{label}: {one} and {other} hold the same features; "
                "check which folder is which scale"
            )


def check_cover(bounds: dict[str, np.ndarray], label: str) -> list[str]:
    """Check that the patches of each two scales lie on the same tissue.

    Counted are the coarser patches that hold a centre of a finer one, and the finer patches whose
    centre lies in a coarser one.

    Args:
        bounds: (N, 4) level-0 bounds of scales; those without positions are left out.
        label: names the slide.

    Returns:
        Notes on what looks odd.

    Raises:
        TiacfError: too few of them do.
    """
    import shapely

    notes = []
    for coarse, fine in combinations(bounds, 2):
        boxes = shapely.box(*bounds[coarse].T)
        centres = (bounds[fine][:, :2] + bounds[fine][:, 2:]) / 2
        points, hit = shapely.STRtree(boxes).query(shapely.points(centres), predicate="intersects")
        inside = len(np.unique(points)) / len(centres)
        empty = len(boxes) - len(np.unique(hit))
        filled = 1 - empty / len(boxes)
        line = (
            f"{filled:.0%} of the {coarse} patches hold a {fine} patch and {inside:.0%} of the {fine} "
            f"patches lie in a {coarse} patch"
        )
        # One stray patch of a few is no evidence.
        doubtful = filled < _LEAST_FILLED or max(filled, inside) < _LEAST_LARGER
        if (doubtful and empty > 1) or inside < _LEAST_INSIDE:
            raise TiacfError(
                f"{label}: only {line}; the files must come from one slide, with the same tissue"
            )
        if filled < _DOUBTED_FILLED or inside < _DOUBTED_INSIDE:
            notes.append(f"{line}: do they come from one slide?")
    return notes


def check_counts(files: dict[str, ScaleFile], label: str) -> list[str]:
    """Check that the numbers of patches may be those of one slide, where positions are not known.

    Returns:
        Notes on what looks odd.

    Raises:
        TiacfError: a finer scale has fewer patches than a coarser one, or far too many.
    """
    notes = []
    for coarse, fine in pairwise(SCALES):
        if coarse not in files or fine not in files:
            continue
        few, many = len(files[coarse]), len(files[fine])
        line = f"{few} patches at {coarse} and {many} at {fine}"
        if many < few or many > _MOST_FINER * (few + 1):
            raise TiacfError(
                f"{label}: {line} cannot be of one slide, a patch holds four of the next scale; "
                "check which folder is which scale"
            )
        if few >= 20 and not 2 <= many / few <= 5:
            notes.append(
                f"{line}, about four times as many are usual: do they come from one slide?"
            )
    return notes


def check_inside(bounds: np.ndarray, dimensions: tuple[int, int], scale: str, label: str) -> None:
    """Refuse patches that begin outside the slide.

    Raises:
        TiacfError: some do.
    """
    outside = int(((bounds[:, :2] >= dimensions) | (bounds[:, 2:] <= 0)).any(axis=1).sum())
    if outside:
        raise TiacfError(
            f"{label}: {outside} of {len(bounds)} {scale} patches lie outside the slide of "
            f"{dimensions[0]} x {dimensions[1]} px; check that the coordinates are level-0 pixels"
        )


def _check_tile(file: ScaleFile, scale: str, label: str) -> None:
    """Refuse a file whose tiles have another size in microns and pixels than those of its scale.

    Raises:
        TiacfError: microns per pixel differ by more than `_TILE_ERROR`.
    """
    facts = file.facts
    if facts.side_microns is None or facts.patch_size is None:
        return
    stated, wanted = facts.side_microns / facts.patch_size, _MICRONS.mpp(scale)
    if not 1 / (1 + _TILE_ERROR) <= stated / wanted <= 1 + _TILE_ERROR:
        raise TiacfError(
            f"{label}: {file.path} has tiles of {facts.side_microns:g} microns in {facts.patch_size} pixels, "
            f"{stated:.3g} microns per pixel, and is given as {scale}, which has {wanted:g}; extract the "
            "features at that scale"
        )
