"""Slides and cohorts with a planted, known prognosis."""

from tiacrossfusion.simulation.bags import draw_bag, draw_bags, simulate_bags
from tiacrossfusion.simulation.cohort import draw_cohort
from tiacrossfusion.simulation.parameters import (
    TissueParameters,
    draw_parameters,
    log_hazard,
)
from tiacrossfusion.simulation.planted import (
    SCENARIOS,
    Scenario,
    draw_planted_cohort,
    slide_rng,
    true_concordance,
)
from tiacrossfusion.simulation.slide import blank_slide, render_slide
from tiacrossfusion.simulation.slides import simulate_slides
from tiacrossfusion.simulation.truth import SlideTruth

__all__ = [
    "SCENARIOS",
    "Scenario",
    "SlideTruth",
    "TissueParameters",
    "blank_slide",
    "draw_bag",
    "draw_bags",
    "draw_cohort",
    "draw_parameters",
    "draw_planted_cohort",
    "log_hazard",
    "render_slide",
    "simulate_bags",
    "simulate_slides",
    "slide_rng",
    "true_concordance",
]
