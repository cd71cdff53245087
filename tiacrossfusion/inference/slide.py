"""One slide, from file to prediction: open, find tissue, lay grids, encode, predict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.caveats import bag_caveats
from tiacrossfusion.explain.attribution import attribute
from tiacrossfusion.explain.extent import why_no_maps
from tiacrossfusion.explain.gallery import read_gallery
from tiacrossfusion.explain.hotspots import find_hotspots
from tiacrossfusion.explain.rolled import rolled_scores
from tiacrossfusion.explain.scores import tile_scores
from tiacrossfusion.inference.extraction import extract_bag
from tiacrossfusion.inference.prediction import Prediction, predict_bag, risk_caveat
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.overview import read_overview
from tiacrossfusion.slides.slide import open_slide

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.explain.gallery import Gallery
    from tiacrossfusion.explain.hotspots import Hotspot
    from tiacrossfusion.explain.scores import TileScores
    from tiacrossfusion.models.bundle import ModelBundle

#: Longer side of a slide's overview in pixels.
OVERVIEW = 1200


@dataclass(frozen=True)
class SlideResult:
    """What is known of a slide once it has been predicted and closed.

    Attributes:
        bag: its features.
        prediction: what the model says.
        caveat: why the numbers may not hold for this slide; empty when nothing speaks against them.
        scores: of the tiles of each grid; None where it is not known where the patches lie.
        hotspots: where attention is highest.
        overview: (h, w, 3) uint8, the whole slide, its longer side about `OVERVIEW` pixels; None when
            only the bag was there.
        gallery: the patches with the highest and the lowest scores; None as the overview, or where there
            are no scores.
    """

    bag: FeatureBag
    prediction: Prediction
    caveat: str
    scores: dict[str, TileScores] | None
    hotspots: list[Hotspot]
    overview: np.ndarray | None = None
    gallery: Gallery | None = None

    @property
    def name(self) -> str:
        """File name of the slide."""
        return self.bag.provenance.slide

    @property
    def message(self) -> str:
        """Why something is unknown or may not hold; empty when all is well."""
        return "; ".join(text for text in (self.prediction.unknown, self.caveat) if text)


def load_readers() -> None:
    """Import TIAToolbox's readers, which takes seconds that are not the first slide's."""
    import_module("tiatoolbox.wsicore.wsireader")


def predict_slide(
    image: str | Path | WSIReader,
    bundle: ModelBundle,
    encoder: Encoder,
    read: ReadOptions | None = None,
    *,
    attribution: bool = True,
    progress: Progress | None = None,
) -> SlideResult:
    """Go the whole way with one slide; the arguments are those of the steps below.

    Raises:
        TiacfError: the slide, its mask or its scale is at fault.
    """
    read, progress = read or ReadOptions(), progress or Progress(1, show=False)
    with open_slide(image, mpp=read.scale.mpp, power=read.scale.power) as slide:
        bag = extract_bag(slide, bundle.config.sampling, encoder, read, progress=progress)
        progress.stage(slide.name, "predict")
        result = predict_stored(bag, bundle, attribution=attribution, caveat=slide.caveat)
        progress.stage(slide.name, "pictures")
        return replace(
            result,
            overview=read_overview(slide, OVERVIEW),
            gallery=None
            if result.scores is None
            else read_gallery(slide, bag, result.scores, bundle.config.sampling),
        )


def predict_stored(
    bag: FeatureBag,
    bundle: ModelBundle,
    *,
    attribution: bool = True,
    caveat: str = "",
) -> SlideResult:
    """Go the rest of the way with a slide that has been encoded; the slide itself is not read.

    Args:
        bag: its features.
        bundle: the model.
        attribution: find out what raises and lowers the risk too, and roll attention back, which takes
            about ten times as long as the prediction alone.
        caveat: what is known to speak against the numbers; a bag does not tell whether its scale was
            given against the file's word.

    Raises:
        TiacfError: as of `predict_bag`.
    """
    prediction = predict_bag(bag, bundle)
    if attribution:
        prediction = replace(
            prediction,
            rolled=rolled_scores(bag, bundle),
            attribution=attribute(bag, bundle),
        )
    no_maps = why_no_maps(bag)
    caveats = (
        caveat,
        *bag_caveats(bag),
        risk_caveat(prediction, bundle.config),
        f"no maps: {no_maps}" if no_maps else "",
    )
    scores, hotspots = None, []
    if not no_maps:
        adds = prediction.attribution
        scores = tile_scores(
            bag,
            prediction.attention,
            rolled=prediction.rolled,
            attribution=None if adds is None else adds.values,
        )
        hotspots = find_hotspots(bag, scores["20x"])
    return SlideResult(bag, prediction, "; ".join(filter(None, caveats)), scores, hotspots)
