"""The engine keeps TIAToolbox's signatures, and this project's promises on resuming and overwriting."""

from __future__ import annotations

import copy
import inspect
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiatoolbox.models.engine.engine_abc import EngineABC
from tiatoolbox.models.models_abc import ModelABC
from tiatoolbox.wsicore.wsireader import VirtualWSIReader, WSIReader

from tiacrossfusion import CrossFusionModel, SurvivalPredictor, TiacfError, UsageError


@pytest.fixture(scope="module")
def predictor() -> SurvivalPredictor:
    return SurvivalPredictor(model="crossfusion-demo", batch_size=32, num_workers=2, device="cpu")


def test_it_is_an_engine_with_the_toolboxs_arguments(predictor):
    assert isinstance(predictor, EngineABC)
    assert isinstance(predictor.model, ModelABC)
    for method in ("__init__", "run"):
        theirs = inspect.signature(getattr(EngineABC, method)).parameters
        ours = inspect.signature(getattr(SurvivalPredictor, method)).parameters
        assert set(theirs) <= set(ours)
        for name in theirs:
            assert ours[name].kind == theirs[name].kind, name
    assert inspect.signature(SurvivalPredictor.run).parameters["patch_mode"].default is False
    resolutions = [r["resolution"] for r in predictor.ioconfig.input_resolutions]
    assert resolutions == [2.0, 1.0, 0.5]
    assert predictor.ioconfig.highest_input_resolution == {"units": "mpp", "resolution": 0.5}


def test_qupath_output_maps_each_image_to_its_file(predictor, simulated, tmp_path):
    images = [simulated / "low.svs", WSIReader.open(simulated / "high.svs")]
    (tmp_path / "mine.txt").write_text("keep")
    outputs = predictor.run(
        images=images, masks=None, patch_mode=False, save_dir=tmp_path, output_type="qupath"
    )
    assert outputs == {
        simulated / "low.svs": tmp_path / "low.geojson",
        simulated / "high.svs": tmp_path / "high.geojson",
    }
    assert all(path.exists() for path in outputs.values())
    before = outputs[simulated / "low.svs"].stat().st_mtime_ns
    again = predictor.run(images=images, save_dir=tmp_path, output_type="qupath")
    assert again == outputs
    assert [outcome.status for outcome in predictor.outcomes] == ["skipped", "skipped"]
    predictor.run(images=images[:1], save_dir=tmp_path, output_type="qupath", overwrite=True)
    assert outputs[simulated / "low.svs"].stat().st_mtime_ns > before
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_dict_output_agrees_with_the_zarr_store(predictor, simulated, tmp_path):
    import zarr

    image = str(simulated / "low.svs")
    (prediction,) = predictor.run(images=[image]).values()
    (path,) = predictor.run(images=[image], save_dir=tmp_path, output_type="dict").values()
    assert path == tmp_path / "low.zarr"
    group = zarr.open_group(path, mode="r")
    assert group.attrs["risk"] == prediction["risk"]
    assert "Not for clinical use" in prediction["notice"]
    assert prediction["model"] == group.attrs["model"] == "crossfusion-demo"
    assert (group["survival"][:] == prediction["survival"]).all()
    assert (group["attention/fused"][:] == prediction["attention"]["fused"]).all()
    assert (group["bounds/20x"][:] == prediction["bounds"]["20x"]).all()


def test_annotation_store_output(predictor, simulated, tmp_path):
    outputs = predictor.run(
        images=[simulated / "low.svs"], save_dir=tmp_path, output_type="AnnotationStore"
    )
    assert outputs[simulated / "low.svs"] == tmp_path / "low.db"
    assert (tmp_path / "low.db").stat().st_size > 0


def test_a_failing_image_does_not_stop_the_others(predictor, simulated, blank, tmp_path):
    images = [blank, tmp_path / "absent.svs", simulated / "low.svs"]
    outputs = predictor.run(images=images, save_dir=tmp_path / "out", output_type="qupath")
    assert list(outputs) == [simulated / "low.svs"]
    assert [outcome.status for outcome in predictor.outcomes] == ["failed", "failed", "ok"]
    assert "no tissue" in predictor.outcomes[0].message


def test_arrays_serve_as_images_and_masks(predictor, simulated):
    reader = WSIReader.open(simulated / "low.svs")
    array = reader.read_rect((0, 0), reader.info.slide_dimensions)
    mask = np.zeros((150, 180), bool)
    mask[:80] = True
    by_file = predictor.run(images=[simulated / "low.svs"], masks=[mask])
    by_array = predictor.run(
        images=[VirtualWSIReader(array)], masks=[mask], wsireader_kwargs={"mpp": 0.5}
    )
    first, second = next(iter(by_file.values())), next(iter(by_array.values()))
    assert (first["bounds"]["20x"] == second["bounds"]["20x"]).all()
    # Not the same risk: the file's 5x patches come from its pyramid, the array's from its pixels.
    assert -4 < second["risk"] < 0


def test_a_users_reader_is_given_back_as_it_was(predictor, simulated, tmp_path):
    reader = WSIReader.open(simulated / "low.svs")
    run = {"save_dir": tmp_path, "output_type": "qupath"}
    predictor.run(images=[reader], wsireader_kwargs={"mpp": 0.25}, **run)
    assert tuple(reader.info.mpp) == (0.5, 0.5)
    first = predictor.outcomes[0].row["patches_20x"]
    predictor.run(images=[WSIReader.open(simulated / "low.svs", mpp=(0.5, 0.5))], **run)
    assert "another scale" in predictor.outcomes[0].message
    predictor.run(images=[reader], overwrite=True, **run)
    assert predictor.outcomes[0].row["patches_20x"] > first


def test_refusals_are_said_once_and_without_a_traceback(predictor, blank, caplog):
    predictor.run(images=[blank])
    said = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "INFO")]
    said = [record for record in said if "no tissue" in record.getMessage()]
    assert len(said) == 1
    assert not said[0].exc_info


def test_the_scale_can_be_given(predictor, real_slides):
    image = real_slides / "tcga-cr-7395-01a-01-ts1.svs"
    assert predictor.run(images=[image]) == {}
    assert "mpp" in predictor.outcomes[0].message
    for mpp in (0.25, (0.25, 0.25)):
        assert list(predictor.run(images=[image], wsireader_kwargs={"mpp": mpp})) == [image]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_mode": True}, "patch_mode=False"),
        ({"images": []}, "at least one"),
        ({"images": "slide.svs"}, "a list"),
        ({"images": None}, "a list"),
        ({"images": [3]}, "neither a path nor a WSIReader"),
        ({"masks": []}, "0 masks for 1 images"),
        ({"output_type": "csv", "save_dir": "x"}, "output_type=csv"),
        ({"output_type": "qupath"}, "save_dir"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"input_resolutions": [{"units": "mpp", "resolution": 1.0}]}, "own sampling"),
        ({"patch_input_shape": (224, 224)}, "own sampling"),
        ({"wsireader_kwargs": {"level": 1}}, "level"),
        ({"wsireader_kwargs": {"mpp": -1}}, "mpp -1"),
        ({"auto_get_mask": "no"}, "auto_get_mask: must be True or False"),
        ({"images": ["a\0.svs"]}, "images: 'a.x00.svs' is no path"),
        ({"images": [""]}, "images: '' is no path"),
        ({"masks": 5}, "masks: int is no list"),
        ({"masks": "m"}, "masks: str is no list"),
        ({"masks": [5]}, "masks: int is neither a path nor an array"),
        ({"masks": [""]}, "masks: '' is no path"),
        ({"device": None}, "device: must be a name .* not NoneType"),
        ({"device": 0}, "device: must be a name .* not int"),
        ({"batch_size": "a"}, "batch_size: must be a whole number, not str"),
        ({"batch_size": 32.5}, "batch_size: must be a whole number, not float"),
        ({"batch_size": True}, "batch_size: must be a whole number, not bool"),
        ({"num_workers": None}, "num_workers: must be a whole number, not NoneType"),
        ({"save_dir": 5}, "save_dir: must be a path, not int"),
        ({"save_dir": b"out"}, "save_dir: must be a path, not bytes"),
        ({"save_dir": "a\0b"}, "save_dir: 'a.x00b' is no path"),
        ({"save_dir": ""}, "save_dir: '' is no path"),
        ({"wsireader_kwargs": [1]}, "wsireader_kwargs: must be a dictionary"),
        ({"wsireader_kwargs": {"mpp": "x"}}, "mpp: must be a number, not str"),
        ({"wsireader_kwargs": {"mpp": (1, 1, 1)}}, "mpp 1, 1, 1: must be one number, or the same"),
        ({"wsireader_kwargs": {"mpp": ()}}, "must be one number, or the same"),
        ({"wsireader_kwargs": {"mpp": (0.5, 0.4)}}, "mpp 0.5, 0.4: .* the same in x and y"),
        ({"wsireader_kwargs": {"power": "20x"}}, "power: must be a number, not str"),
        ({"patch_input_shape": np.array([224, 224])}, "own sampling"),
        ({"patch_input_shape": np.array(256)}, "own sampling"),
        ({"input_resolutions": [{"resolution": np.ones(2), "units": "mpp"}]}, "own sampling"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    predictor, simulated, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    before = {name: getattr(predictor, name) for name in ("batch_size", "num_workers", "device")}
    with pytest.raises(UsageError, match=message) as caught:
        predictor.run(**({"images": [simulated / "low.svs"]} | options))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    # What was refused is not there in the next run either.
    assert {name: getattr(predictor, name) for name in before} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 5}, "model: must be a name, .* not int"),
        ({"model": None}, "model: must be a name, .* not NoneType"),
        ({"batch_size": "32"}, "batch_size: must be a whole number, not str"),
        ({"num_workers": 0.5}, "num_workers: must be a whole number, not float"),
        ({"device": None}, "device: must be a name .* not NoneType"),
        ({"weights": 5}, "weights: must be a path, not int"),
        ({"encoder_weights": 5}, "encoder_weights: must be a path, not int"),
    ],
)
def test_an_engine_is_not_made_of_wrong_types(options, message):
    with pytest.raises(UsageError, match=message):
        SurvivalPredictor(**options)


def test_a_run_that_was_refused_leaves_the_engine_as_it_was(predictor, simulated):
    with pytest.raises(UsageError):
        predictor.run(images=[simulated / "low.svs"], device=None)
    with pytest.raises(UsageError):
        predictor.run(images=[simulated / "low.svs"], batch_size=4, num_workers="two")
    assert predictor.batch_size == 32
    assert list(predictor.run(images=[simulated / "low.svs"])) == [simulated / "low.svs"]


def test_the_models_own_sampling_may_be_given_in_every_form(predictor, simulated):
    mask = np.ones((150, 180), bool)
    outputs = predictor.run(
        images=[simulated / "low.svs"],
        masks=(mask for _ in range(1)),
        patch_input_shape=np.array([256, 256]),
        input_resolutions=tuple(predictor.ioconfig.input_resolutions),
        ioconfig=copy.deepcopy(predictor.ioconfig),
        wsireader_kwargs={"mpp": np.array([0.5, 0.5])},
        batch_size=np.int64(32),
    )
    assert list(outputs) == [simulated / "low.svs"]


def test_models_may_be_given_in_every_form(predictor, demo_bundle, tmp_path):
    from tiacrossfusion.models.files import shipped_bundles

    folder = tmp_path / "model"
    shutil.copytree(shipped_bundles()["crossfusion-demo"], folder)
    assert SurvivalPredictor(model=folder).model.bundle.config == demo_bundle.config
    model = CrossFusionModel(demo_bundle)
    assert SurvivalPredictor(model=model).model is model
    with pytest.raises(TiacfError, match="device cuda:99"):
        SurvivalPredictor(device="cuda:99")
    halved = {name: tensor / 2 for name, tensor in demo_bundle.network.state_dict().items()}
    save_file(halved, tmp_path / "half.safetensors")
    other = SurvivalPredictor(
        "crossfusion-demo", weights=tmp_path / "half.safetensors"
    ).model.bundle
    assert other.fingerprint != demo_bundle.fingerprint
    halved = other.network.state_dict()
    assert all(
        torch.equal(halved[name] * 2, value)
        for name, value in demo_bundle.network.state_dict().items()
    )


def test_the_model_predicts_from_a_bag(demo_bundle):
    rng = np.random.default_rng(0)
    width = demo_bundle.config.encoder.width
    bag = {s: rng.normal(size=(n, width)) for s, n in (("5x", 2), ("10x", 5), ("20x", 9))}
    output = CrossFusionModel.infer_batch(CrossFusionModel(demo_bundle), bag, device="cpu")
    assert output["survival"].shape == (1, 4)
    assert output["risk"][0] == pytest.approx(-output["survival"].sum(), abs=1e-6)


def test_a_network_is_given_positions_and_covariates():
    class Placed(torch.nn.Module):
        def forward(self, x20, grid20, covariates):
            return torch.cat([x20[:, 0], grid20[:, 1].float(), covariates], dim=1)

    batch = {"20x": np.ones((2, 3)), "grid20": [[0, 1], [4, 5]], "covariates": np.array([7.0])}
    output = CrossFusionModel.infer_batch(Placed(), batch, device="cpu")
    assert output["logits"].tolist() == [[1, 1, 1, 4, 5, 7]]
