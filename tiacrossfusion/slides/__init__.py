"""Sampling: from a slide file to patches on three nested grids."""

from tiacrossfusion.slides.batches import PatchBatch, Unreadable, read_batches
from tiacrossfusion.slides.families import parents_of, whole_families
from tiacrossfusion.slides.grid import PatchGrid, cell_side_20x, nested_grids
from tiacrossfusion.slides.overview import read_overview
from tiacrossfusion.slides.patches import coarse_base, read_patch
from tiacrossfusion.slides.readers.choice import Road, choose_road
from tiacrossfusion.slides.slide import Slide, open_slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.slides.tissue import find_mask, tissue_mask, user_mask

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
