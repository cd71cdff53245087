"""Bags of made-up slides with made-up attention and attribution, and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.explain.hotspots import Hotspot, find_hotspots
from tiacrossfusion.explain.score import Score
from tiacrossfusion.explain.scores import slide_scores
from tiacrossfusion.inference.slide import SlideResult
from tiacrossfusion.outputs.geojson_files import QuPathWriter
from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

ORIGIN = {
    "model": "made-up model",
    "note": "demonstration, not for clinical use",
}
SIDE = 506.3  # level-0 pixels of a 20x cell: the lattice lines are rounded, as on a real slide


def make_bag(
    cells: list[tuple[int, int]],
    *,
    dimensions: tuple[int, int] | None = None,
    offset: tuple[int, int] = (0, 0),
) -> FeatureBag:
    """Bag of the given kept 20x cells (column, row) and their ancestors."""
    fine = np.array(cells, np.int32).reshape(-1, 2)
    lines = np.rint(np.arange(fine.max(initial=0) + 6) * SIDE).astype(np.int64)
    scales = {}
    for scale in SCALES:
        grid = np.unique((fine // CELLS_20X[scale])[:, ::-1], axis=0)[:, ::-1]
        start = grid * CELLS_20X[scale]
        bounds = np.concatenate([lines[start], lines[start + CELLS_20X[scale]]], axis=1)
        features = np.zeros((len(grid), 1), np.float16)
        scales[scale] = ScaleFeatures(features, bounds, grid.astype(np.int32))
    size = dimensions or tuple(int(v) for v in scales["5x"].bounds[:, 2:].max(axis=0))
    provenance = Provenance(
        slide="a slide.svs",
        slide_size=1,
        slide_hash="1234",
        dimensions=size,
        mpp=(0.25, 0.25),
        power=40,
        offset=offset,
        mask="otsu",
        sampling=SamplingSpec(),
        encoder=EncoderSpec(name="made-up", width=1, mean=(0, 0, 0), std=(1, 1, 1), input_size=224),
        versions={"tiatoolbox": "2.1.3"},
    )
    return FeatureBag(scales, provenance)


def block(width: int, height: int) -> list[tuple[int, int]]:
    return [(column, row) for row in range(height) for column in range(width)]


def make_attention(bag: FeatureBag, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = bag.counts() | {"fused": len(bag.scales["10x"])}
    return {stage: rng.dirichlet(np.ones(n)).astype(np.float32) for stage, n in lengths.items()}


def hot_attention(bag: FeatureBag, hot: dict[tuple[int, int], float]) -> dict[str, np.ndarray]:
    """Fused attention of 1 at the 10x cells, but as given at the hot ones (column, row)."""
    attention = make_attention(bag)
    cells = map(tuple, bag.scales["10x"].grid.tolist())
    attention["fused"] = np.array([hot.get(cell, 1.0) for cell in cells])
    return attention


def all_scores(bag: FeatureBag, seed: int = 0) -> dict[str, list[Score]]:
    """Made-up attention, rolled attention and attribution."""
    rng = np.random.default_rng(seed)
    rolled = {scale: rng.dirichlet(np.ones(n)) / 3 for scale, n in bag.counts().items()}
    attribution = {scale: rng.normal(0, 0.01, n) for scale, n in bag.counts().items()}
    attention = make_attention(bag, seed)
    return scores_of(bag, attention, rolled=rolled, attribution=attribution)


def imported(bag: FeatureBag, *, placed: bool, nested: bool = True) -> FeatureBag:
    """The bag as of another program, which tells no size, no resolution and perhaps no place."""
    unknown = {"dimensions": None, "mpp": None, "imported": "another program, features.h5"}
    scales = {
        name: ScaleFeatures(
            scale.features, scale.bounds if placed else None, scale.grid if nested else None
        )
        for name, scale in bag.scales.items()
    }
    return FeatureBag(scales, bag.provenance.model_copy(update=unknown))


def scores_of(
    bag: FeatureBag,
    attention: Mapping[str, np.ndarray],
    *,
    rolled: Mapping[str, np.ndarray] | None = None,
    attribution: Mapping[str, np.ndarray] | None = None,
) -> dict[str, list[Score]]:
    adds = None if attribution is None else SimpleNamespace(values=attribution, terms={})
    prediction = SimpleNamespace(attention=attention, rolled=rolled, attribution=adds)
    bundle = SimpleNamespace(
        config=SimpleNamespace(risk_reference=None),  # so that colours reach from -0.25 to 0.25
        network=SimpleNamespace(unwrapped=lambda: None),
    )
    return slide_scores(bag, bundle, prediction)


def result_of(
    bag: FeatureBag,
    scores: dict[str, list[Score]],
    hotspots: list[Hotspot] | None = None,
    overview: np.ndarray | None = None,
) -> SlideResult:
    """What is written of a slide; its hotspots are found unless they are given."""
    config = SimpleNamespace(name=ORIGIN["model"], card=SimpleNamespace(notice=ORIGIN["note"]))
    if hotspots is None:
        hotspots = find_hotspots(bag, scores["20x"])
    prediction = SimpleNamespace(risk_group=None, risk_nuisance_sd=None)
    return SlideResult(bag, prediction, config, "", scores, hotspots, overview)


def write_geojson(
    folder: Path, stem: str, result: SlideResult, *, gzip: bool = False
) -> list[Path]:
    """The files for QuPath, that of 20x first."""
    writer = QuPathWriter(gzip=gzip)
    writer.write(folder, stem, result)
    return [folder / f"{stem}{suffix}" for suffix in writer.suffixes]


def score(scores: list[Score], name: str) -> Score:
    """The score of this name, which must be there once."""
    (found,) = (each for each in scores if each.name == name)
    return found


def check_picture(path: Path) -> None:
    """A PNG of a usual size that is not of one colour."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert "Software" not in image.info
        assert min(image.size) > 500
        assert np.asarray(image.convert("RGB")).std() > 10
    assert path.stat().st_size < 1.5e6
