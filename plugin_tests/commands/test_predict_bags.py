"""`tiacf predict` from bags, for patients of several slides, and with the spread of an ensemble."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from command_line import assert_failed, assert_usage

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cli import main
from tiacrossfusion.cohorts.patients import PatientTable, read_patients
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.io.paths import size_on_disk
from tiacrossfusion.models.bundle import load_bundle, make_ensemble, save_bundle
from tiacrossfusion.models.config import (
    BundleConfig,
    ModelCard,
    RiskGroup,
    RiskReference,
)
from tiacrossfusion.models.network import describe_network, network_of
from tiacrossfusion.models.source import LoadedModel
from tiacrossfusion.runs import prediction_task
from tiacrossfusion.runs.patients import predict_patients
from tiacrossfusion.runs.prediction import predict as predict_all
from tiacrossfusion.runs.prediction_task import PredictionOptions
from tiacrossfusion.runs.results_folder import ResultsFolder
from tiacrossfusion.runs.runner import Outcome
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.survival import TimeBins

FILES = ["{}.geojson", "{}_10x.geojson", "{}_5x.geojson", "{}_attention.png", "{}_survival.png"]
BINS = TimeBins(edges=(0, 10, 20, 40), unit="months")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *(str(argument) for argument in arguments)])


def predict(bags: Path, out: Path, model: Path, *options: object) -> Result:
    return invoke("--bags", bags, "--output-path", out, "--model", model, *options)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def visible(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def make_config(encoder: EncoderSpec, name: str = "crossfusion", **fields) -> BundleConfig:
    reference = RiskReference(
        quantiles=tuple(np.linspace(-3, 0, 101)),
        cutoff=-1.5,
        groups=tuple(
            RiskGroup(name=group, patients=2, survival=(0.8, 0.5, 0.3)) for group in ("low", "high")
        ),
    )
    return BundleConfig(
        name="made-up",
        version="1",
        architecture=describe_network(
            name,
            encoder_width=encoder.width,
            num_bins=3,
            sizes={"embed_dim": 8, "num_heads": 2, "depth": 1},
        ),
        sampling=SamplingSpec(),
        encoder=encoder,
        time_bins=BINS,
        risk_reference=reference,
        card=ModelCard(description="d", cohort="c", licence="l", notice="Not for clinical use."),
        **fields,
    )


def fresh_network(config: BundleConfig, seed: int):
    """A network whose weights are drawn wide, so that slides differ in risk."""
    torch.manual_seed(seed)
    network = network_of(config.architecture)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network.eval()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Three patients of two slides each, as bags: P1-1, P1-2 and so on with the table cohort.csv."""
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder, 3, seed=1, scenario="product", slides_per_patient=2, encoder_width=6, side=2
    )
    return folder


@pytest.fixture(scope="module")
def bags(cohort) -> Path:
    return cohort / "bags"


@pytest.fixture(scope="module")
def names(bags) -> list[str]:
    return sorted(store.stem for store in bags.glob("*.zarr"))


@pytest.fixture(scope="module")
def encoder(bags, names) -> EncoderSpec:
    return FeatureBag.load(bags / f"{names[0]}.zarr").provenance.encoder


@pytest.fixture(scope="module")
def single(encoder, tmp_path_factory) -> Path:
    """Bundle of one network."""
    folder, config = tmp_path_factory.mktemp("models") / "single", make_config(encoder)
    save_bundle(folder, config, fresh_network(config, 0))
    return folder


@pytest.fixture(scope="module")
def members(encoder) -> list:
    config = make_config(encoder)
    return [fresh_network(config, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def ensemble(encoder, members, tmp_path_factory) -> Path:
    """Bundle of three networks with the same time bins."""
    folder = tmp_path_factory.mktemp("models") / "ensemble"
    config = make_config(encoder, members=(BINS,) * len(members))
    save_bundle(folder, config, make_ensemble(members, config))
    return folder


@pytest.fixture(scope="module")
def predicted(bags, single, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    result = predict(bags, out, single)
    assert result.exit_code == 0, result.output
    assert "6 of 6 bags done" in result.output
    return out


@pytest.fixture
def resumed(predicted, tmp_path) -> Path:
    """A copy of these results, in which all bags are finished."""
    return Path(shutil.copytree(predicted, tmp_path / "resumed"))


def hazards_of(network: torch.nn.Module, store: Path) -> np.ndarray:
    """(K,) hazards straight from the network."""
    bag = FeatureBag.load(store)
    tokens = [torch.from_numpy(scale.features).float()[None] for scale in bag.scales.values()]
    with torch.inference_mode():
        return network(*tokens).hazards[0].double().numpy()


# From bags


def predict_bags(stores, model, folder, options=None) -> list[Outcome]:
    return predict_all(stores, model, folder, options, are_bags=True, show_progress=False).outcomes


def test_every_bag_gets_the_files_and_the_row_of_a_slide(bags, names, single, predicted):
    expected = [pattern.format(name) for name in names for pattern in FILES]
    assert visible(predicted) == sorted([*expected, "predictions.csv", "report.html", "tiacf.log"])
    bundle, rows = load_bundle(single), table(predicted / "predictions.csv")
    assert [row["output"] for row in rows] == [row["slide"] for row in rows] == names
    for row in rows:
        store = bags / f"{row['output']}.zarr"
        survival = np.cumprod(1 - hazards_of(bundle.network, store))
        for k, value in enumerate(survival, 1):
            assert float(row[f"survival_{k}"]) == pytest.approx(value, abs=1e-9)
        assert float(row["risk"]) == pytest.approx(-survival.sum(), abs=1e-8)
        assert row["risk_sd"] == ""
        assert row["risk_group"] == ("high" if -survival.sum() > -1.5 else "low")
        assert (row["status"], row["path"]) == ("ok", str(store))
        assert [row[f"patches_{scale}"] for scale in ("5x", "10x", "20x")] == ["4", "16", "64"]
    assert len({row["risk"] for row in rows}) == len(names)


def test_bags_give_what_their_slides_give(simulated, tmp_path, monkeypatch):
    """All but the attention's picture is the same, and no encoder is loaded."""
    from tiacrossfusion.encoders import loading, stored

    slide = simulated / "low.svs"
    assert invoke("--img-input", slide, "--output-path", tmp_path / "of-slide").exit_code == 0
    arguments = ["--img-input", str(slide), "--output-path", str(tmp_path / "bags")]
    assert CliRunner().invoke(main, ["extract", *arguments]).exit_code == 0

    def refuse(*args, **kwargs):
        raise AssertionError("the encoder was asked for")

    monkeypatch.setattr(stored, "load_encoder_of", refuse)
    monkeypatch.setattr(loading, "load_encoder", refuse)
    result = invoke("--bags", tmp_path / "bags", "--output-path", tmp_path / "of-bag")
    assert result.exit_code == 0, result.output
    rows = [table(tmp_path / out / "predictions.csv")[0] for out in ("of-slide", "of-bag")]
    for row in rows:
        del row["seconds"], row["path"]
    assert rows[0] == rows[1]
    assert rows[0]["slide"] == "low.svs"
    for pattern in FILES:
        of_slide, of_bag = (
            (tmp_path / out / pattern.format("low")).read_bytes() for out in ("of-slide", "of-bag")
        )
        assert (of_slide == of_bag) == (pattern != "{}_attention.png")


def test_a_bag_without_coordinates_has_a_risk_and_no_maps(bags, names, single, predicted, tmp_path):
    whole = FeatureBag.load(bags / f"{names[0]}.zarr")
    scales = {name: replace(s, bounds=None, grid=None) for name, s in whole.scales.items()}
    made = whole.provenance.model_copy(
        update={"imported": "a .pt file", "mpp": None, "dimensions": None}
    )
    FeatureBag(scales, made).save(tmp_path / "bags" / "plain.zarr")
    for _ in range(2):  # the second time it is skipped
        result = predict(tmp_path / "bags", tmp_path / "out", single)
        assert result.exit_code == 0, result.output
    assert "finished before, skipped" in result.output
    wanted = ["plain_survival.png", "predictions.csv", "report.html", "tiacf.log"]
    assert visible(tmp_path / "out") == wanted
    (row,) = table(tmp_path / "out" / "predictions.csv")
    assert "no maps: the positions of its patches are unknown" in row["message"]
    assert row["risk"] == table(predicted / "predictions.csv")[0]["risk"]


def test_the_picture_shows_patches_on_white(predicted, names):
    image = cv2.imread(str(predicted / f"{names[0]}_attention.png"))
    left = image[: image.shape[0] // 2, : image.shape[1] // 4]
    grey = (left == 204).all(axis=2)
    assert grey.mean() > 0.3, "simulated bags fill their slide"
    colour = left.max(axis=2) - left.min(axis=2)
    assert colour.max() < 10, "there are no colours where a slide would be"


@pytest.mark.parametrize("name", ["crossfusion-20x", "abmil", "mean-pool-20x"])
def test_networks_without_attention_at_every_scale(bags, names, encoder, tmp_path, name):
    config = make_config(encoder, name)
    save_bundle(tmp_path / "model", config, fresh_network(config, 0))
    result = predict(bags / f"{names[0]}.zarr", tmp_path / "out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out" / f"{names[0]}.geojson").read_text())
    tile = next(f for f in document["features"] if f["properties"]["objectType"] == "tile")
    assert "Attention 20x" in tile["properties"]["measurements"]
    assert "Attention fused" not in tile["properties"]["measurements"]


def test_a_bag_of_one_scale_is_predicted_by_a_network_that_reads_it(bags, names, encoder, tmp_path):
    config = make_config(encoder, "crossfusion-20x")
    save_bundle(tmp_path / "model", config, fresh_network(config, 0))
    bag = FeatureBag.load(bags / f"{names[0]}.zarr")
    FeatureBag({"20x": bag.scales["20x"]}, bag.provenance).save(tmp_path / "a.zarr")
    for _ in range(2):  # the second time it is skipped
        result = predict(tmp_path / "a.zarr", tmp_path / "out", tmp_path / "model")
        assert result.exit_code == 0, result.output
    assert "(1 finished before)" in result.output
    tiles = {}
    for scale, ending in (("20x", ""), ("10x", "_10x"), ("5x", "_5x")):
        document = json.loads((tmp_path / "out" / f"a{ending}.geojson").read_text())
        kinds = [feature["properties"]["objectType"] for feature in document["features"]]
        tiles[scale] = kinds.count("tile")
    assert tiles == {"20x": len(bag.scales["20x"]), "10x": 0, "5x": 0}


def test_finished_bags_are_skipped_by_what_they_hold(bags, names, single, predicted, tmp_path):
    stores, out = tmp_path / "bags", tmp_path / "out"
    shutil.copytree(bags / f"{names[0]}.zarr", stores / "a.zarr")
    assert predict(stores, out, single).exit_code == 0
    before = (out / "a.geojson").stat().st_mtime_ns
    bag = FeatureBag.load(stores / "a.zarr")
    bag.save(stores / "a.zarr")  # other files, same content
    result = predict(stores, out, single)
    assert "1 of 1 bags done (1 finished before)" in result.output
    assert (out / "a.geojson").stat().st_mtime_ns == before
    bag.scales["20x"].features[0] += 1
    bag.save(stores / "a.zarr")
    assert_failed(predict(stores, out, single), "a.zarr", "another bag", "--overwrite")
    assert "another bag" in table(out / "predictions.csv")[0]["message"]
    assert predict(stores, out, single, "--overwrite").exit_code == 0
    assert (out / "a.geojson").stat().st_mtime_ns > before
    assert table(out / "predictions.csv")[0]["message"] == ""


def test_a_file_that_was_cut_is_made_again_and_one_that_grew_is_kept(
    bags, names, single, predicted, resumed
):
    emptied, cut, grown = (
        resumed / f"{names[0]}.geojson",
        resumed / f"{names[0]}_survival.png",
        resumed / f"{names[1]}.geojson",
    )
    emptied.write_text("")
    cut.write_bytes(cut.read_bytes()[:-1])
    with grown.open("a") as file:
        file.write(" ")
    result = predict(bags, resumed, single)
    assert "6 of 6 bags done (5 finished before)" in result.output
    why = f"made again, since {emptied.name}, {cut.name} had been cut"
    assert f"note: {why}" in result.output
    rows = table(resumed / "predictions.csv")
    assert [row["message"] for row in rows] == [why, *[""] * 5]
    for path in (emptied, cut):
        assert path.read_bytes() == (predicted / path.name).read_bytes()
    assert grown.read_bytes() == (predicted / grown.name).read_bytes() + b" "
    assert "(6 finished before)" in predict(bags, resumed, single).output
    assert {row["message"] for row in table(resumed / "predictions.csv")} == {""}


def lose_a_chunk(path: Path) -> None:
    next(file for file in path.rglob("c/*") if file.is_file()).unlink()


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def annotate(path: Path) -> None:
    """What a viewer does that opens the store and adds to it."""
    from shapely.geometry import Point
    from tiatoolbox.annotation import Annotation

    from tiacrossfusion.outputs.annotation_store import open_annotation_store

    store = open_annotation_store(path)
    store.append(Annotation(Point(1, 1), {"by": "a pathologist"}))
    store.close()


@pytest.mark.parametrize(
    ("output_type", "ending", "change", "kept"),
    [
        ("zarr", ".zarr", lose_a_chunk, False),
        ("annotationstore", ".db", halve, False),
        ("annotationstore", ".db", annotate, True),
    ],
)
def test_stores_that_were_cut_are_made_again(
    bags, names, single, tmp_path, output_type, ending, change, kept
):
    command = (bags / f"{names[0]}.zarr", tmp_path, single, "--output-type", output_type)
    assert predict(*command).exit_code == 0
    store = tmp_path / f"{names[0]}{ending}"
    change(store)
    changed = size_on_disk(store)
    result = predict(*command)
    assert result.exit_code == 0, result.output
    assert ("finished before" in result.output) == kept
    assert (f"since {store.name} had been cut" in result.output) != kept
    assert (size_on_disk(store) == changed) == kept


def test_records_without_sizes_count_as_before(bags, single, resumed):
    for record in (resumed / ".tiacf").glob("*.json"):
        content = json.loads(record.read_text())
        del content["sizes"], content["remark"]
        record.write_text(json.dumps(content))
    assert "(6 finished before)" in predict(bags, resumed, single).output


@pytest.mark.parametrize(
    ("theirs", "overwrite", "status"),
    [(False, False, "failed"), (False, True, "ok"), (True, False, "skipped")],
    ids=["other settings", "overwrite", "same settings"],
)
def test_what_another_run_finished_meanwhile_is_not_replaced_unasked(
    bags, names, single, tmp_path, monkeypatch, theirs, overwrite, status
):
    stores, model = [bags / f"{names[0]}.zarr"], LoadedModel(bundle=load_bundle(single))
    files = [tmp_path / f"{names[0]}.geojson", tmp_path / ".tiacf/report" / f"{names[0]}.json"]
    predict_stored, written = prediction_task.predict_stored, []

    def overtaken(*arguments, **options):
        monkeypatch.undo()
        other = PredictionOptions(attribution=theirs)
        predict_bags(stores, model, ResultsFolder(tmp_path), other)
        written.extend(path.read_bytes() for path in files)
        return predict_stored(*arguments, **options)

    monkeypatch.setattr(prediction_task, "predict_stored", overtaken)
    options = PredictionOptions(attribution=True, overwrite=overwrite)
    folder = ResultsFolder(tmp_path)
    (outcome,) = predict_bags(stores, model, folder, options)
    assert outcome.status == status
    for path, before in zip(files, written, strict=True):
        assert (path.read_bytes() == before) == (status != "ok")
    (row,) = table(tmp_path / "predictions.csv")
    assert row["status"] == "ok"
    assert ("another attribution" in row["message"]) == (status == "failed")


def test_a_failure_does_not_hide_what_another_run_finished(
    bags, names, single, tmp_path, monkeypatch
):
    stores, model = [bags / f"{names[0]}.zarr"], LoadedModel(bundle=load_bundle(single))

    def overtaken(*_, **__):
        monkeypatch.undo()
        predict_bags(stores, model, ResultsFolder(tmp_path))
        raise TiacfError("out of memory")

    monkeypatch.setattr(prediction_task, "predict_stored", overtaken)
    folder = ResultsFolder(tmp_path)
    (outcome,) = predict_bags(stores, model, folder)
    assert outcome.status == "failed"
    (row,) = table(tmp_path / "predictions.csv")
    assert (row["status"], row["message"]) == ("ok", "the last attempt failed: out of memory")


def changed(record: Path, **values: object) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | values))


def changed_row(record: Path, **values: object) -> None:
    """Give the row other values; ... takes one away."""
    row = json.loads(record.read_text())["row"] | values
    changed(record, row={name: value for name, value in row.items() if value is not ...})


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"row": {"hazards": [1]}}, "slide"),
        ({"row": {}, "status": "failed"}, "slide"),
        ({"begun": {"run": "x"}}, "by"),
        ({"key": {"model": None}}, "key.model"),
        ({"sizes": {"a.geojson": "x"}}, "sizes.a.geojson"),
        ({"remark": "\ud800"}, "JSON"),
    ],
)
def test_odd_records_are_damaged(names, resumed, values, place):
    record = resumed / ".tiacf" / f"{names[0]}.json"
    changed(record, **values)
    with pytest.raises(OutputError, match=rf"{record}: this record is damaged \(.*{place}"):
        ResultsFolder(resumed).records()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slide", ...),
        ("slide", 3),
        ("message", ...),
        ("path", []),
        ("risk", None),
        ("risk", "x"),
        ("risk", float("nan")),
        ("risk_sd", "x"),
        ("percentile", "hi"),
        ("risk_group", 1),
        ("survival", 3),
        ("survival", [0.5, None, 0.1]),
        ("bin_edge", [10, 20]),
        ("hazards", None),
        ("hazards", []),
        ("hazards", [None] * 3),
        ("hazards", [0.5, float("inf"), 0.5]),
        ("hazards", [0.1, 0.2]),
    ],
)
def test_rows_that_no_run_writes_are_damaged(names, resumed, name, value):
    record = resumed / ".tiacf" / f"{names[0]}.json"
    changed_row(record, **{name: value})
    with pytest.raises(OutputError, match=rf"{record}: this record is damaged \(.*{name}"):
        ResultsFolder(resumed).records()


def test_an_odd_row_ends_the_run_in_one_line(bags, names, single, cohort, resumed):
    record = resumed / ".tiacf" / f"{names[0]}.json"
    changed_row(record, hazards=[0.1, 0.2])
    result = predict(bags, resumed, single, "--patients", cohort / "cohort.csv")
    assert_failed(result, str(record), "damaged", "hazards", "remove it")


def test_hazards_of_other_bins_than_the_models_are_made_again(
    bags, names, single, cohort, predicted, resumed
):
    record = resumed / ".tiacf" / f"{names[0]}.json"
    changed_row(record, survival=[0.5, 0.1], hazards=[0.1, 0.2], bin_edge=[])
    result = predict(bags, resumed, single, "--patients", cohort / "cohort.csv")
    assert "6 of 6 bags done (5 finished before)" in result.output
    rows = [table(out / "predictions.csv") for out in (predicted, resumed)]
    assert rows[0][0] | {"seconds": ""} == rows[1][0] | {"seconds": ""}


def test_names_break_no_row(bags, names, single, tmp_path):
    for name in ("a\rb", 'c"d', "e\nf", "g,h"):
        shutil.copytree(bags / f"{names[0]}.zarr", tmp_path / "in" / f"{name}.zarr")
    done = predict(tmp_path / "in", tmp_path / "out", single, "--no-attribution")
    assert done.exit_code == 0, done.output
    paths = pd.read_csv(tmp_path / "out" / "predictions.csv").path
    assert {Path(path).name for path in paths} == {
        "a\\rb.zarr",
        'c"d.zarr',
        "e\nf.zarr",
        "g,h.zarr",
    }


def test_names_that_take_each_other_s_place_end(bags, names, single, tmp_path):
    """A slide may be called what another, whose name was taken, gets to be called."""
    store = tmp_path / "in" / "two" / "s.zarr"
    short = hashlib.sha256(str(store).encode()).hexdigest()[:8]
    for place in (f"one/s-{short}.zarr", "one/s.zarr", "two/s.zarr"):
        shutil.copytree(bags / f"{names[0]}.zarr", tmp_path / "in" / place)
        done = predict(tmp_path / "in" / place, tmp_path / "out", single, "--no-attribution")
        assert done.exit_code == 0, done.output
    assert len(table(tmp_path / "out" / "predictions.csv")) == 3


def test_bad_bags_are_named_and_the_others_go_on(bags, names, single, demo_bundle, tmp_path):
    stores = tmp_path / "bags"
    shutil.copytree(bags / f"{names[0]}.zarr", stores / "good.zarr")
    shutil.copytree(bags / f"{names[1]}.zarr", stores / "broken.zarr")
    shutil.rmtree(stores / "broken.zarr" / "20x")
    (stores / "text.zarr").mkdir()
    (stores / ".half.zarr").mkdir()
    foreign = FeatureBag.load(bags / f"{names[2]}.zarr")
    other = foreign.provenance.encoder.model_copy(update={"name": "another"})
    provenance = foreign.provenance.model_copy(update={"encoder": other, "slide": "foreign.svs"})
    FeatureBag(foreign.scales, provenance).save(stores / "foreign.zarr")
    empty = {
        name: type(scale)(scale.features[:0], scale.bounds[:0], scale.grid[:0])
        for name, scale in foreign.scales.items()
    }
    FeatureBag(empty, foreign.provenance).save(stores / "nothing.zarr")
    result = predict(stores, tmp_path / "out", single)
    assert result.exit_code == 1
    assert "1 of 5 bags done" in result.output
    assert "Traceback" not in result.output
    rows = {Path(row["path"]).name: row for row in table(tmp_path / "out" / "predictions.csv")}
    assert rows["good.zarr"]["status"] == "ok"
    for name, words in (
        ("broken.zarr", ["broken.zarr", "damaged"]),
        ("text.zarr", ["text.zarr", "not a feature bag"]),
        ("foreign.zarr", ["foreign.svs", "encoder name = another", "simulated"]),
        ("nothing.zarr", [names[2], "no patches at 5x, 10x, 20x"]),
    ):
        assert rows[name]["status"] == "failed"
        for word in words:
            assert word in rows[name]["message"]
            assert word in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--masks", "m.png"], ["--masks", "is for slides"]),
        (["--mpp", "0.5"], ["--mpp", "is for slides"]),
        (["--power", "20"], ["--power", "is for slides"]),
        (["--encoder-weights", "w.pt"], ["--encoder-weights", "is for slides"]),
        (["--batch-size", "8"], ["--batch-size", "is for slides"]),
        (["--img-input", "slides"], ["--img-input and --bags", "leave one"]),
        (["--bags", "absent"], ["absent", "no such file or folder", "--bags"]),
        (["--bags", "."], ["holds no bag", "tiacf extract"]),
        (["--slide-column", "x"], ["--slide-column", "is for --patients"]),
        (["--output-path", ""], ["--output-path is missing"]),
    ],
)
def test_bad_options_get_one_line(bags, single, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    result = predict(bags, tmp_path / "out", single, *options)
    assert_usage(result, *words)
    assert not (tmp_path / "out").exists()


def test_neither_slides_nor_bags(tmp_path):
    assert_usage(invoke("--output-path", tmp_path), "--img-input is missing, or --bags")


# The spread of an ensemble


def test_an_ensemble_gives_its_spread(bags, names, members, ensemble, single, tmp_path):
    store = bags / f"{names[0]}.zarr"
    result = predict(store, tmp_path, ensemble)
    assert result.exit_code == 0
    (row,) = table(tmp_path / "predictions.csv")
    curves = [np.cumprod(1 - hazards_of(member, store)) for member in members]
    risks = [-curve.sum() for curve in curves]
    spread = np.sqrt(np.sum((risks - np.mean(risks)) ** 2) / (len(risks) - 1))
    assert spread > 1e-3
    assert float(row["risk_sd"]) == pytest.approx(spread, rel=1e-4)
    assert float(row["risk"]) == pytest.approx(np.mean(risks), abs=1e-5)
    assert f"SD {spread:.3f}" in result.output
    of_ensemble, of_single = (
        predict_bags([store], LoadedModel(bundle=load_bundle(model)), None)[0].value
        for model in (ensemble, single)
    )
    np.testing.assert_allclose(of_ensemble["member_risks"], risks, atol=1e-5)
    assert of_single["member_risks"] is None


def test_the_members_risks_are_in_the_zarr_store(bags, names, ensemble, tmp_path):
    import zarr

    store = bags / f"{names[0]}.zarr"
    assert predict(store, tmp_path, ensemble, "--output-type", "zarr").exit_code == 0
    group = zarr.open_group(tmp_path / f"{names[0]}.zarr", mode="r")
    (row,) = table(tmp_path / "predictions.csv")
    assert group["member_risks"].shape == (3,)
    assert np.std(group["member_risks"][:], ddof=1) == pytest.approx(
        float(row["risk_sd"]), rel=1e-8
    )


# Patients


def write_table(path: Path, rows: list[tuple[str, str]], header: str = "slide,patient") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def test_a_patients_hazards_are_the_mean_over_the_slides(bags, names, single, cohort, resumed):
    result = predict(bags, resumed, single, "--patients", cohort / "cohort.csv")
    assert result.exit_code == 0, result.output
    assert "6 of 6 bags done (6 finished before)" in result.output
    assert "3 of 3 patients predicted" in result.output
    owners = {row["slide"]: row["patient"] for row in table(cohort / "cohort.csv")}
    network, rows = load_bundle(single).network, table(resumed / "patients.csv")
    assert [row["patient"] for row in rows] == list(dict.fromkeys(owners.values()))
    for row in rows:
        own = [name for name in names if owners[name] == row["patient"]]
        assert (row["slides"], row["slides_predicted"], row["status"]) == ("2", "2", "ok")
        hazards = [hazards_of(network, bags / f"{name}.zarr") for name in own]
        survival = np.cumprod(1 - (hazards[0] + hazards[1]) / 2)
        risk = -survival.sum()
        for k, value in enumerate(survival, 1):
            assert float(row[f"survival_{k}"]) == pytest.approx(value, abs=1e-9)
            assert float(row[f"bin_edge_{k}"]) == BINS.edges[k]
        assert float(row["risk"]) == pytest.approx(risk, abs=1e-8)
        assert float(row["percentile"]) == pytest.approx(100 * (risk + 3) / 3, abs=1e-5)
        assert row["risk_group"] == ("high" if risk > -1.5 else "low")
        assert row["median_reached"] == ("true" if survival[-1] <= 0.5 else "false")
        assert (row["time_unit"], row["model"]) == ("months", "made-up")
        assert (row["message"], row["notice"]) == ("", "Not for clinical use.")


def test_the_mean_is_of_full_precision_also_when_resumed(bags, names, single, cohort, resumed):
    """Of slides that were predicted in an earlier run, the hazards come from its records."""
    bundle = load_bundle(single)
    whose = read_patients(cohort / "cohort.csv")
    stores = [bags / f"{name}.zarr" for name in names]
    for folder, status in ((None, "ok"), (ResultsFolder(resumed), "skipped")):
        outcomes = predict_bags(stores, LoadedModel(bundle=bundle), folder)
        assert {outcome.status for outcome in outcomes} == {status}
        for patient in predict_patients(whose, outcomes, bundle.config):
            hazards = [
                hazards_of(bundle.network, bags / f"{slide}.zarr") for slide in patient.predicted
            ]
            assert (patient.prediction.hazards == np.mean(hazards, axis=0)).all()


def test_a_patient_of_one_slide_has_what_the_slide_has(bags, names, single, resumed, tmp_path):
    whose = write_table(tmp_path / "p.csv", [(name, f"of {name}") for name in names])
    assert predict(bags, resumed, single, "--patients", whose).exit_code == 0
    columns = ["risk", "percentile", "risk_group", "median_survival", "survival_3", "message"]
    for slide, patient in zip(
        table(resumed / "predictions.csv"), table(resumed / "patients.csv"), strict=True
    ):
        assert patient["patient"] == f"of {slide['slide']}"
        assert [patient[column] for column in columns] == [slide[column] for column in columns]
        assert "risk_sd" not in patient


def test_what_is_missing_is_counted_and_named(bags, names, single, tmp_path):
    stores = tmp_path / "bags"
    for name in names[:3]:
        shutil.copytree(bags / f"{name}.zarr", stores / f"{name}.zarr")
    shutil.rmtree(stores / f"{names[1]}.zarr" / "20x")
    whose = write_table(
        tmp_path / "p.csv",
        [
            (names[0], "one"),
            (names[1], "one"),
            ("gone", "one"),
            ("lost", "two"),
            (names[1] + "x", "3"),
        ],
    )
    result = predict(stores, tmp_path / "out", single, "--patients", whose)
    assert result.exit_code == 1
    assert f"note: 1 of 3 slides are of no patient in {whose}, such as {names[2]}" in result.output
    assert (
        f"note: 3 of 5 slides of {whose} are not in this run, such as gone, lost" in result.output
    )
    assert "1 of 3 patients predicted (1 without some of their slides)" in result.output
    one, two, three = table(tmp_path / "out" / "patients.csv")
    assert (one["slides"], one["slides_predicted"], one["status"]) == ("3", "1", "ok")
    assert "2 of 3 slides not predicted" in one["message"]
    assert f"{names[1]} (failed), gone (not in this run)" in one["message"]
    assert (two["slides"], two["slides_predicted"], two["status"]) == ("1", "0", "failed")
    assert two["risk"] == ""
    assert "lost (not in this run)" in two["message"]
    assert three["status"] == "failed"


def test_a_result_of_another_model_is_not_averaged(bags, names, single, ensemble, tmp_path):
    """The earlier result stays in predictions.csv, but the patient is not predicted from it."""
    stores, out = tmp_path / "bags", tmp_path / "out"
    for name in names[:2]:
        shutil.copytree(bags / f"{name}.zarr", stores / f"{name}.zarr")
    whose = write_table(tmp_path / "p.csv", [(name, "one") for name in names[:2]])
    assert predict(stores / f"{names[0]}.zarr", out, single).exit_code == 0
    config = load_bundle(ensemble).config
    result = predict(stores, out, ensemble, "--patients", whose)
    assert result.exit_code == 1
    assert [row["model"] for row in table(out / "predictions.csv")] == ["made-up", "made-up"]
    (row,) = table(out / "patients.csv")
    assert row["slides_predicted"] == "1"
    assert f"{names[0]} (failed)" in row["message"]
    outcomes = predict_bags(
        [bags / f"{names[1]}.zarr"],
        LoadedModel(bundle=load_bundle(ensemble)),
        None,
    )
    (alone,) = predict_patients(read_patients(whose), outcomes, config)
    assert float(row["risk"]) == pytest.approx(alone.prediction.risk, abs=1e-8)


def test_a_record_without_hazards_is_made_again(bags, names, single, cohort, tmp_path):
    store = bags / f"{names[0]}.zarr"
    assert predict(store, tmp_path, single).exit_code == 0
    record = tmp_path / ".tiacf" / f"{names[0]}.json"
    content = json.loads(record.read_text())
    del content["row"]["hazards"]
    record.write_text(json.dumps(content))
    result = predict(store, tmp_path, single, "--patients", cohort / "cohort.csv")
    assert "finished before" not in result.output
    assert table(tmp_path / "patients.csv")[0]["slides_predicted"] == "1"


def test_unknown_bins_and_risks_stay_unknown_for_patients(bags, names, encoder, tmp_path):
    config = make_config(encoder).model_copy(update={"time_bins": None, "risk_reference": None})
    save_bundle(tmp_path / "model", config, fresh_network(config, 0))
    whose = write_table(tmp_path / "p.csv", [(names[0], "one")])
    store = bags / f"{names[0]}.zarr"
    result = predict(store, tmp_path / "out", tmp_path / "model", "--patients", whose)
    assert result.exit_code == 0, result.output
    (row,) = table(tmp_path / "out" / "patients.csv")
    assert row["percentile"] == row["risk_group"] == row["median_survival"] == ""
    assert "no time bins" in row["message"]
    assert float(row["survival_3"]) > 0


def test_slides_are_averaged_as_bags_are(simulated, tmp_path):
    """With slides instead of bags, the table naming one with and one without its ending."""
    whose = write_table(
        tmp_path / "p.csv", [("low.svs", "one"), ("high", "one")], "slide_id,case_id"
    )
    columns = ["--slide-column", "slide_id", "--patient-column", "case_id"]
    out = tmp_path / "out"
    result = invoke("--img-input", simulated, "--output-path", out, "--patients", whose, *columns)
    assert result.exit_code == 0, result.output
    (patient,) = table(out / "patients.csv")
    slides = table(out / "predictions.csv")
    risks = sorted(float(slide["risk"]) for slide in slides)
    assert risks[0] < float(patient["risk"]) < risks[1]
    first = 1 - np.mean([1 - float(slide["survival_1"]) for slide in slides])
    assert float(patient["survival_1"]) == pytest.approx(first, abs=1e-8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("slide,patient\n", ["a header and no rows"]),
        ("slide,case_id\n{0},one\n", ["no column 'patient'", "--patient-column", "case_id"]),
        ("slide;patient\n{0};one\n", ["not separated by commas"]),
        ("slide,patient\n{0},one\n{0},one\n", ["1 slides stand in several rows", "{0}"]),
        ("slide,patient\n{0},one\n{0},two\n", ["1 slides are of several patients", "{0}"]),
        ("slide,patient\n{0},one\n,two\n{1},\n", ["2 of 3 rows lack", "data row 2, 3"]),
        ("slide,patient\n{0},one,two\n", ["rows have more fields than the header"]),
        ("slide,patient\nelse,one\n", ["names none of the 6 slides", "{0}", "else"]),
        ("slide,patient\n\udcff,one\n", ["cannot be read as CSV", "UTF-8"]),
        (None, ["no such file", "--patients"]),
    ],
)
def test_bad_tables_get_one_line_before_a_slide_is_read(bags, names, single, tmp_path, text, words):
    path = tmp_path / "p.csv"
    if text is not None:
        path.write_bytes(text.format(*names).encode(errors="surrogateescape"))
    result = predict(bags, tmp_path / "out", single, "--patients", path)
    option = any(word.startswith("--") for word in words)
    refused = assert_usage if option else assert_failed
    refused(result, "p.csv", *(word.format(*names) for word in words))
    assert not (tmp_path / "out").exists()


def test_names_match_with_and_without_the_ending_of_slide_files():
    whose = PatientTable(
        Path("p.csv"), dict.fromkeys(["a.svs", "b", "c.d.svs", "e.svs.zarr", "found"], "one")
    )
    cases = {
        "x/a.svs": "a.svs",
        "x/a.zarr": "a.svs",
        "a.svs.zarr": "a.svs",
        "a.ndpi": None,
        "b.SVS": "b",
        "b.tif.zarr": "b",
        "c.d.zarr": "c.d.svs",
        "c": None,
        "e.svs": "e.svs.zarr",
        "e.zarr": "e.svs.zarr",
        "case 1 (DICOM)": None,
    }
    for source, slide in cases.items():
        assert whose.find([source, "found"]) == [slide, "found"]


@pytest.mark.parametrize(
    ("owners", "sources", "words"),
    [
        (["a"], ["a.svs", "a.ndpi"], ["a would be both a.svs and a.ndpi", "full file names"]),
        (["a.svs", "a.ndpi"], ["a.zarr"], ["a.zarr: may be a.svs or a.ndpi"]),
        (["a.svs"], ["x/a.svs", "y/a.svs"], ["a.svs would be both x/a.svs and y/a.svs"]),
    ],
)
def test_slides_that_cannot_be_told_apart_are_refused(owners, sources, words):
    whose = PatientTable(Path("p.csv"), dict.fromkeys(owners, "one"))
    with pytest.raises(TiacfError) as caught:
        whose.find(sources)
    for word in words:
        assert word in str(caught.value)


def test_other_peoples_table_of_patients_is_left_alone(bags, names, single, tmp_path):
    """Also where it is the table that says whose slides are whose."""
    whose = write_table(tmp_path / "patients.csv", [(names[0], "one")])
    before = whose.read_bytes()
    result = predict(bags, tmp_path, single, "--patients", whose)
    assert_failed(result, "patients.csv", "not written by tiacf")
    assert not (tmp_path / "predictions.csv").exists()
    with pytest.raises(OutputError, match=r"patients\.csv.*not written by tiacf"):
        ResultsFolder(tmp_path).write_patients([])
    assert whose.read_bytes() == before


def test_a_table_with_a_byte_order_mark_is_read(names, tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(b"\xef\xbb\xbfslide,patient\r\n a.svs , one \r\n\r\n")
    assert read_patients(path).owners == {"a.svs": "one"}
