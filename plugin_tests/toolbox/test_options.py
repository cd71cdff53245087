"""Python has every option of `tiacf predict`, with the same results."""

from __future__ import annotations

import csv
import gzip
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiacrossfusion import SurvivalPredictor, UsageError
from tiacrossfusion.cli import main


def tiacf(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def predictor() -> SurvivalPredictor:
    return SurvivalPredictor()


@pytest.fixture(scope="module")
def bags(simulated, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    tiacf(
        "extract", "--img-input", simulated, "--output-path", folder, "--encoder", "stain-texture"
    )
    return folder


@pytest.fixture
def patients(tmp_path) -> Path:
    path = tmp_path / "whose.csv"
    path.write_text("file,who\nlow,A\nhigh,A\n")
    return path


COLUMNS = {"slide_column": "file", "patient_column": "who"}


def test_bags_and_patients_as_on_the_command_line(predictor, bags, patients, tmp_path):
    outputs = predictor.run(
        bags=bags, patients=patients, save_dir=tmp_path / "python", output_type="qupath", **COLUMNS
    )
    assert set(outputs) == {bags / "low.zarr", bags / "high.zarr"}
    tiacf(
        *("predict", "--bags", bags, "--output-path", tmp_path / "command"),
        *("--patients", patients, "--slide-column", "file", "--patient-column", "who"),
    )
    for name in ("predictions.csv", "patients.csv"):
        assert rows(tmp_path / "python" / name) == rows(tmp_path / "command" / name)
    for path in (tmp_path / "command").glob("*.geojson"):
        assert path.read_bytes() == (tmp_path / "python" / path.name).read_bytes()
    (patient,) = predictor.patients
    assert patient.patient == "A"
    assert patient.predicted == ("low", "high")
    in_memory = predictor.run(bags=[bags / "low.zarr", bags / "high.zarr"])
    assert len(in_memory) == 2
    assert predictor.patients == []


def test_patients_need_no_folder(predictor, bags, patients, tmp_path):
    predictor.run(bags=bags, patients=patients, **COLUMNS)
    assert predictor.patients[0].prediction is not None
    assert sorted(tmp_path.iterdir()) == [patients]


def test_attribution_and_compression(predictor, simulated, tmp_path):
    image = simulated / "low.svs"
    full = predictor.run([image])[image]
    plain = predictor.run([image], attribution=False)[image]
    assert full["attribution"]
    assert not plain["attribution"]
    assert plain["risk"] == full["risk"]
    run = {"save_dir": tmp_path, "output_type": "qupath", "attribution": False}
    (path,) = predictor.run([image], gzip=True, **run).values()
    assert path == tmp_path / "low.geojson.gz"
    assert gzip.decompress(path.read_bytes()).startswith(b"{")


def test_the_scale_is_an_argument_too(predictor, simulated):
    image = simulated / "low.svs"
    named = predictor.run([image], mpp=1.0)[image]
    in_dictionary = predictor.run([image], wsireader_kwargs={"mpp": 1.0})[image]
    assert named["risk"] == in_dictionary["risk"] != predictor.run([image])[image]["risk"]
    with pytest.raises(ValueError, match="contradict each other"):
        predictor.run([image], mpp=0.25, power=5)
    with pytest.raises(ValueError, match="contradict each other"):
        predictor.run([image], mpp=0.25, wsireader_kwargs={"power": 5})


def test_precision_is_that_of_the_encoder(simulated):
    image = simulated / "low.svs"
    single = SurvivalPredictor(precision="float32").run([image])[image]
    assert single["risk"] == SurvivalPredictor().run([image])[image]["risk"]
    with pytest.raises(UsageError, match="precision"):
        SurvivalPredictor(precision="float8").run([image])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ["a.svs"], "bags": "b"}, "images: .* bags are finished"),
        ({"bags": "absent"}, "absent: no such"),
        ({"masks": [None], "bags": "b"}, "masks: .* bags are finished"),
        ({"mpp": 0.5, "bags": "b"}, "mpp: .* bags are finished"),
        ({"auto_get_mask": False, "bags": "b"}, "auto_get_mask: .* bags are finished"),
        ({"images": ["a.svs"], "patients": "absent.csv"}, "absent.csv: no such file"),
        ({"images": ["a.svs"], "gzip": True}, "gzip: is for GeoJSON"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    predictor, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match=message) as caught:
        predictor.run(**options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "b"]


def test_a_plugin_registers_an_encoder(simulated, tmp_path):
    with pytest.raises(UsageError, match="absent_plugin"):
        SurvivalPredictor(plugins=["absent_plugin.py"])
    plugin = tmp_path / "registers_nothing.py"
    plugin.write_text("")
    image = simulated / "low.svs"
    assert list(SurvivalPredictor(plugins=[str(plugin)]).run([image])) == [image]


def test_weights_and_whole_slides_on_the_command_line(demo_bundle, simulated, tmp_path):
    import torch

    state = {name: tensor / 2 for name, tensor in demo_bundle.network.state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(simulated / "low.svs", slides)
    options = ("--img-input", slides, "--output-path", tmp_path / "out", "--no-auto-get-mask")
    options += ("--model", "crossfusion-demo", "--weights", tmp_path / "half.pth")
    tiacf("predict", *options, "--no-attribution")
    (row,) = rows(tmp_path / "out" / "predictions.csv")
    by_python = SurvivalPredictor("crossfusion-demo", weights=tmp_path / "half.pth")
    image = slides / "low.svs"
    prediction = by_python.run([image], auto_get_mask=False, attribution=False)[image]
    assert float(row["risk"]) == pytest.approx(prediction["risk"], abs=1e-8)
    assert int(row["patches_20x"]) == len(prediction["bounds"]["20x"])


def test_an_ioconfig_on_the_command_line_must_be_the_models_own(simulated, tmp_path):
    own = (
        "input_resolutions:\n"
        + "".join(f"  - {{units: mpp, resolution: {r}}}\n" for r in (2.0, 1.0, 0.5))
        + "patch_input_shape: [256, 256]\nstride_shape: [256, 256]\n"
    )
    (tmp_path / "own.yaml").write_text(own)
    (tmp_path / "other.yaml").write_text(own.replace("[256, 256]", "[224, 224]"))
    (tmp_path / "text.yaml").write_text("- 1\n")
    command = ("predict", "--img-input", simulated / "low.svs", "--output-path", tmp_path / "out")
    for name, message in (
        ("other.yaml", "own sampling"),
        ("text.yaml", "is no IO configuration"),
        ("absent.yaml", "check --yaml-config-path"),
    ):
        options = [str(o) for o in (*command, "--yaml-config-path", tmp_path / name)]
        result = CliRunner().invoke(main, options)
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert result.output.count("\n") == 1
        assert not (tmp_path / "out").exists()
    tiacf(*command, "--yaml-config-path", tmp_path / "own.yaml", "--no-attribution")


def test_a_cluster_gives_the_same_results(bags, patients, demo_bundle, tmp_path, monkeypatch):
    """Workers find models, weights and bags that are given by relative paths."""
    import torch

    distributed = pytest.importorskip("distributed")
    from tiacrossfusion import CrossFusionModel

    state = {name: tensor / 2 for name, tensor in demo_bundle.network.state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    monkeypatch.chdir(tmp_path)
    run = {"bags": bags, "patients": patients, "output_type": "qupath", **COLUMNS}
    here = SurvivalPredictor("crossfusion-demo", weights="half.pth")
    here.run(save_dir="here", **run)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        far = SurvivalPredictor(
            "crossfusion-demo", weights="half.pth", cluster=cluster.scheduler_address
        )
        assert len(far.run(save_dir="far", **run)) == 2
        with pytest.raises(UsageError, match="needs an output folder"):
            far.run(bags=bags)
    for name in ("predictions.csv", "patients.csv"):
        assert rows(tmp_path / "far" / name) == rows(tmp_path / "here" / name)
    assert far.patients[0].row == here.patients[0].row
    with pytest.raises(TypeError, match="cluster: its workers load the model themselves"):
        SurvivalPredictor(model=CrossFusionModel(demo_bundle), cluster="tcp://127.0.0.1:1")
