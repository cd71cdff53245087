"""What holds for any bag, slide and model; the rooms' own tests have their other properties."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_up_scores import result_of, scores_of, write_geojson
from tiatoolbox.wsicore.wsireader import VirtualWSIReader

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.explain.extent import clip_to_slide
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.slides.grid import nested_grids
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.survival.discrete import hazards_of, risk_of, survival_curve

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

#: Names that files can have: no control characters, no lone surrogates.
names = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=30)
finite_halves = st.floats(-65504, 65504, width=16)


def provenance(**changes) -> Provenance:
    fields = {
        "slide": "a slide.svs",
        "slide_size": 1,
        "slide_hash": "2",
        "dimensions": (9000, 9000),
        "mpp": (0.25, 0.25),
        "power": 40,
        "offset": (0, 0),
        "mask": "otsu",
        "sampling": SamplingSpec(),
        "encoder": EncoderSpec(
            name="made-up", width=3, mean=(0, 0, 0), std=(1, 1, 1), input_size=256
        ),
        "versions": {"torch": "2"},
    }
    return Provenance(**(fields | changes))


@st.composite
def bags(draw: st.DrawFn) -> FeatureBag:
    """Bags of one to thirty patches a scale, of any finite features, with and without coordinates."""
    imported = draw(st.booleans())
    scales = {}
    for scale in SCALES:
        n = draw(st.integers(1, 30))
        places = draw(arrays.arrays(np.int32, (n, 2), elements=st.integers(0, 2**14 - 1)))
        side = draw(st.integers(1, 5000))
        scales[scale] = ScaleFeatures(
            draw(arrays.arrays(np.float16, (n, 3), elements=finite_halves)),
            None
            if imported
            else np.tile(places.astype(np.int64), 2) + np.array([0, 0, side, side]),
            None if imported else places,
        )
    made = provenance(
        slide=draw(names),
        mpp=draw(st.one_of(st.none(), st.tuples(*[st.floats(0.1, 2)] * 2))),
        offset=draw(st.tuples(st.integers(-500, 500), st.integers(-500, 500))),
        dropped=draw(st.dictionaries(st.sampled_from(SCALES), st.integers(1, 99))),
        imported="made up" if imported else "",
    )
    return FeatureBag(scales, made)


@QUICK
@given(bag=bags())
def test_any_bag_comes_back_as_it_was(bag):
    with tempfile.TemporaryDirectory() as folder:
        bag.save(Path(folder) / "bag.zarr")
        again = FeatureBag.load(Path(folder) / "bag.zarr")
    assert again.provenance == bag.provenance
    for scale in SCALES:
        for field, array in vars(bag.scales[scale]).items():
            back = getattr(again.scales[scale], field)
            assert (back is None) == (array is None)
            if array is not None:
                assert back.dtype == array.dtype
                assert back.tobytes() == array.tobytes()


@QUICK
@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    mpp=st.floats(0.2, 1.2),
    offset=st.tuples(st.integers(0, 300), st.integers(0, 300)),
)
def test_bounds_go_from_the_grid_through_bag_and_geojson_and_back(width, height, mpp, offset):
    """Level-0 bounds in, QuPath's coordinates out (which begin at the file's offset), and back."""
    reader = VirtualWSIReader(np.zeros((4, 4, 3), np.uint8))
    grids = nested_grids(
        Slide(reader, None, (width, height), (mpp, mpp), None), None, SamplingSpec()
    )
    made = FeatureBag(
        {
            scale: ScaleFeatures(np.zeros((len(grid), 3), np.float16), grid.bounds, grid.grid)
            for scale, grid in grids.items()
        },
        provenance(dimensions=(width, height), mpp=(mpp, mpp), offset=offset),
    )
    attention = {
        scale: np.linspace(0, 1, n, dtype=np.float32) for scale, n in made.counts().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "bag.zarr")
        bag = FeatureBag.load(Path(folder) / "bag.zarr")
        paths = write_geojson(Path(folder), "s", result_of(bag, scores_of(bag, attention)))
        documents = [json.loads(path.read_text()) for path in paths]
    for scale, document in zip(("20x", "10x", "5x"), documents, strict=True):
        tiles = [f for f in document["features"] if f["properties"]["objectType"] == "tile"]
        rings = np.array([tile["geometry"]["coordinates"][0] for tile in tiles]).reshape(-1, 5, 2)
        back = np.concatenate([rings.min(axis=1), rings.max(axis=1)], axis=1) + np.tile(offset, 2)
        visible, left = clip_to_slide(bag, scale)
        assert back.tolist() == visible[left].tolist()
        # What the borders did not cut is the grid's own cell.
        whole = (visible == bag.scales[scale].bounds).all(axis=1)
        side = 256 * {"5x": 2.0, "10x": 1.0, "20x": 0.5}[scale] / mpp
        cells = np.rint(visible[whole][:, :2] / side).astype(int)
        assert cells.tolist() == bag.scales[scale].grid[whole].tolist()


@QUICK
@given(
    logits=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 12)),
        elements=st.floats(-(2.0**60), 2.0**60, width=32),
    )
)
def test_curves_of_any_logits_fall_and_are_probabilities(logits):
    output = SurvivalOutput.from_logits(torch.from_numpy(logits))
    survival = output.survival.numpy()
    assert ((survival >= 0) & (survival <= 1)).all()
    assert (np.diff(survival, axis=1) <= 0).all()
    assert ((output.risk.numpy() >= -logits.shape[1]) & (output.risk.numpy() <= 0)).all()


@QUICK
@given(hazards=arrays.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1)))
def test_hazards_and_curves_are_each_others_inverse(hazards):
    survival = survival_curve(hazards)
    assert ((survival >= 0) & (survival <= 1)).all()
    assert (np.diff(survival) <= 0).all()
    assert -len(hazards) <= risk_of(survival) <= 0
    # Where next to nobody is left, the quotient of tiny numbers has no digits.
    alive = np.concatenate([[1.0], survival[:-1]]) > 1e-12
    np.testing.assert_allclose(hazards_of(survival)[alive], hazards[alive], atol=1e-9)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(counts=st.tuples(*[st.integers(1, 40)] * 3), seed=st.integers(0, 2**16))
def test_the_risk_does_not_depend_on_the_order_of_context_tokens(demo_bundle, counts, seed):
    """5x and 20x tokens are context: the 10x tokens query them, whatever their order."""
    rng = np.random.default_rng(seed)
    encoder = demo_bundle.config.encoder
    features = {
        scale: rng.normal(size=(n, encoder.width)).astype(np.float16)
        for scale, n in zip(SCALES, counts, strict=True)
    }
    risks = []
    for order in (np.arange, rng.permutation):
        shuffled = {
            scale: ScaleFeatures(rows if scale == "10x" else rows[order(len(rows))], None, None)
            for scale, rows in features.items()
        }
        bag = FeatureBag(
            shuffled,
            provenance(encoder=encoder, sampling=demo_bundle.config.sampling, imported="made up"),
        )
        risks.append(predict_bag(bag, demo_bundle).risk)
    np.testing.assert_allclose(risks[0], risks[1], atol=1e-4)
