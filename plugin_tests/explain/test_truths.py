"""What is true of a map of the tissue, and false of a map of the network's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from made_up_scores import make_bag
from scipy.stats import spearmanr

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.encoders.stored import load_encoder_of
from tiacrossfusion.explain.attribution import attribute_tokens
from tiacrossfusion.explain.attribution_scores import TOTAL, attribution_scores
from tiacrossfusion.explain.score import Score
from tiacrossfusion.explain.scores import slide_scores
from tiacrossfusion.inference.extraction import extract_bag
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.models.bundle import ModelBundle, load_bundle
from tiacrossfusion.models.files import shipped_bundles
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import render_slide
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.slide import open_slide
from tiacrossfusion.slides.spec import CELLS_20X, SCALES

SIDE = 32  # cells of the slide at 20x
PIXELS = 2048  # side of a drawn slide
MODELS = pytest.mark.parametrize("model", sorted(shipped_bundles()))
#: Networks that read the places of the tokens; the others read their order.
PLACED = ("nested-fusion",)


@dataclass(frozen=True)
class Explained:
    attention: dict[str, np.ndarray]
    rolled: dict[str, np.ndarray] | None
    attribution: object


def tissue_bag(bundle: ModelBundle, seed: int = 0, share: float = 0.7) -> FeatureBag:
    """A round piece of tissue with holes, in which features change smoothly from place to place."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside = (rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2 < (SIDE / 2.2) ** 2
    inside &= rng.random((SIDE, SIDE)) < share
    width = bundle.config.encoder.width
    moments = bundle.network.moments()
    mean, sd = (
        (m.numpy() for m in moments) if moments else (np.zeros((3, width)), np.ones((3, width)))
    )
    waves = rng.normal(size=(3, width)) / 5
    scales = {}
    cells = np.argwhere(inside)[:, ::-1]  # column, row; row by row
    for index, scale in enumerate(SCALES):
        cell = CELLS_20X[scale]
        grid = np.unique(cells // cell, axis=0)
        grid = grid[np.lexsort((grid[:, 0], grid[:, 1]))]
        at = (grid + 0.5) * cell
        signal = np.sin(at @ waves[:2] + waves[2] * 30) + 0.5 * rng.normal(size=(len(grid), width))
        features = (mean[index] + sd[index] * signal).astype(np.float16)
        bounds = np.concatenate([grid, grid + 1], axis=1).astype(np.int64) * 256 * cell
        scales[scale] = ScaleFeatures(features, bounds, grid.astype(np.int32))
    made = make_bag([(0, 0)]).provenance
    fitting = {"encoder": bundle.config.encoder, "sampling": bundle.config.sampling}
    return FeatureBag(scales, made.model_copy(update=fitting))


def turned(bag: FeatureBag, quarters: int) -> tuple[FeatureBag, dict[str, np.ndarray]]:
    """The bag of the slide turned by quarters, its patches row by row, and where each came from."""
    scales, orders = {}, {}
    for scale, found in bag.scales.items():
        last = SIDE // CELLS_20X[scale] - 1
        grid = found.grid.astype(int)
        for _ in range(quarters):
            grid = np.stack([last - grid[:, 1], grid[:, 0]], axis=1)
        order = np.lexsort((grid[:, 0], grid[:, 1]))
        grid = grid[order]
        side = 256 * CELLS_20X[scale]
        bounds = np.concatenate([grid, grid + 1], axis=1).astype(np.int64) * side
        scales[scale] = ScaleFeatures(found.features[order], bounds, grid.astype(np.int32))
        orders[scale] = order
    return FeatureBag(scales, bag.provenance), orders


def explained(bag: FeatureBag, bundle: ModelBundle) -> Explained:
    tokens = SlideTokens.from_bag(bag)
    tokens = tokens.with_features({s: x.float() for s, x in tokens.features.items()})
    with torch.inference_mode():
        output = call_network(bundle.network, tokens, attention=True)
        rolled = bundle.network.rollout(tokens)

    def plain(scores: object) -> dict[str, np.ndarray]:
        return {
            name if name == "fused" else f"{name[1:]}x": value[0].double().numpy()
            for name, value in vars(scores).items()
            if value is not None
        }

    return Explained(
        plain(output.attention),
        None if rolled is None else plain(rolled),
        attribute_tokens(bundle.network, tokens),
    )


def default_map(bag: FeatureBag, bundle: ModelBundle) -> np.ndarray:
    (total,) = (
        each
        for each in attribution_scores(bag, bundle, explained(bag, bundle))
        if (each.name, each.scale) == (TOTAL, "20x")
    )
    return total.values


@MODELS
@pytest.mark.parametrize("quarters", [1, 2])
def test_turning_the_slide_turns_every_map(model: str, quarters: int):
    """Networks that read the order of the tokens are averaged over the orders of turned slides."""
    bundle = load_bundle(model)
    if bundle.config.architecture.name not in PLACED:
        bundle = bundle.with_orders(8)
    bag = tissue_bag(bundle)
    other, orders = turned(bag, quarters)
    maps = slide_scores(bag, bundle, explained(bag, bundle))
    for scale, scores in slide_scores(other, bundle, explained(other, bundle)).items():
        for one, two in zip(maps[scale], scores, strict=True):
            expected = one.values[orders[scale]]
            size = np.abs(expected).max() or 1
            np.testing.assert_allclose(two.values, expected, atol=5e-4 * size, err_msg=one.name)


@pytest.mark.parametrize("quarters", [1, 2])
def test_in_one_order_crossfusions_own_map_of_a_scale_it_reads_across_turns(quarters: int):
    """Attribution at 5x and 20x does; at 10x, whose tokens are wrapped into a square, it does not."""
    bundle = load_bundle("crossfusion-demo")
    bag = tissue_bag(bundle)
    other, orders = turned(bag, quarters)
    before, after = (explained(each, bundle).attribution.values for each in (bag, other))
    for scale in ("5x", "20x"):
        assert spearmanr(before[scale][orders[scale]], after[scale]).statistic >= 0.95


@MODELS
def test_turning_the_pixels_of_a_slide_turns_the_map(model: str, turned_slides: list[Path]):
    """With the shipped encoder, whose features may depend a little on the direction of reading."""
    bundle = load_bundle(model)
    if bundle.config.architecture.name not in PLACED:
        bundle = bundle.with_orders(8)
    encoder = load_encoder_of(bundle.config.encoder)
    maps = []
    for path in turned_slides:
        options = ReadOptions(num_workers=1)
        bag = extract_bag(open_slide(path), bundle.config.sampling, encoder, options)
        values = default_map(bag, bundle)
        maps.append(dict(zip(map(tuple, bag.scales["20x"].grid.tolist()), values, strict=True)))
    last = PIXELS // 256 - 1
    places = {1: lambda c, r: (r, last - c), 2: lambda c, r: (last - c, last - r)}
    for other, place in zip(maps[1:], places.values(), strict=True):
        both = [cell for cell in maps[0] if place(*cell) in other]
        assert len(both) >= 0.98 * max(len(maps[0]), len(other)) > 20
        before, after = [maps[0][cell] for cell in both], [other[place(*cell)] for cell in both]
        assert spearmanr(before, after).statistic >= 0.9


@pytest.fixture(scope="module")
def turned_slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A simulated slide, and the same turned by one and by two quarters."""
    folder = tmp_path_factory.mktemp("turned")
    drawn = folder / "drawn.svs"
    render_slide(drawn, TissueParameters(0.6, 0.5, 0.6), size=(PIXELS, PIXELS), mpp=0.5, seed=5)
    pixels = tifffile.imread(drawn)
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    options |= {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    paths = [folder / f"{quarters}.tif" for quarters in range(3)]
    for quarters, path in enumerate(paths):
        tifffile.imwrite(path, np.ascontiguousarray(np.rot90(pixels, quarters)), **options)
    return paths


def test_attribution_over_the_orders_adds_up_to_the_mean_risk():
    bundle = load_bundle("crossfusion-demo").with_orders(8)
    found = explained(tissue_bag(bundle), bundle)
    total = sum(found.attribution.scale_contribution.values())
    assert total == pytest.approx(found.attribution.risk - found.attribution.baseline_risk)
    assert found.attribution.risk == pytest.approx(predict_bag(tissue_bag(bundle), bundle).risk)


def own_grid_scores(bag: FeatureBag, bundle: ModelBundle) -> list[Score]:
    """Each score on the grid that it was computed on."""
    scores = slide_scores(bag, bundle, explained(bag, bundle))
    found: dict[str, Score] = {}
    for grid in scores.values():
        for score in grid:
            if not score.name.endswith(" mean"):
                found.setdefault(score.name, score)
    return list(found.values())


@MODELS
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_the_first_patches_are_not_louder_than_the_rest(model: str, share: float):
    bundle = load_bundle(model)
    bags = [tissue_bag(bundle, seed, share) for seed in range(6)]
    ratios: dict[str, list[float]] = {}
    for bag in bags:
        n = len(bag.scales["10x"])
        copies = int(np.ceil(np.sqrt(n))) ** 2 - n
        for score in own_grid_scores(bag, bundle):
            if score.scale == "10x" and copies and not score.signed:
                sizes = np.abs(score.values)
                ratios.setdefault(score.name, []).append(
                    sizes[:copies].mean() / sizes[copies:].mean()
                )
    for name, values in ratios.items():
        assert 0.8 <= np.mean(values) <= 1.25, name


@MODELS
def test_an_edge_patch_is_not_louder_for_being_at_the_edge(model: str):
    bundle = load_bundle(model)
    edge_share, edge_bright = [], []
    for seed in range(8):
        bag = tissue_bag(bundle, seed)
        grid = {tuple(cell) for cell in bag.scales["20x"].grid.tolist()}
        edge = np.array(
            [
                sum((c + dc, r + dr) in grid for dc in (-1, 0, 1) for dr in (-1, 0, 1)) <= 5
                for c, r in bag.scales["20x"].grid.tolist()
            ]
        )
        values = np.abs(default_map(bag, bundle))
        bright = values >= np.quantile(values, 0.98)
        edge_share.append(edge.mean())
        edge_bright.append(edge[bright].mean())
    assert np.mean(edge_bright) <= 2 * np.mean(edge_share)


def test_order_of_the_tokens_does_not_matter_to_a_network_on_the_true_grid():
    for model in shipped_bundles():
        bundle = load_bundle(model)
        if bundle.config.architecture.name not in PLACED:
            continue
        bag = tissue_bag(bundle)
        rng = np.random.default_rng(0)
        orders = {scale: rng.permutation(len(found)) for scale, found in bag.scales.items()}
        mixed = FeatureBag(
            {
                scale: ScaleFeatures(found.features[o], found.bounds[o], found.grid[o])
                for (scale, found), o in zip(bag.scales.items(), orders.values(), strict=True)
            },
            bag.provenance,
        )
        before, after = default_map(bag, bundle)[orders["20x"]], default_map(mixed, bundle)
        np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())
