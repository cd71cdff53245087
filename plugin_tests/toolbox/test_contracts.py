"""What TIAToolbox's own engine tests ask of an engine, and what this one refuses in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slide_tokens import tokens_of
from tiatoolbox.models.engine.engine_abc import EngineABCRunParams
from tiatoolbox.wsicore.wsireader import VirtualWSIReader, WSIReader

from tiacrossfusion import (
    CrossFusionModel,
    NestedFusionModel,
    SurvivalModel,
    SurvivalPredictor,
    TiacfError,
    UsageError,
)
from tiacrossfusion.models.bundle import load_bundle, save_bundle
from tiacrossfusion.models.network import describe_network, network_of
from tiacrossfusion.networks.calling import call_network, check_tokens
from tiacrossfusion.networks.tokens import SlideTokens

#: Values that the toolbox's engines have where a user gives none.
DEFAULTS = {
    "auto_get_mask": True,
    "batch_size": 8,
    "class_dict": None,
    "device": "cpu",
    "labels": None,
    "memory_threshold": 80,
    "num_workers": 0,
    "output_file": None,
    "return_labels": False,
    "scale_factor": None,
    "stride_shape": None,
    "wsireader_kwargs": None,
    "verbose": False,
    "return_probabilities": False,
    "cache_mode": False,
}


@pytest.fixture(scope="module")
def predictor() -> SurvivalPredictor:
    return SurvivalPredictor(model="crossfusion-demo", device="cpu")


def test_all_run_parameters_are_accepted_at_the_toolboxs_defaults(predictor, simulated):
    assert set(EngineABCRunParams.__annotations__) <= set(DEFAULTS)
    image = simulated / "low.svs"
    with_defaults = SurvivalPredictor("crossfusion-demo").run(images=[image], **DEFAULTS)[image]
    assert with_defaults["risk"] == predictor.run(images=[image])[image]["risk"]
    for others in (
        {"stride_shape": np.array([256, 256]), "scale_factor": (1.0, 1.0)},
        {"class_dict": {}, "labels": [], "return_probabilities": True, "memory_threshold": None},
    ):
        assert list(predictor.run(images=[image], **others)) == [image]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"class_dict": {0: "tumour"}}, ValueError, "class_dict: .* no classes"),
        ({"labels": [1]}, ValueError, "labels: .* leave it out"),
        ({"memory_threshold": 50}, ValueError, "memory_threshold: .* give 80"),
        ({"output_file": "out.zarr"}, ValueError, "output_file: .* save_dir"),
        ({"return_labels": True}, ValueError, "return_labels"),
        ({"return_probabilities": "x"}, ValueError, "return_probabilities"),
        ({"scale_factor": (2.0, 2.0)}, ValueError, "scale_factor: .* level 0"),
        ({"stride_shape": (128, 128)}, ValueError, "stride_shape: .* own sampling"),
        ({"cache_mode": True}, ValueError, "cache_mode"),
        ({"no_such_option": 1}, TypeError, "no_such_option: .* no such option"),
        ({"images": np.zeros((1, 256, 256, 3))}, TypeError, "a list"),
        ({"images": []}, ValueError, "at least one"),
        ({"images": [5]}, TypeError, "neither a path nor a WSIReader"),
        ({"masks": []}, ValueError, "0 masks for 1 images"),
        ({"masks": [5]}, TypeError, "neither a path nor an array"),
        ({"output_type": "csv", "save_dir": "x"}, TypeError, "output_type=csv"),
        ({"output_type": "zarr"}, ValueError, "save_dir"),
        ({"patch_mode": True}, ValueError, "patch_mode=False"),
        ({"patch_input_shape": (224, 224)}, ValueError, "own sampling"),
        ({"input_resolutions": [{"units": "mpp", "resolution": 1}]}, ValueError, "own sampling"),
        ({"batch_size": "8"}, TypeError, "batch_size"),
        ({"num_workers": -1}, ValueError, "num_workers"),
        ({"device": None}, TypeError, "device"),
        ({"device": "cuda:99"}, ValueError, "device cuda:99"),
        ({"wsireader_kwargs": {"mpp": 0}}, ValueError, "mpp 0"),
        ({"wsireader_kwargs": {"mpp": 0.25, "power": 5}}, ValueError, "contradict"),
    ],
)
def test_other_values_are_refused_with_the_toolboxs_kind_of_error(
    predictor, simulated, tmp_path, monkeypatch, options, error, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as caught:
        predictor.run(**({"images": [simulated / "low.svs"]} | options))
    assert isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_errors_of_files_are_those_of_the_file_system(predictor, simulated, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file; give a folder as save_dir"):
        predictor.run(images=[simulated / "low.svs"], save_dir=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="check the path of the weights") as caught:
        SurvivalPredictor(weights=tmp_path / "absent.pth")
    assert isinstance(caught.value, UsageError)
    with pytest.raises(ValueError, match="unknown model"):
        SurvivalPredictor(model="no-such-model")
    with pytest.raises(TypeError, match="model: must be"):
        SurvivalPredictor(model=5)


@pytest.mark.parametrize("of_the_model", [False, True], ids=["network", "model"])
def test_weights_may_be_a_state_dict_that_torch_saved(demo_bundle, tmp_path, of_the_model):
    model = CrossFusionModel(demo_bundle)
    state = (model if of_the_model else demo_bundle.network).state_dict()
    torch.save({name: tensor / 2 for name, tensor in state.items()}, tmp_path / "half.pth")
    other = SurvivalPredictor("crossfusion-demo", weights=tmp_path / "half.pth").model.bundle
    assert other.fingerprint != demo_bundle.fingerprint
    halved = other.network.state_dict()
    assert all(
        torch.equal(halved[name] * 2, value)
        for name, value in demo_bundle.network.state_dict().items()
    )


def test_weights_that_could_run_code_or_are_none_are_refused(demo_bundle, tmp_path):
    torch.save(demo_bundle.network, tmp_path / "whole.pth")
    with pytest.raises(UsageError.__base__, match="the weights cannot be read") as caught:
        SurvivalPredictor(weights=tmp_path / "whole.pth")
    assert "\n" not in str(caught.value)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError.__base__, match="is not a state dict"):
        SurvivalPredictor(weights=tmp_path / "list.pth")


def test_pre_and_postprocessing_cannot_be_replaced_unnoticed(demo_bundle):
    model = CrossFusionModel(demo_bundle)
    for name in ("preproc_func", "postproc_func"):
        for function in (lambda image: image, torch.nn.Identity(), 5):
            with pytest.raises(ValueError, match=f"{name}: a survival model") as caught:
                setattr(model, name, function)
            assert isinstance(caught.value, UsageError)
        setattr(model, name, None)
        assert getattr(model, name)(5) == 5


def test_without_automatic_masks_the_whole_slide_is_predicted(predictor, simulated, tmp_path):
    image = simulated / "low.svs"
    run = {"save_dir": tmp_path, "output_type": "qupath"}
    predictor.run(images=[image], auto_get_mask=False, **run)
    whole = predictor.outcomes[0].row
    width, height = WSIReader.open(image).info.slide_dimensions
    assert whole["patches_20x"] == -(-width // 256) * -(-height // 256)
    predictor.run(images=[image], auto_get_mask=False, **run)
    assert predictor.outcomes[0].status == "skipped"
    predictor.run(images=[image], **run)
    assert "another mask" in predictor.outcomes[0].message
    mask = np.zeros((150, 180), bool)
    mask[:80] = True
    predictor.run(images=[image], masks=[mask], auto_get_mask=False)
    assert predictor.outcomes[0].row["patches_20x"] < whole["patches_20x"]


def test_a_reader_serves_as_mask_as_its_array_does(predictor, simulated):
    image = simulated / "low.svs"
    mask = np.zeros((150, 180), bool)
    mask[:80] = True
    by_array = predictor.run(images=[image], masks=[mask])[image]
    by_reader = predictor.run(images=[image], masks=[VirtualWSIReader(mask, mode="bool")])[image]
    assert (by_array["bounds"]["20x"] == by_reader["bounds"]["20x"]).all()
    assert by_array["risk"] == by_reader["risk"]
    by_stack = predictor.run(images=[image], masks=mask[None])[image]
    assert by_stack["risk"] == by_array["risk"]


@pytest.mark.parametrize(
    "method",
    [
        "get_dataloader",
        "infer_patches",
        "infer_wsi",
        "post_process_patches",
        "post_process_wsi",
        "save_predictions",
        "save_predictions_as_zarr",
    ],
)
def test_inherited_steps_that_cannot_work_say_so(predictor, method):
    with pytest.raises(UsageError, match=rf"{method}: .*; call run\(\)") as caught:
        getattr(predictor, method)(images=[])
    assert "\n" not in str(caught.value)


@pytest.fixture
def nested_bundle(demo_bundle, tmp_path):
    """A bundle of nested fusion with fresh weights, for the bags of the demonstration model."""
    architecture = describe_network(
        "nested-fusion",
        encoder_width=demo_bundle.config.encoder.width,
        num_bins=4,
        sizes={"embed_dim": 8},
    )
    config = demo_bundle.config.model_copy(update={"name": "nested", "architecture": architecture})
    save_bundle(tmp_path / "nested", config, network_of(architecture))
    return load_bundle(tmp_path / "nested")


def test_nested_fusion_is_a_model_of_its_own(demo_bundle, nested_bundle):
    model, width = NestedFusionModel(nested_bundle), demo_bundle.config.encoder.width
    tokens = tokens_of(*(torch.randn(1, n, width) for n in (2, 5, 9)))
    batch = {scale: x[0] for scale, x in tokens.features.items()}
    batch |= {f"grid{scale[:-1]}": grid[0] for scale, grid in tokens.grid.items()}
    risk = NestedFusionModel.infer_batch(model, batch, device="cpu")["risk"]
    assert risk == pytest.approx(call_network(model.network, tokens).risk.detach().numpy())
    for wanted, bundle in ((NestedFusionModel, demo_bundle), (CrossFusionModel, nested_bundle)):
        with pytest.raises(ValueError, match="load it with SurvivalModel") as caught:
            wanted(bundle)
        assert isinstance(caught.value, UsageError)
        assert SurvivalModel(bundle).network is bundle.network


def test_weights_of_crossfusion_are_not_those_of_nested_fusion(
    demo_bundle, nested_bundle, tmp_path
):
    torch.save(demo_bundle.network.state_dict(), tmp_path / "crossfusion.pth")
    with pytest.raises(TiacfError, match=r"crossfusion\.pth") as caught:
        nested_bundle.with_weights(tmp_path / "crossfusion.pth")
    assert "\n" not in str(caught.value)


def test_a_bag_whose_grids_do_not_nest_is_refused_in_one_line(nested_bundle):
    tokens = tokens_of(*(torch.randn(1, n, 4) for n in (2, 8, 32)))
    check_tokens(nested_bundle.network, tokens, "bag of a.svs")
    with pytest.raises(TiacfError, match=r"no positions on the grid at 5x, 10x, 20x.*mean-pool"):
        check_tokens(nested_bundle.network, SlideTokens(tokens.features), "bag of a.svs")
    lonely = tokens.keep("5x", torch.tensor([0]))
    with pytest.raises(
        TiacfError, match=r"bag of a\.svs: 4 of 8 patches at 10x lie in no 5x patch"
    ):
        check_tokens(nested_bundle.network, lonely, "bag of a.svs")
    childless = tokens.keep("20x", torch.arange(1))
    with pytest.raises(TiacfError, match=r"7 of 8 patches at 10x hold no 20x patch.*mean-pool"):
        check_tokens(nested_bundle.network, childless, "bag of a.svs")
