"""Sampling: from a slide file to patches on three nested grids."""

from tiacrossfusion.sampling.grid import PatchGrid, nested_grids
from tiacrossfusion.sampling.patches import (
    PatchBatch,
    coarse_base,
    read_batches,
    read_overview,
    read_patch,
)
from tiacrossfusion.sampling.slide import Slide, open_slide
from tiacrossfusion.sampling.spec import SCALES, SamplingSpec
from tiacrossfusion.sampling.tissue import find_mask, tissue_mask, user_mask

__all__ = [
    "SCALES",
    "PatchBatch",
    "PatchGrid",
    "SamplingSpec",
    "Slide",
    "coarse_base",
    "find_mask",
    "nested_grids",
    "open_slide",
    "read_batches",
    "read_overview",
    "read_patch",
    "tissue_mask",
    "user_mask",
]
