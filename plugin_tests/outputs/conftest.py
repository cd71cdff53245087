"""A predicted slide and its fragment of the report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up_scores import scores_of
from report_pages import HOSTILE

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.explain.attribution import Attribution
from tiacrossfusion.explain.gallery import read_gallery
from tiacrossfusion.explain.hotspots import find_hotspots
from tiacrossfusion.inference.extraction import bag_provenance
from tiacrossfusion.inference.slide import SlideResult, predict_stored
from tiacrossfusion.outputs.report.fragment import ReportSlide
from tiacrossfusion.outputs.report.making import make_fragment
from tiacrossfusion.slides.grid import nested_grids
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.overview import read_overview
from tiacrossfusion.slides.slide import open_slide

CONTRIBUTION = {"5x": 0.1, "10x": -0.2, "20x": 0.4}


@pytest.fixture(scope="session")
def slide(simulated):
    with open_slide(simulated / "low.svs") as slide:
        yield slide


@pytest.fixture(scope="session")
def result(slide, demo_bundle) -> SlideResult:
    """A prediction from features at random: the report does not care where they come from."""
    rng = np.random.default_rng(0)
    spec = demo_bundle.config.sampling
    scales = {}
    for scale, grid in nested_grids(slide, None, spec).items():
        features = rng.random((len(grid), demo_bundle.config.encoder.width)).astype(np.float16)
        scales[scale] = ScaleFeatures(features, grid.bounds, grid.grid)
    made = bag_provenance(slide, spec, demo_bundle.config.encoder, ReadOptions())
    return dataclasses.replace(
        predict_stored(FeatureBag(scales, made), demo_bundle, attribution=False),
        overview=read_overview(slide, 1200),
    )


@pytest.fixture(scope="session")
def scores(result):
    rng = np.random.default_rng(1)
    attribution = {scale: rng.normal(0, 0.1, n) for scale, n in result.bag.counts().items()}
    return scores_of(result.bag, result.prediction.attention, attribution=attribution)


@pytest.fixture(scope="session")
def fragment(slide, result, scores, demo_bundle) -> ReportSlide:
    adds = Attribution({}, result.prediction.risk, -1.0, CONTRIBUTION, "own")
    whole = dataclasses.replace(
        result,
        prediction=dataclasses.replace(result.prediction, attribution=adds),
        scores=scores,
        hotspots=find_hotspots(result.bag, scores["20x"]),
        gallery=read_gallery(slide, result.bag, scores, demo_bundle.config.sampling),
    )
    return make_fragment(whole).model_copy(update={"source": "/data/low.svs"})


@pytest.fixture
def slides(fragment) -> list[ReportSlide]:
    """Slides of a run, not in the order of their risk."""
    return [
        fragment.model_copy(update={"name": "middle.svs", "risk": -2.0}),
        fragment.model_copy(update={"name": HOSTILE, "risk": -1.0, "message": HOSTILE}),
        ReportSlide(name="broken.svs", status="failed", message=f"{HOSTILE}: not a slide"),
        fragment.model_copy(update={"name": "best.svs", "risk": -3.0, "source": HOSTILE}),
    ]
