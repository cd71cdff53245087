"""How patches are sampled from a slide."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: The scales from coarse to fine. A 5x cell holds 2 x 2 cells of 10x and 4 x 4 cells of 20x.
SCALES = ("5x", "10x", "20x")

#: How many 20x cells lie along one side of a cell of each scale.
CELLS_20X = {"5x": 4, "10x": 2, "20x": 1}

#: Microns per pixel and objective power of the finest scale, as in the paper (section 4: patches at 20x).
_FINEST = {"mpp": 0.5, "power": 20.0}


class SamplingSpec(BaseModel):
    """How patches are laid over a slide and which of them are kept.

    The spec is part of a model bundle, which refuses bags that were sampled with another one.

    Attributes:
        units: "mpp" lays the scales at 2.0, 1.0 and 0.5 microns per pixel on any scanner;
            "power" at 5, 10 and 20 times, where 10 divided by the microns per pixel is a slide's power: a
            slide of 0.23 microns per pixel is one of 40 times, whatever lens it was taken with.
        patch_size: side of a patch in pixels of its scale.
        mask_method: TIAToolbox's tissue mask.
        mask_mpp: resolution of the tissue mask in microns per pixel; a finer one of a whole slide may
            not fit in memory.
        min_mask_ratio: a 20x cell is kept when more than this share of it (of the part inside the
            slide) is tissue.
        keep_parents: a 10x or a 5x cell is kept when any of the 20x cells in it is kept, so that every
            kept cell has its ancestors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    units: Literal["mpp", "power"] = "mpp"
    patch_size: int = Field(256, ge=16, le=4096)
    mask_method: Literal["otsu", "morphological"] = "otsu"
    mask_mpp: float = Field(8.0, ge=2, le=128)
    min_mask_ratio: float = Field(0.5, ge=0, le=1)
    keep_parents: Literal["any_child"] = "any_child"

    def resolution(self, scale: str) -> float:
        """Resolution of a scale in this spec's units: 2.0, 1.0, 0.5 mpp or 5, 10, 20 power."""
        if self.units == "mpp":
            return _FINEST["mpp"] * CELLS_20X[scale]
        return _FINEST["power"] / CELLS_20X[scale]

    def mpp(self, scale: str) -> float:
        """Microns per pixel of a scale."""
        resolution = self.resolution(scale)
        return resolution if self.units == "mpp" else 10 / resolution
