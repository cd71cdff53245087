"""Bags keep what they were given, and damaged or foreign ones are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures, check_same
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.spec import SCALES, SamplingSpec


def encoder_spec(**changes) -> EncoderSpec:
    fields = {"name": "test", "width": 6, "mean": (0, 0, 0), "std": (1, 1, 1), "input_size": 256}
    return EncoderSpec(**(fields | changes))


def make_bag(**changes) -> FeatureBag:
    rng = np.random.default_rng(0)
    side = np.array([0, 0, 9, 9])
    scales = {
        scale: ScaleFeatures(
            rng.normal(size=(n, 6)).astype(np.float16),
            np.tile(rng.integers(0, 99, (n, 2)), 2) + side,
            rng.integers(0, 9, (n, 2)).astype(np.int32),
        )
        for scale, n in zip(SCALES, (2, 5, 17), strict=True)
    }
    provenance = Provenance(
        slide="s.svs",
        slide_size=1,
        slide_hash="2",
        dimensions=(300, 200),
        mpp=(0.5, 0.5),
        power=20,
        offset=(0, 0),
        mask="otsu",
        sampling=SamplingSpec(),
        encoder=encoder_spec(),
        versions={"torch": "2"},
    )
    return FeatureBag(scales | changes, provenance)


def test_a_bag_comes_back_as_it_was(tmp_path):
    bag = make_bag()
    bag.save(tmp_path / "bag.zarr")
    make_bag().save(tmp_path / "bag.zarr")  # over an older one
    again = FeatureBag.load(tmp_path / "bag.zarr")
    assert again.provenance == bag.provenance
    assert again.counts() == {"5x": 2, "10x": 5, "20x": 17}
    for scale in SCALES:
        for field in ("features", "bounds", "grid"):
            want, have = (getattr(b.scales[scale], field) for b in (bag, again))
            assert have.dtype == want.dtype
            assert (have == want).all()
    assert [path.name for path in tmp_path.iterdir()] == ["bag.zarr"]


def test_damaged_bags_are_refused(tmp_path):
    with pytest.raises(TiacfError, match="not a feature bag"):
        FeatureBag.load(tmp_path / "absent.zarr")
    path = tmp_path / "bag.zarr"
    make_bag().save(path)
    record = json.loads((path / "zarr.json").read_text())
    record["attributes"]["tiacrossfusion"]["store_version"] = 99
    (path / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(TiacfError, match="store version 99"):
        FeatureBag.load(path)


def test_arrays_that_do_not_belong_together_are_refused():
    good = make_bag().scales["5x"]
    with pytest.raises(TiacfError, match="5x bounds"):
        make_bag(**{"5x": ScaleFeatures(good.features, good.bounds[:1], good.grid)})
    nan = np.full_like(good.features, np.nan)
    with pytest.raises(TiacfError, match="not finite"):
        make_bag(**{"5x": ScaleFeatures(nan, good.bounds, good.grid)})


def test_the_field_that_differs_is_named():
    with pytest.raises(TiacfError, match=r"bag: made with sampling min_mask_ratio = 0\.5.*0\.9"):
        check_same(SamplingSpec(min_mask_ratio=0.9), SamplingSpec(), "sampling", "bag")
    with pytest.raises(TiacfError, match="encoder name"):
        check_same(encoder_spec(name="other"), encoder_spec(), "encoder", "bag")
    known = encoder_spec(weights_sha256="a" * 64)
    check_same(encoder_spec(), known, "encoder", "bag")  # unknown weights match any
    with pytest.raises(TiacfError, match="weights_sha256"):
        check_same(known, encoder_spec(weights_sha256="b" * 64), "encoder", "bag")
