"""A user's own kind of bag store in one class, and bags without some of the scales."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import assert_usage, tiacf

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.bags.stores import STORES, bag_stem
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.inference.extraction import extract_bag
from tiacrossfusion.slides.slide import open_slide
from tiacrossfusion.slides.spec import SCALES

NPZ_STORE = '''
"""Bags in one .npz file each."""

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.bags.stores import STORES


@STORES.register("npz")
class NpzStore:
    def save(self, bag, path):
        arrays = {
            f"{name}/{field}": array
            for name, scale in bag.scales.items()
            for field, array in vars(scale).items()
        }
        with path.open("wb") as file:
            np.savez(file, provenance=bag.provenance.model_dump_json(), **arrays)

    def load(self, path):
        with np.load(path, allow_pickle=False) as arrays:
            names = dict.fromkeys(key.split("/")[0] for key in arrays if "/" in key)
            scales = {
                name: ScaleFeatures(*(arrays[f"{name}/{f}"] for f in ("features", "bounds", "grid")))
                for name in names
            }
            provenance = Provenance.model_validate_json(str(arrays["provenance"]))
        return FeatureBag(scales, provenance)
'''


@pytest.fixture(scope="module")
def bag(simulated, demo_bundle, demo_encoder) -> FeatureBag:
    with open_slide(simulated / "low.svs") as slide:
        return extract_bag(slide, demo_bundle.config.sampling, demo_encoder)


@pytest.fixture
def plugin(tmp_path) -> Iterator[Path]:
    path = tmp_path / "plugin" / "npz_store.py"
    path.parent.mkdir()
    path.write_text(NPZ_STORE)
    yield path
    sys.modules.pop("npz_store", None)
    STORES._registered.pop("npz", None)


def assert_equal(one: FeatureBag, other: FeatureBag) -> None:
    assert one.provenance == other.provenance
    assert list(one.scales) == list(other.scales)
    for name, scale in one.scales.items():
        for field, array in vars(scale).items():
            np.testing.assert_array_equal(array, getattr(other.scales[name], field))


def test_an_own_store_is_one_file(tmp_path, bag, plugin):
    folder = tmp_path / "bags"
    folder.mkdir()
    with pytest.raises(UsageError, match="npz: unknown bag store"):
        bag.save(folder / "a.npz")
    bag.save(folder / "a.zarr")
    out = ("--model", "crossfusion-demo", "--no-attribution", "--output-path")
    of_zarr = tiacf("predict", "--bags", folder, *out, tmp_path / "zarr")
    assert of_zarr.exit_code == 0, of_zarr.output
    assert_usage(tiacf("predict", "--bags", folder / "a.npz", *out, tmp_path / "no"), "a.npz")

    listed = tiacf("encoders", "--plugin", plugin)
    assert listed.exit_code == 0, listed.output
    for _ in range(2):  # over an older one too
        bag.save(folder / "a.npz")
    assert sorted(path.name for path in folder.iterdir()) == ["a.npz", "a.zarr"]
    assert_equal(FeatureBag.load(folder / "a.npz"), bag)
    assert bag_stem("a.npz") == bag_stem("a.zarr") == "a"
    assert bag_stem("a.svs") == "a.svs"
    with pytest.raises(UsageError, match=r"a.npz and a.zarr are bags of one name"):
        find_bags(folder)
    (folder / "a.npz").rename(tmp_path / "a.npz")
    assert find_bags(tmp_path) == find_bags(tmp_path / "a.npz") == [tmp_path / "a.npz"]
    of_npz = tiacf(
        "predict", "--plugin", plugin, "--bags", tmp_path / "a.npz", *out, tmp_path / "npz"
    )
    assert of_npz.exit_code == 0, of_npz.output
    risks = [pd.read_csv(tmp_path / name / "predictions.csv").risk[0] for name in ("zarr", "npz")]
    assert risks[0] == risks[1]


def test_a_damaged_own_store_is_one_line(tmp_path, bag, plugin):
    tiacf("encoders", "--plugin", plugin)
    path = tmp_path / "a.npz"
    bag.save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TiacfError, match=r"a.npz: not a feature bag, or a damaged one"):
        FeatureBag.load(path)
    features = replace(bag.scales["20x"], features=bag.scales["20x"].features[:, :3])
    text = io.BytesIO()
    np.savez(
        text,
        provenance=bag.provenance.model_dump_json(),
        **{f"20x/{field}": array for field, array in vars(features).items()},
    )
    path.write_bytes(text.getvalue())
    with pytest.raises(TiacfError, match=r"^[^:]*a.npz: bag of low.svs: 20x features"):
        FeatureBag.load(path)


@pytest.mark.parametrize("names", [("20x",), ("5x", "20x"), ("5x", "10x")])
def test_a_bag_may_lack_scales(names, tmp_path, bag):
    some = FeatureBag({name: bag.scales[name] for name in names}, bag.provenance)
    some.save(tmp_path / "some.zarr")
    assert_equal(FeatureBag.load(tmp_path / "some.zarr"), some)
    assert list(some.counts()) == list(names)
    for output_format in ("h5", "pt"):
        out = tmp_path / output_format
        done = tiacf(
            *("convert", "--bags", tmp_path / "some.zarr"),
            *("--output-format", output_format, "--output-path", out),
        )
        assert done.exit_code == 0, done.output
        assert sorted(path.name for path in out.glob("x*")) == sorted(f"x{n[:-1]}" for n in names)


def test_scales_stand_in_their_order_and_one_is_there(bag):
    reverse = {name: bag.scales[name] for name in SCALES[::-1]}
    other = {"40x": bag.scales["20x"]}
    for scales in ({}, reverse, other):
        with pytest.raises(TiacfError, match="has the scales"):
            FeatureBag(scales, bag.provenance)


def test_a_scale_that_was_removed_is_noticed(tmp_path, bag):
    bag.save(tmp_path / "a.zarr")
    record = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    assert record["attributes"]["tiacrossfusion"]["scales"] == list(SCALES)
    shutil.rmtree(tmp_path / "a.zarr" / "10x")
    with pytest.raises(TiacfError, match="damaged, has no 10x features"):
        FeatureBag.load(tmp_path / "a.zarr")


def test_the_package_of_an_encoder_is_not_its_identity(bag, demo_bundle):
    encoder = bag.provenance.encoder.model_copy(update={"package": "elsewhere.py"})
    provenance = bag.provenance.model_copy(update={"encoder": encoder})
    demo_bundle.check_bag(FeatureBag(bag.scales, provenance))
