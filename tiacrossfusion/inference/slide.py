"""One slide, from file to prediction: open, find tissue, lay grids, encode, predict."""

from __future__ import annotations

import logging
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
from tiacrossfusion.explain.scores import slide_scores
from tiacrossfusion.inference.budget import Budget
from tiacrossfusion.inference.extraction import extract_bag
from tiacrossfusion.inference.familiarity import familiarity_caveats
from tiacrossfusion.inference.nuisance import nuisance_sd
from tiacrossfusion.inference.prediction import (
    Prediction,
    predict_bag,
    risk_caveat,
    with_nuisance,
)
from tiacrossfusion.inference.reading import Checkpoint, PartialReading
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.overview import read_overview
from tiacrossfusion.slides.slide import Slide, open_slide

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.explain.gallery import Gallery
    from tiacrossfusion.explain.hotspots import Hotspot, HotspotsBy
    from tiacrossfusion.explain.score import Score
    from tiacrossfusion.inference.partial import Families
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.models.config import BundleConfig

_log = logging.getLogger(__name__)

_UNCERTAIN = "the risk group is uncertain: stain, scanner or sampling may change it"

_NO_RECORD = "no clinical record, so the prediction is that of the slide alone"

#: Longer side of a slide's overview in pixels.
OVERVIEW = 1200


@dataclass(frozen=True)
class SlideResult:
    """A predicted slide, with all that is written of it.

    Attributes:
        bag: its features.
        prediction: its prediction.
        config: configuration of the model.
        caveat: why the numbers may be unreliable for this slide; empty when there is no reason.
        scores: scores of each grid, from coarse to fine; empty when the places of the patches are unknown.
        hotspots: regions that raise or lower the risk most, or of the highest attention.
        overview: (h, w, 3) uint8, the whole slide, its longer side about `OVERVIEW` pixels; None when
            it was predicted from a bag.
        gallery: patches with the highest and the lowest scores; None when it was predicted from a bag
            or there are no scores.
    """

    bag: FeatureBag
    prediction: Prediction
    config: BundleConfig
    caveat: str
    scores: dict[str, list[Score]]
    hotspots: list[Hotspot]
    overview: np.ndarray | None = None
    gallery: Gallery | None = None

    @property
    def name(self) -> str:
        """File name of the slide."""
        return self.bag.provenance.slide

    def patches(self) -> dict[str, int]:
        """Return the number of patches that were read, by scale: at 5x all, of a part too."""
        reading, counts = self.prediction.reading, self.bag.counts()
        return counts if reading is None else counts | {"5x": reading.families}

    @property
    def message(self) -> str:
        """Why a value is unknown or unreliable; empty when there is no reason."""
        return "; ".join(text for text in (self.prediction.unknown, self.caveat) if text)


def load_readers() -> None:
    """Import TIAToolbox's readers, so that these seconds do not count for the first slide."""
    import_module("tiatoolbox.wsicore.wsireader")


def open_as(image: str | Path | WSIReader, read: ReadOptions) -> Slide:
    """Open a slide with its scale and picture as given; see `open_slide`."""
    slide = open_slide(image, mpp=read.scale.mpp, power=read.scale.power, series=read.series)
    if slide.caveat:
        _log.warning("%s: %s", slide.name, slide.caveat)
    return slide


def predict_slide(
    image: str | Path | WSIReader,
    bundle: ModelBundle,
    encoder: Encoder,
    read: ReadOptions | None = None,
    *,
    attribution: bool = True,
    hotspots: HotspotsBy = "attribution",
    covariates: np.ndarray | None = None,
    budget: Budget | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> SlideResult:
    """Predict from one slide: open it, find its tissue, encode its patches, predict and explain.

    Args:
        image: path of the slide, or a TIAToolbox reader.
        bundle: the model.
        encoder: the model's encoder.
        read: scale, mask, batch size and number of workers; None for the defaults.
        attribution: as in `predict_stored`.
        hotspots: as in `predict_stored`.
        covariates: as in `predict_stored`.
        budget: how much of it is read; None for all.
        checkpoint: where what was read of a part is kept until the prediction is finished.
        progress: bars to move.

    Raises:
        TiacfError: the slide, its mask or its scale cannot be used.
    """
    read, progress = read or ReadOptions(), progress or Progress(1, show=False)
    with open_as(image, read) as slide:
        families, sampling = None, bundle.config.sampling
        if budget is None or budget.reads_all:
            source: FeatureBag | Families = extract_bag(
                slide, sampling, encoder, read, scales=bundle.scales, progress=progress
            )
        else:
            from tiacrossfusion.inference.slide_families import SlideFamilies  # imports torch

            source = families = SlideFamilies(slide, sampling, encoder, read, progress, checkpoint)
        progress.stage(slide.name, "predict")
        result = predict_stored(
            source,
            bundle,
            attribution=attribution,
            hotspots=hotspots,
            covariates=covariates,
            budget=budget,
            caveat=slide.caveat,
        )
        progress.stage(slide.name, "pictures")
        bag = result.bag
        if families is not None:
            families.done()
        return replace(
            result,
            overview=read_overview(slide, OVERVIEW),
            gallery=read_gallery(slide, bag, result.scores, bundle.config.sampling)
            if result.scores
            else None,
        )


def predict_stored(
    source: FeatureBag | Families,
    bundle: ModelBundle,
    *,
    attribution: bool = True,
    hotspots: HotspotsBy = "attribution",
    covariates: np.ndarray | None = None,
    budget: Budget | None = None,
    caveat: str = "",
) -> SlideResult:
    """Predict and explain from the features of a slide.

    Args:
        source: its features, or its families, which are read as far as the budget says.
        bundle: the model.
        attribution: compute attribution and attention rollout too, which takes about ten times as long
            as the prediction alone.
        hotspots: find hotspots by "attribution", where it is computed, or by "attention".
        covariates: (C,) of the patient, as `ModelBundle.covariates_of` returns them, for a network that takes
            covariates.
        budget: how much is read; None for all.
        caveat: why the numbers may be unreliable, known from opening the slide; a bag does not record
            whether its scale contradicts the file.

    Raises:
        TiacfError: as of `predict_bag`.
    """
    budget = budget or Budget()
    given = source if isinstance(source, FeatureBag) else None
    if isinstance(source, FeatureBag) and budget.reads_all:
        bag, prediction = source, predict_bag(source, bundle, covariates)
    else:
        from tiacrossfusion.inference.partial import BagFamilies  # imports torch

        families = BagFamilies(source) if isinstance(source, FeatureBag) else source
        budget.checked(lambda: bundle)
        bag, prediction = _of_families(families, bundle, budget, covariates)
    part = prediction.reading is not None and prediction.reading.share < 1
    nothing_read = prediction.reading is not None and not prediction.reading.read.any()
    if attribution and not nothing_read:
        prediction = replace(
            prediction,
            rolled=rolled_scores(bag, bundle, covariates),
            attribution=attribute(bag, bundle, covariates),
        )
    if not nothing_read:
        sd = nuisance_sd(bag, bundle, prediction.risk, covariates)
        prediction = with_nuisance(prediction, sd, bundle.config.risk_reference)
    if prediction.record is not None and not prediction.record.used:
        caveat = "; ".join(filter(None, (caveat, _NO_RECORD)))
    no_maps = "no family was read" if nothing_read else why_no_maps(bag)
    caveats = [
        caveat,
        *bag_caveats(bag),
        *familiarity_caveats(given or bag, bundle, of_part=given is None and part),
        risk_caveat(prediction, bundle.config),
        _UNCERTAIN if prediction.group_uncertain else "",
        _of_reading(prediction.reading),
    ]
    if no_maps and prediction.reading is None:
        caveats.append(f"no maps: {no_maps}")
    scores = {} if no_maps else slide_scores(bag, bundle, prediction)
    found = find_hotspots(bag, scores[bag.finest], hotspots) if scores else []
    caveat = "; ".join(filter(None, caveats))
    return SlideResult(bag, prediction, bundle.config, caveat, scores, found)


def _of_families(
    families: Families, bundle: ModelBundle, budget: Budget, covariates: np.ndarray | None
) -> tuple[FeatureBag, Prediction]:
    """Return the bag of the families that were read, and the prediction of the whole slide."""
    from tiacrossfusion.inference.partial import predict_families, read_families

    prediction, reading = predict_families(families, bundle, budget, covariates)
    bag = read_families(families.bag())
    if not reading.read.any():
        return bag, replace(prediction, reading=reading)
    seen = predict_bag(bag, bundle, covariates)
    if reading.share == 1:
        whole = replace(reading, low=seen.risk, high=seen.risk, shrunken=seen.risk)
        return bag, replace(seen, reading=whole)
    return bag, replace(prediction, reading=reading, attention=seen.attention)


def _of_reading(reading: PartialReading | None) -> str:
    """Return what is to be said of a slide of which a part was read."""
    if reading is None or reading.share == 1:
        return ""
    said = [f"{reading.share:.0%} of the families read"]
    if reading.share > 0:
        said.append("maps and contributions are those of what was read")
    if not reading.calibrated:
        said.append("its interval is Student's t, not checked on other slides (tiacf calibrate)")
    return ", ".join(said)
