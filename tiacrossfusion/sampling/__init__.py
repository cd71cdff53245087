"""Sampling: from a slide file to patches on three nested grids."""

from tiacrossfusion.sampling.batches import PatchBatch, Unreadable, read_batches
from tiacrossfusion.sampling.families import parents_of, whole_families
from tiacrossfusion.sampling.grid import PatchGrid, cell_side_20x, nested_grids
from tiacrossfusion.sampling.overview import read_overview
from tiacrossfusion.sampling.patches import coarse_base, read_patch
from tiacrossfusion.sampling.roads import Road, choose_road
from tiacrossfusion.sampling.slide import Slide, open_slide
from tiacrossfusion.sampling.spec import SCALES, SamplingSpec
from tiacrossfusion.sampling.tissue import find_mask, tissue_mask, user_mask

__all__ = [
    "SCALES",
    "PatchBatch",
    "PatchGrid",
    "Road",
    "SamplingSpec",
    "Slide",
    "Unreadable",
    "cell_side_20x",
    "choose_road",
    "coarse_base",
    "find_mask",
    "nested_grids",
    "open_slide",
    "parents_of",
    "read_batches",
    "read_overview",
    "read_patch",
    "tissue_mask",
    "user_mask",
    "whole_families",
]
