"""The demonstration: two simulated slides, predicted, with what was planted on the maps of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.encoders.stored import load_encoder_of
from tiacrossfusion.models.source import LoadedModel
from tiacrossfusion.outputs.report.fragment import Layer, ReportSlide
from tiacrossfusion.outputs.report.maps import Frame, area_layer
from tiacrossfusion.runs.prediction import predict
from tiacrossfusion.runs.prediction_task import PredictionOptions
from tiacrossfusion.runs.results_folder import ResultsFolder
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import render_slide
from tiacrossfusion.simulation.truth import SlideTruth

if TYPE_CHECKING:
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.models.config import BundleConfig
    from tiacrossfusion.runs.runner import Outcome

MODEL = "nested-demo"

#: Slides: name, and how adverse architecture, glands and nuclei are (0 to 1).
SLIDES = {"simulated-low-risk": (0.1, 0.1, 0.1), "simulated-high-risk": (0.9, 0.9, 0.9)}
_SIZE, _MPP = (6144, 6144), 0.5

#: What is planted at each scale, and what it looks like.
_PLANTED = {
    "architecture": ("5x", "small infiltrating nests and strands"),
    "glands": ("10x", "solid sheets without lumens"),
    "nuclei": ("20x", "large, irregular nuclei of uneven size"),
}


@dataclass(frozen=True)
class Demonstration:
    """The slides of a demonstration and their predictions.

    Attributes:
        slides: paths of the slides.
        truths: what was planted in each.
        outcomes: the prediction of each.
        config: of the model.
    """

    slides: list[Path]
    truths: list[SlideTruth]
    outcomes: list[Outcome]
    config: BundleConfig


def demonstrate(
    bundle: ModelBundle, folder: ResultsFolder, device: str, say: Callable[[str], object]
) -> Demonstration:
    """Simulate the slides unless they are in the folder, predict them and write the report.

    Results that are there are made again: they may be those of an older demonstration model.

    Raises:
        OutputError: the folder cannot be written.
    """
    encoder = load_encoder_of(bundle.config.encoder, device=device)
    slides, truths = [], []
    for seed, (name, shares) in enumerate(SLIDES.items()):
        slide, truth = folder.path / f"{name}.svs", folder.path / f"{name}_truth.npz"
        if not (slide.exists() and truth.exists()):
            say(f"Simulating {slide} ...")
            with folder.writing():
                drawn = render_slide(
                    slide, TissueParameters(*shares), size=_SIZE, mpp=_MPP, seed=seed
                )
                drawn.save(truth)
        slides.append(slide)
        truths.append(SlideTruth.load(truth))
    options = PredictionOptions(overwrite=True)
    outcomes = predict(slides, LoadedModel(encoder, bundle), folder, options).outcomes
    _show_planted(folder, dict(zip((slide.name for slide in slides), truths, strict=True)))
    folder.write_report(bundle.config)
    return Demonstration(slides, truths, outcomes, bundle.config)


def _show_planted(folder: ResultsFolder, truths: dict[str, SlideTruth]) -> None:
    """Add a layer for each planted pattern to the slides' parts of the report."""
    for record in folder.records():
        part = folder.fragment(record)
        if record.status != "ok" or not part.exists():
            continue
        slide = ReportSlide.load(part)
        if slide.map is None or slide.name not in truths:
            continue
        layers = (*slide.map.layers, *_planted(truths[slide.name]))
        shown = slide.map.model_copy(update={"layers": layers})
        with folder.writing():
            slide.model_copy(update={"map": shown}).save(part)


def _planted(truth: SlideTruth) -> list[Layer]:
    """Return a layer for each pattern that was planted."""
    frame = Frame(_SIZE)
    return [
        area_layer(
            frame,
            getattr(truth, name),
            truth.mpp_of_maps / _MPP,
            family="Planted",
            name=f"{scale} {name}",
            meaning=f"Where the simulation drew {look}; the model was not told.",
        )
        for name, (scale, look) in _PLANTED.items()
        if getattr(truth, name).any()
    ]
