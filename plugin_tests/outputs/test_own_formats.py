"""An output format and a score of a user's own, each in one file that registers it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_up_scores import block, make_bag, score

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.cli import main
from tiacrossfusion.errors import UsageError
from tiacrossfusion.explain.nesting import Nesting
from tiacrossfusion.explain.score import Score
from tiacrossfusion.explain.scores import SCORES
from tiacrossfusion.inference.slide import SlideResult, predict_stored
from tiacrossfusion.outputs.annotation_store import open_annotation_store
from tiacrossfusion.outputs.files import all_suffixes, output_suffixes, write_outputs
from tiacrossfusion.outputs.report.making import make_fragment
from tiacrossfusion.outputs.writers import WRITERS, Writer


@pytest.fixture(scope="module")
def bag(demo_bundle) -> FeatureBag:
    """Features at random of 8 x 8 patches at 20x, as the demonstration model takes them."""
    rng = np.random.default_rng(0)
    placed, config = make_bag(block(8, 8)), demo_bundle.config
    scales = {
        name: ScaleFeatures(
            rng.random((len(scale), config.encoder.width)).astype(np.float16),
            scale.bounds,
            scale.grid,
        )
        for name, scale in placed.scales.items()
    }
    made = {"sampling": config.sampling, "encoder": config.encoder}
    return FeatureBag(scales, placed.provenance.model_copy(update=made))


@pytest.fixture
def own_format(monkeypatch) -> str:
    monkeypatch.setattr(WRITERS, "_registered", {})

    @WRITERS.register("tile-table")
    class TileTable(Writer):
        suffixes = ("_tiles.csv",)

        def write(self, folder: Path, stem: str, result: SlideResult) -> None:
            columns = {each.name: each.values for each in result.scores["20x"]}
            np.savetxt(
                folder / f"{stem}_tiles.csv",
                np.stack(list(columns.values()), axis=1),
                delimiter=",",
                header=",".join([*columns, result.config.name]),
            )

    return "tile-table"


@pytest.fixture
def own_score(monkeypatch) -> str:
    monkeypatch.setattr(SCORES, "_registered", {})

    @SCORES.register("darkness")
    def darkness(bag, bundle, prediction) -> list[Score]:
        values = 1 - bag.scales["20x"].features[:, 0].astype(float)
        return Nesting(bag).spread(Score('Darkness in "%"', "20x", values))

    return 'Darkness in "%"'


def test_an_own_format_is_written_beside_the_pictures(bag, demo_bundle, own_format, tmp_path):
    result = predict_stored(bag, demo_bundle)
    write_outputs(tmp_path, "slide", own_format, result)
    suffixes = output_suffixes(own_format)
    assert suffixes == ("_tiles.csv", "_survival.png", "_attention.png")
    assert {path.name for path in tmp_path.iterdir()} == {f"slide{suffix}" for suffix in suffixes}
    assert set(suffixes) <= set(all_suffixes())
    table = np.loadtxt(tmp_path / "slide_tiles.csv", delimiter=",")
    total = score(result.scores["20x"], "Attribution total")
    np.testing.assert_allclose(table[:, -1], total.values)


def test_without_places_a_format_of_maps_is_left_out(own_format):
    assert output_suffixes(own_format, maps=False) == ("_survival.png",)
    assert output_suffixes("zarr", maps=False) == (".zarr", "_survival.png")


def test_an_unknown_format_is_refused_with_the_nearest_name(own_format):
    with pytest.raises(UsageError, match=r'tile-tabel: .*did you mean "tile-table"'):
        output_suffixes("tile-tabel")


def test_an_own_score_is_in_every_output(bag, demo_bundle, own_score, tmp_path):
    result = predict_stored(bag, demo_bundle)
    for name in ("qupath", "annotationstore"):
        write_outputs(tmp_path, "slide", name, result)
    own = score(result.scores["20x"], own_score)
    tiles = [
        feature["properties"]["measurements"]
        for feature in json.loads((tmp_path / "slide.geojson").read_text())["features"]
        if feature["properties"]["objectType"] == "tile"
    ]
    assert [tile[own_score] for tile in tiles] == pytest.approx(own.values, rel=1e-5)
    ranks = [tile[f"{own_score} percentile"] for tile in tiles]
    assert ranks == pytest.approx(own.percentiles, rel=1e-5)
    (coarse, *_) = json.loads((tmp_path / "slide_5x.geojson").read_text())["features"]
    assert f"{own_score} mean" in coarse["properties"]["measurements"]
    store = open_annotation_store(tmp_path / "slide.db")
    assert store["20x_0_0"].properties[f"{own_score} percentile"] == round(ranks[0] / 100, 6)
    store.close()
    layers = [f"{layer.family} {layer.name}" for layer in make_fragment(result).map.layers]
    assert own_score in layers
    spread = next(iter(result.hotspots)).means
    assert own_score in spread


def test_the_picture_has_a_map_of_an_own_score(bag, demo_bundle, own_score, tmp_path, monkeypatch):
    write_outputs(tmp_path, "own", "qupath", predict_stored(bag, demo_bundle))
    monkeypatch.setattr(SCORES, "_registered", {})
    write_outputs(tmp_path, "none", "qupath", predict_stored(bag, demo_bundle))
    own, none = (tmp_path / f"{name}_attention.png" for name in ("own", "none"))
    assert own.read_bytes() != none.read_bytes()


@pytest.mark.parametrize("fault", ["length", "name"])
def test_a_faulty_score_is_refused_by_its_name(bag, demo_bundle, monkeypatch, fault):
    monkeypatch.setattr(SCORES, "_registered", {})

    @SCORES.register("faulty")
    def faulty(bag, bundle, prediction) -> list[Score]:
        name = "Attention 20x" if fault == "name" else "Faulty"
        return [Score(name, "20x", np.zeros(len(bag.scales["20x"]) - (fault == "length")))]

    told = {"length": r"Faulty has the shape \(63,\), not \(64,\)", "name": "named Attention 20x"}
    with pytest.raises(ValueError, match=told[fault]):
        predict_stored(bag, demo_bundle)


PLUGIN = """
from tiacrossfusion.explain.nesting import Nesting
from tiacrossfusion.explain.score import Score
from tiacrossfusion.explain.scores import SCORES
from tiacrossfusion.outputs.writers import WRITERS, Writer


@SCORES.register("darkness")
def darkness(bag, bundle, prediction):
    return Nesting(bag).spread(Score("Darkness", "20x", 1 - bag.scales["20x"].features[:, 0]))


@WRITERS.register("counts")
class Counts(Writer):
    suffixes = ("_counts.txt",)

    def write(self, folder, stem, result):
        names = [score.name for score in result.scores["20x"]]
        (folder / f"{stem}_counts.txt").write_text(f"{result.bag.counts()} {names}")
"""


def test_the_command_takes_an_own_format_and_an_own_score(bag, tmp_path, monkeypatch):
    monkeypatch.setattr(SCORES, "_registered", {})
    monkeypatch.setattr(WRITERS, "_registered", {})
    (tmp_path / "darkness_plugin.py").write_text(PLUGIN)
    bag.save(tmp_path / "a.zarr")
    out = tmp_path / "out"
    options = ["--bags", str(tmp_path / "a.zarr"), "--output-path", str(out)]
    plugin = ["--plugin", str(tmp_path / "darkness_plugin.py"), "--output-type", "COUNTS"]
    for _ in range(2):  # the second time it is skipped
        done = CliRunner().invoke(main, ["predict", *options, *plugin])
        assert done.exit_code == 0, done.output
    assert "(1 finished before)" in done.output
    text = (out / "a_counts.txt").read_text()
    assert "'20x': 64" in text
    assert "'Darkness'" in text
    assert not list(out.glob("*.geojson"))
    assert ">Darkness<" in (out / "report.html").read_text()
