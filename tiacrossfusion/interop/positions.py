"""Positions of imported patches in level-0 pixels, and their nested grids."""

from __future__ import annotations

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.interop.scale_file import CoordsUnit, ScaleFile
from tiacrossfusion.slides.spec import CELLS_20X, SamplingSpec

#: Sides are whole pixels in most files: 506 for 506.3.
_RELATIVE_ERROR = 0.02

#: A nominal magnification and the true resolution differ by some percent, a wrong one by a factor.
_NOMINAL_ERROR = 0.25

#: Neighbours this close to the nominal side touch each other: their distance is the side.
_NEIGHBOUR_ERROR = 0.05

_MICRONS = SamplingSpec(units="mpp")
_POWER = SamplingSpec(units="power")


def level0_corners(
    file: ScaleFile,
    scale: str,
    *,
    unit: CoordsUnit | None,
    mpp: float | None,
    power: float | None,
) -> tuple[np.ndarray | None, str]:
    """Turn the coordinates of a file into level-0 pixels; `unit` holds where the file states none.

    Returns:
        (N, 2) float64 corners at the top left, or None where that is not known; and the reason then.
    """
    if file.coords is None:
        return None, "no coordinates"
    # A file that states the side in level-0 pixels has level-0 coordinates; else the option has precedence
    # over what is usual for the format.
    said = file.facts.unit == "micron" or file.facts.side is not None
    unit = file.facts.unit if said or unit is None else unit
    if unit == "level0":
        return file.coords, ""
    if unit == "micron":
        return (file.coords / mpp, "") if mpp else (None, "coordinates in microns; give --mpp")
    if unit == "scale":
        if mpp:
            return file.coords * _MICRONS.resolution(scale) / mpp, ""
        if power:
            return file.coords * power / _POWER.resolution(scale), ""
        return None, "coordinates in pixels of the scale; give --mpp or --power"
    return None, "what the coordinates count is not written in the file; give --coords"


def patch_sides(
    files: dict[str, ScaleFile],
    corners: dict[str, np.ndarray | None],
    *,
    patch_size: int,
    mpp: float | None,
    power: float | None,
    label: str,
) -> dict[str, float]:
    """Sides of the patches of each scale in level-0 pixels.

    A side is taken from the file; else from the distance between neighbours (as if patches did not
    overlap), unless `patch_size` and the slide's resolution give another size; else from those; else
    from another scale of the slide.

    Returns:
        Side of each scale; empty where they are unknown.

    Raises:
        TiacfError: the sides contradict each other, the slide's resolution or the distances.
    """
    sides: dict[str, float] = {}
    for scale, file in files.items():
        nominal = _nominal_side(scale, patch_size, mpp, power)
        told = file.facts.side
        if told is None and file.facts.side_microns is not None and mpp:
            told = file.facts.side_microns / mpp
        if told and nominal and abs(told / nominal - 1) > _NOMINAL_ERROR:
            raise TiacfError(
                f"{label}: {scale} patches are {told:g} level-0 px wide in {file.path}, but "
                f"{patch_size} px at {scale} of this slide are {nominal:g}; check the folders, "
                "--patch-size, --mpp and --power"
            )
        points = corners[scale]
        step = None if points is None else _step(points)
        close = bool(step and nominal and abs(step / nominal - 1) < _NEIGHBOUR_ERROR)
        side = told or (step if close else nominal) or step
        if side and step and step > side * (1 + _NOMINAL_ERROR):
            raise TiacfError(
                f"{label}: {scale} patches stand {step:g} level-0 px apart in {file.path} but would "
                f"be {side:g} wide; check --coords, --patch-size, --mpp and --power"
            )
        if side:
            sides[scale] = side
    if not sides:
        return {}
    known = next(iter(sides))
    sides = {
        scale: sides.get(scale, sides[known] * CELLS_20X[scale] / CELLS_20X[known])
        for scale in files
    }
    units = [side / CELLS_20X[scale] for scale, side in sides.items()]
    if max(units) > min(units) * (1 + _RELATIVE_ERROR):
        have = ", ".join(f"{side:g} at {scale}" for scale, side in sides.items())
        raise TiacfError(
            f"{label}: patches are {have} level-0 px wide, not as 4 : 2 : 1; check which folder is "
            "which scale, and that all scales have one patch size"
        )
    return sides


def nested_grid(bounds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns and rows on one lattice of coarse cells that is subdivided, where the patches lie on one.

    Args:
        bounds: (N, 4) level-0 bounds of each scale, from coarse to fine.

    Returns:
        (N, 2) int32 of each scale, as in `ScaleFeatures.grid`; empty where sides are not 4 : 2 : 1, a
        patch lies off the lattice or twice on it, or an ancestor of a patch is missing.
    """
    coarsest, finest = next(iter(bounds)), next(reversed(bounds))
    side = int(bounds[finest][0, 2] - bounds[finest][0, 0])
    cells_along = {scale: CELLS_20X[scale] // CELLS_20X[finest] for scale in bounds}
    origin = bounds[coarsest][0, :2] % (side * cells_along[coarsest])
    grids: dict[str, np.ndarray] = {}
    for scale, edges in bounds.items():
        cell = side * cells_along[scale]
        corners = edges[:, :2] - origin
        if (edges[:, 2:] - edges[:, :2] != cell).any() or (corners % cell).any():
            return {}
        grids[scale] = corners // cell
    # Cells left of or above the first whole one would have negative numbers: count from them.
    first = np.minimum(0, grids[coarsest].min(axis=0))
    above: set[tuple[int, int]] = set()
    wide = CELLS_20X[coarsest]
    for scale, grid in grids.items():
        grid -= first * (CELLS_20X[coarsest] // CELLS_20X[scale])
        cells = set(map(tuple, grid.tolist()))
        if len(cells) < len(grid):
            return {}
        n = wide // CELLS_20X[scale]
        if above and not {(x // n, y // n) for x, y in cells} <= above:
            return {}
        above, wide = cells, CELLS_20X[scale]
    return {scale: grid.astype(np.int32) for scale, grid in grids.items()}


def _nominal_side(
    scale: str, patch_size: int, mpp: float | None, power: float | None
) -> float | None:
    """Side in level-0 pixels of a patch of a scale on a slide of known resolution."""
    if mpp:
        return patch_size * _MICRONS.resolution(scale) / mpp
    return patch_size * power / _POWER.resolution(scale) if power else None


def _step(corners: np.ndarray) -> float | None:
    """Commonest distance between neighbours in a row or column; None without neighbours.

    Some programs lay a lattice for each piece of tissue, so only neighbours are compared.
    """
    distances = []
    for along, across in ((0, 1), (1, 0)):
        order = np.lexsort((corners[:, along], corners[:, across]))
        gaps = np.diff(corners[order], axis=0)
        distances.append(gaps[(gaps[:, across] == 0) & (gaps[:, along] > 0), along])
    values, counts = np.unique(np.rint(np.concatenate(distances)), return_counts=True)
    return float(values[counts.argmax()]) if len(values) else None
