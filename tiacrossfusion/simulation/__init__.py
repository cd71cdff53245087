"""Slides and cohorts with a planted, known prognosis."""

from tiacrossfusion.simulation.cohort import draw_cohort
from tiacrossfusion.simulation.parameters import TissueParameters, draw_parameters, log_hazard
from tiacrossfusion.simulation.slide import blank_slide, render_slide
from tiacrossfusion.simulation.truth import SlideTruth

__all__ = [
    "SlideTruth",
    "TissueParameters",
    "blank_slide",
    "draw_cohort",
    "draw_parameters",
    "log_hazard",
    "render_slide",
]
