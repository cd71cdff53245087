"""A user's own encoder in one file, by hand, by plugin and in the commands."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import assert_failed, assert_usage, tiacf
from torch import nn

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.encoders.available import available_encoders
from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.encoders.network import EncoderNetwork
from tiacrossfusion.encoders.registry import ENCODERS
from tiacrossfusion.encoders.stored import describe_encoder, load_encoder_of
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.plugins import load_plugins
from tiacrossfusion.models.bundle import load_bundle, save_bundle

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_encoder.py"
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test registers or loads is gone after it."""
    registered, modules = dict(ENCODERS._registered), set(sys.modules)
    yield
    ENCODERS._registered.clear()
    ENCODERS._registered.update(registered)
    for name in ("own_encoder", *(set(sys.modules) - modules)):
        if name.startswith(("own_", "plugin_")):
            sys.modules.pop(name, None)


def register(module: nn.Module, name: str = "mine", **changes: object) -> None:
    network = EncoderNetwork(module, **({"width": 3, "mean": HALF, "std": HALF} | changes))
    ENCODERS.register(name)(lambda: network)


def mean_colours() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))


def test_an_encoder_is_one_registered_function():
    module = mean_colours()
    register(module)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    encoder = load_encoder("mine")
    normalised = torch.from_numpy(images).permute(0, 3, 1, 2) / 255 * 2 - 1
    expected = module(normalised.float()).detach().numpy()
    np.testing.assert_allclose(encoder.encode(images), expected, atol=2e-3)
    assert encoder.spec.name == "mine"
    assert encoder.spec.package == __name__.partition(".")[0]
    assert len(encoder.spec.weights_sha256) == 64
    assert describe_encoder("mine") == encoder.spec
    assert load_encoder_of(encoder.spec).spec == encoder.spec
    assert "mine" in [entry.name for entry in available_encoders()]


def test_a_file_of_weights_replaces_those_of_the_function(tmp_path):
    module = mean_colours()
    register(module)
    before = load_encoder("mine").spec
    torch.save(mean_colours().state_dict(), tmp_path / "other.pt")
    other = load_encoder("mine", weights=tmp_path / "other.pt").spec
    assert other.weights_sha256 != before.weights_sha256
    with pytest.raises(TiacfError, match="the model was trained with weights"):
        load_encoder_of(before, weights=tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (mean_colours, "returns a Sequential, not an EncoderNetwork"),
        (lambda: EncoderNetwork(mean_colours(), 4, HALF, HALF), "the declared width is 4"),
        (lambda: EncoderNetwork(nn.Linear(7, 3), 3, HALF, HALF), "RuntimeError"),
    ],
)
def test_an_encoder_that_fails_is_one_line(build, words):
    ENCODERS.register("mine")(build)
    with pytest.raises(TiacfError, match=words) as caught:
        load_encoder("mine")
    assert str(caught.value).startswith("encoder mine of plugin_tests: ")
    assert "\n" not in str(caught.value)


def test_the_built_in_encoder_keeps_its_name():
    with pytest.raises(UsageError, match="stain-texture: is a built-in encoder"):
        ENCODERS.register("stain-texture")(mean_colours)


def test_an_installed_package_declares_its_encoders(tmp_path, monkeypatch):
    shutil.copy(EXAMPLE, tmp_path / "own_package.py")
    folder = tmp_path / "colours-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[tiacrossfusion.encoders]\ncolour-grid = own_package:colour_grid\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert "own_package" not in sys.modules
    assert "colour-grid" in ENCODERS
    for _ in range(2):  # the second time it is registered by its decorator too
        assert load_encoder("colour-grid").spec.package == "colours"


def test_a_plugin_is_loaded_once(tmp_path):
    path = tmp_path / "own_counter.py"
    path.write_text("import sys\nsys.own_count = getattr(sys, 'own_count', 0) + 1\n")
    assert load_plugins([str(path), "json"]) == (str(path), "json")
    load_plugins([str(path)])
    assert sys.own_count == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 / 0", "ZeroDivisionError"), ("import nowhere", "nowhere"), ("raise SystemExit(3)", "3")],
)
def test_a_plugin_that_fails_is_one_line(text, words, tmp_path):
    path = tmp_path / "own_broken.py"
    path.write_text(text)
    assert_failed(tiacf("extract", "--plugin", path), "own_broken.py", words)
    assert "own_broken" not in sys.modules


def test_a_plugin_that_is_not_there_is_one_line(tmp_path):
    assert_usage(tiacf("extract", "--plugin", tmp_path / "own.py"), "no such file")
    assert_usage(tiacf("train", "--plugin", "no_such_package.encoders"), "no such module")
    (tmp_path / "json.py").touch()
    assert_usage(tiacf("predict", "--plugin", tmp_path / "json.py"), "rename the file")


def test_from_slides_to_a_prediction_with_the_example(tmp_path, simulated, demo_bundle):
    """The bundle is the demonstration's with another first layer, and knows where its encoder is from."""
    slide, bags = simulated / "low.svs", tmp_path / "bags"
    made = tiacf(
        *("extract", "--plugin", EXAMPLE, "--encoder", "colour-grid"),
        *("--img-input", slide, "--output-path", bags),
    )
    assert made.exit_code == 0, made.output
    bag = FeatureBag.load(bags / "low.zarr")
    assert bag.provenance.encoder.package == "own_encoder.py"
    assert bag.scales["20x"].features.std() > 0

    from tiacrossfusion.models.network import network_of

    config = demo_bundle.config
    architecture = config.architecture.model_copy(update={"encoder_width": 24})
    config = config.model_copy(
        update={"encoder": bag.provenance.encoder, "architecture": architecture, "name": "own"}
    )
    torch.manual_seed(0)
    save_bundle(tmp_path / "own", config, network_of(architecture))
    predict = ("predict", "--model", tmp_path / "own", "--no-attribution")

    # Without the file: one line that names it, and bags can be predicted all the same.
    ENCODERS._registered.clear()
    refused = tiacf(*predict, "--img-input", slide, "--output-path", tmp_path / "out")
    assert_failed(refused, "encoder colour-grid", "own_encoder.py", "--plugin")
    of_bag = tiacf(*predict, "--bags", bags, "--output-path", tmp_path / "of-bag")
    assert of_bag.exit_code == 0, of_bag.output

    sys.modules.pop("own_encoder")
    of_slide = tiacf(
        *predict, "--plugin", EXAMPLE, "--img-input", slide, "--output-path", tmp_path / "out"
    )
    assert of_slide.exit_code == 0, of_slide.output
    risks = [pd.read_csv(tmp_path / name / "predictions.csv").risk[0] for name in ("of-bag", "out")]
    assert risks[0] == risks[1]
    assert json.loads((tmp_path / "own" / "config.json").read_text())["encoder"]["package"] == (
        "own_encoder.py"
    )
    assert load_bundle(tmp_path / "own").config.encoder == bag.provenance.encoder
