"""Explain: scores of tiles, hotspots, GeoJSON for QuPath, the toolbox's store and the figures."""

from __future__ import annotations

import gzip
import json
import math
import runpy
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_scores import score, scores_of
from PIL import Image

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.attention_scores import STAGE_GRID
from tiacrossfusion.explain.extent import why_no_maps
from tiacrossfusion.explain.hotspots import find_hotspots
from tiacrossfusion.explain.score import Score, percentile_rank
from tiacrossfusion.outputs.annotation_store import open_annotation_store, write_annotation_store
from tiacrossfusion.outputs.colours import percentile_colours
from tiacrossfusion.outputs.curve import Curve, GroupCurve
from tiacrossfusion.outputs.geojson_files import write_geojson
from tiacrossfusion.outputs.overlay import _paint, attention_figure
from tiacrossfusion.outputs.survival_plot import survival_figure
from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

CHECKER = Path(__file__).resolve().parents[3] / "shared" / "tools" / "check_geojson.py"
ORIGIN = {
    "model": "made-up model",
    "note": "demonstration, not for clinical use",
}
SIDE = 506.3  # level-0 pixels of a 20x cell: the lattice lines are rounded, as on a real slide


def make_bag(
    cells: list[tuple[int, int]],
    *,
    dimensions: tuple[int, int] | None = None,
    offset: tuple[int, int] = (0, 0),
) -> FeatureBag:
    """Bag of the given kept 20x cells (column, row) and their ancestors."""
    fine = np.array(cells, np.int32).reshape(-1, 2)
    lines = np.rint(np.arange(fine.max(initial=0) + 6) * SIDE).astype(np.int64)
    scales = {}
    for scale in SCALES:
        grid = np.unique((fine // CELLS_20X[scale])[:, ::-1], axis=0)[:, ::-1]
        start = grid * CELLS_20X[scale]
        bounds = np.concatenate([lines[start], lines[start + CELLS_20X[scale]]], axis=1)
        features = np.zeros((len(grid), 1), np.float16)
        scales[scale] = ScaleFeatures(features, bounds, grid.astype(np.int32))
    size = dimensions or tuple(int(v) for v in scales["5x"].bounds[:, 2:].max(axis=0))
    provenance = Provenance(
        slide="a slide.svs",
        slide_size=1,
        slide_mtime_ns=123456789,
        dimensions=size,
        mpp=(0.25, 0.25),
        power=40,
        offset=offset,
        mask="otsu",
        sampling=SamplingSpec(),
        encoder=EncoderSpec(name="made-up", width=1, mean=(0, 0, 0), std=(1, 1, 1), input_size=224),
        versions={"tiatoolbox": "2.1.3"},
    )
    return FeatureBag(scales, provenance)


def block(width: int, height: int) -> list[tuple[int, int]]:
    return [(column, row) for row in range(height) for column in range(width)]


def make_attention(bag: FeatureBag, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = bag.counts() | {"fused": len(bag.scales["10x"])}
    return {stage: rng.dirichlet(np.ones(n)).astype(np.float32) for stage, n in lengths.items()}


def hot_attention(bag: FeatureBag, hot: dict[tuple[int, int], float]) -> dict[str, np.ndarray]:
    """Fused attention of 1 at the 10x cells, but as given at the hot ones (column, row)."""
    attention = make_attention(bag)
    cells = map(tuple, bag.scales["10x"].grid.tolist())
    attention["fused"] = np.array([hot.get(cell, 1.0) for cell in cells])
    return attention


def all_scores(bag: FeatureBag, seed: int = 0) -> dict[str, list[Score]]:
    """Made-up attention, rolled attention and attribution."""
    rng = np.random.default_rng(seed)
    rolled = {scale: rng.dirichlet(np.ones(n)) / 3 for scale, n in bag.counts().items()}
    attribution = {scale: rng.normal(0, 0.01, n) for scale, n in bag.counts().items()}
    attention = make_attention(bag, seed)
    return scores_of(bag, attention, rolled=rolled, attribution=attribution)


def imported(bag: FeatureBag, *, placed: bool, nested: bool = True) -> FeatureBag:
    """The bag as of another program, which tells no size, no resolution and perhaps no place."""
    unknown = {"dimensions": None, "mpp": None, "imported": "another program, features.h5"}
    scales = {
        name: ScaleFeatures(
            scale.features, scale.bounds if placed else None, scale.grid if nested else None
        )
        for name, scale in bag.scales.items()
    }
    return FeatureBag(scales, bag.provenance.model_copy(update=unknown))


def write_all(folder: Path, bag: FeatureBag, attention: dict[str, np.ndarray]) -> list[Path]:
    scores = scores_of(bag, attention)
    hotspots = find_hotspots(bag, scores["20x"])
    return write_geojson(folder, "slide", bag, scores, hotspots, **ORIGIN)


def read(path: Path) -> dict:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not strict JSON")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def check_rules(path: Path, bag: FeatureBag) -> list[dict]:
    """Check a file against the rules of QuPath's reader and give its features."""
    document = read(path)
    assert "null" not in path.read_text("utf-8")
    assert document["type"] == "FeatureCollection"
    assert document["tiacrossfusion"]["note"] == ORIGIN["note"]
    shown = shapely.box(0, 0, *np.subtract(bag.provenance.dimensions, bag.provenance.offset))
    for feature in document["features"]:
        assert set(feature) == {"type", "id", "geometry", "properties"}
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        properties = feature["properties"]
        assert properties["objectType"] in {"tile", "annotation"}
        assert "type" not in properties
        colours = [properties[key]["color"] for key in ("classification",) if key in properties]
        for colour in [*colours, *([properties["color"]] if "color" in properties else [])]:
            assert len(colour) == 3
            assert all(type(value) is int and 0 <= value <= 255 for value in colour)
        for value in properties["measurements"].values():
            assert math.isfinite(value)
            assert value == float(f"{value:.6g}")
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.geom_type == "Polygon"
        assert geometry.is_valid
        assert geometry.area > 0
        assert shown.covers(geometry)
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            assert all(type(value) is int for point in ring for value in point)
    ids = [feature["id"] for feature in document["features"]]
    assert len(set(ids)) == len(ids)
    return document["features"]


# Scores


def test_percentile_rank_shares_ranks_and_leaves_out_what_is_not_finite():
    assert percentile_rank(np.array([3.0, 1.0, 2.0])).tolist() == [100, 0, 50]
    assert percentile_rank(np.array([1.0, 1.0, 5.0])).tolist() == [25, 25, 100]
    assert percentile_rank(np.array([0.2])).tolist() == [50]
    assert percentile_rank(np.full(7, 0.1)).tolist() == [50] * 7
    ranks = percentile_rank(np.array([np.nan, 2.0, np.inf, 1.0]))
    np.testing.assert_array_equal(ranks, [np.nan, 100, np.nan, 0])
    assert percentile_rank(np.zeros(0)).shape == (0,)


def test_each_tile_has_the_scores_of_the_tiles_around_it_and_the_mean_of_those_inside():
    # Two 5x cells: three 20x cells in two 10x cells in the left one, a single one in the right.
    bag = make_bag([(0, 0), (1, 1), (2, 0), (5, 3)])
    assert bag.counts() == {"5x": 2, "10x": 3, "20x": 4}
    attention = {
        "5x": np.array([0.3, 0.7]),
        "10x": np.array([0.1, 0.2, 0.7]),
        "fused": np.array([0.5, np.nan, 0.4]),
        # Row by row: (0, 0), (2, 0), (1, 1), (5, 3).
        "20x": np.array([0.1, 0.2, 0.3, 0.4]),
    }
    scores = scores_of(bag, attention)

    def values(scale: str, name: str) -> np.ndarray:
        return score(scores[scale], f"Attention {name}").values

    def percentiles(scale: str, name: str) -> np.ndarray:
        return score(scores[scale], f"Attention {name}").percentiles

    def means(scale: str) -> set[str]:
        return {each.name for each in scores[scale] if each.name.endswith(" mean")}

    assert not means("20x")
    np.testing.assert_allclose(values("20x", "20x"), [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(values("20x", "10x"), [0.1, 0.2, 0.1, 0.7])
    np.testing.assert_allclose(values("20x", "fused"), [0.5, np.nan, 0.5, 0.4])
    np.testing.assert_allclose(values("20x", "5x"), [0.3, 0.3, 0.3, 0.7])
    # The parents' percentiles are ranks on the parents' grid, not among the children.
    np.testing.assert_allclose(percentiles("20x", "10x"), [0, 50, 0, 100])
    np.testing.assert_allclose(percentiles("20x", "fused"), [100, np.nan, 100, 0])

    assert means("10x") == {"Attention 20x mean"}
    np.testing.assert_allclose(values("10x", "20x mean"), [0.2, 0.2, 0.4])
    np.testing.assert_allclose(percentiles("10x", "20x mean"), [25, 25, 100])
    np.testing.assert_allclose(values("10x", "5x"), [0.3, 0.3, 0.7])

    assert means("5x") == {f"Attention {stage} mean" for stage in ("10x", "20x", "fused")}
    np.testing.assert_allclose(values("5x", "20x mean"), [0.2, 0.4])
    np.testing.assert_allclose(values("5x", "10x mean"), [0.15, 0.7])
    np.testing.assert_allclose(values("5x", "fused mean"), [0.5, 0.4])
    np.testing.assert_allclose(values("5x", "5x"), [0.3, 0.7])


def test_a_patch_without_its_ancestor_is_refused_in_one_line():
    bag = make_bag(block(8, 8))
    lost = bag.scales["10x"]
    scales = bag.scales | {"10x": ScaleFeatures(lost.features[1:], lost.bounds[1:], lost.grid[1:])}
    orphaned = FeatureBag(scales, bag.provenance)
    with pytest.raises(
        TiacfError, match=r"the 20x patch at column 0, row 0 lies in no 10x"
    ) as error:
        scores_of(orphaned, make_attention(orphaned))
    assert "\n" not in str(error.value)


def test_rolled_attention_and_attribution_are_shared_by_place_and_keep_their_sums():
    # Two 5x cells: three 20x cells in two 10x cells in the left one, a single one in the right.
    bag = make_bag([(0, 0), (1, 1), (2, 0), (5, 3)])
    given = {
        "5x": np.array([0.3, -0.2]),
        "10x": np.array([0.4, 0.1, 0.6]),
        "20x": np.array([0.1, 0.2, -0.1, 0.05]),  # (0, 0), (2, 0), (1, 1), (5, 3)
    }
    scores = scores_of(bag, make_attention(bag), rolled=given, attribution=given)
    shared = [0.1 + 0.2 + 0.1, 0.2 + 0.1 + 0.1, -0.1 + 0.2 + 0.1, 0.05 + 0.6 - 0.2]
    fine = scores["20x"]
    rolled, total = score(fine, "Attention rolled"), score(fine, "Attribution total")
    np.testing.assert_allclose(rolled.values, shared)
    np.testing.assert_allclose(total.values, shared)
    assert total.values.sum() == pytest.approx(sum(v.sum() for v in given.values()))
    np.testing.assert_allclose(score(fine, "Attribution 10x").values, [0.4, 0.1, 0.4, 0.6])
    np.testing.assert_allclose(rolled.percentiles, percentile_rank(np.array(shared)))
    assert total.percentiles is None
    assert (total.signed, total.unit) == (True, "risk")
    inside = score(scores["10x"], "Attribution 20x mean")
    np.testing.assert_allclose(inside.values, [0.0, 0.2, 0.05], atol=1e-15)
    np.testing.assert_allclose(score(scores["5x"], "Attribution 5x").values, given["5x"])
    # A network of one scale has no more than that.
    only = scores_of(bag, {"20x": given["20x"]}, attribution={"20x": given["20x"]})
    names = [each.name for each in only["20x"] if each.signed]
    assert names == ["Attribution 20x", "Attribution total"]
    np.testing.assert_array_equal(score(only["20x"], "Attribution total").values, given["20x"])


@pytest.mark.parametrize(("placed", "nested"), [(False, True), (True, False)])
def test_maps_of_a_bag_without_places_are_refused_in_one_line(placed: bool, nested: bool):
    bag = imported(make_bag(block(4, 4)), placed=placed, nested=nested)
    assert why_no_maps(bag)
    assert not why_no_maps(make_bag(block(4, 4)))
    with pytest.raises(TiacfError, match=r"so there can be no maps; .* tiacf extract") as error:
        scores_of(bag, make_attention(bag))
    assert "\n" not in str(error.value)


def test_attention_of_another_length_is_refused():
    bag = make_bag(block(4, 4))
    attention = make_attention(bag) | {"fused": np.ones(3)}
    with pytest.raises(ValueError, match=r"attention fused has the shape \(3,\), not \(4,\)"):
        scores_of(bag, attention)


# GeoJSON


@pytest.fixture(scope="module")
def bag() -> FeatureBag:
    """Bag of a slide whose right and lower tiles hang over its edge, with a hole in the tissue."""
    cells = [cell for cell in block(20, 13) if cell not in {(7, 6), (8, 6), (18, 2)}]
    return make_bag(cells, dimensions=(round(19.4 * SIDE), round(12.2 * SIDE)))


def test_the_three_files_hold_all_tiles_and_pass_the_checker(bag: FeatureBag, tmp_path: Path):
    paths = write_all(tmp_path, bag, make_attention(bag))
    assert [path.name for path in paths] == [
        "slide.geojson",
        "slide_10x.geojson",
        "slide_5x.geojson",
    ]
    ids: list[str] = []
    for path, scale in zip(paths, ("20x", "10x", "5x"), strict=True):
        features = check_rules(path, bag)
        tiles = [f for f in features if f["properties"]["objectType"] == "tile"]
        assert len(tiles) == len(bag.scales[scale])
        assert len(features) > len(tiles) if scale == "20x" else len(features) == len(tiles)
        ids += [feature["id"] for feature in features]
    assert len(set(ids)) == len(ids)


def test_the_shared_checker_accepts_the_files(
    bag: FeatureBag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    if not CHECKER.is_file():
        pytest.skip(f"no {CHECKER}")
    width, height = bag.provenance.dimensions
    for path in write_all(tmp_path, bag, make_attention(bag)):
        arguments = [str(CHECKER), str(path), "--width", str(width), "--height", str(height)]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(CHECKER), run_name="__main__")
        assert capsys.readouterr().out.startswith("ok: ")


def test_a_tile_carries_its_scores_under_the_names_that_qupath_lists(tmp_path: Path):
    bag = make_bag(block(4, 4))
    attention = make_attention(bag)
    scores = scores_of(bag, attention)
    main, middle, coarse = (read(path)["features"] for path in write_all(tmp_path, bag, attention))
    tile = [feature for feature in main if feature["properties"]["objectType"] == "tile"][6]
    expected = {}
    for stage in list(STAGE_GRID)[:-1]:  # nothing was rolled
        of_stage = score(scores["20x"], f"Attention {stage}")
        expected[f"Attention {stage}"] = float(f"{of_stage.values[6]:.6g}")
        percentile = of_stage.percentiles[6]
        expected[f"Attention {stage} percentile"] = float(f"{percentile:.6g}")
    assert tile["properties"]["measurements"] == expected
    assert list(middle[0]["properties"]["measurements"])[4:6] == [
        "Attention 20x mean",
        "Attention 20x mean percentile",
    ]
    assert "Attention fused mean" in coarse[0]["properties"]["measurements"]


def test_tiles_and_hotspots_carry_all_scores_and_what_is_unknown_is_left_out(tmp_path: Path):
    bag = make_bag(block(12, 12))
    rng = np.random.default_rng(0)
    attribution = {scale: rng.normal(0, 0.01, n) for scale, n in bag.counts().items()}
    attribution["20x"][3] = np.nan
    rolled = {scale: np.full(n, np.nan) for scale, n in bag.counts().items()}
    attention = hot_attention(bag, {(1, 1): 2.0, (2, 1): 2.0})
    scores = scores_of(bag, attention, rolled=rolled, attribution=attribution)
    hotspots = find_hotspots(bag, scores["20x"])
    paths = write_geojson(tmp_path, "slide", bag, scores, hotspots, **ORIGIN)
    (spot, *tiles) = (feature["properties"] for feature in check_rules(paths[0], bag))
    signed = ["Attribution 5x", "Attribution 10x", "Attribution 20x", "Attribution total"]
    for number, tile in enumerate(tiles):
        has = {name for name in tile["measurements"] if name.startswith("Attribution")}
        assert has == (set(signed[:2]) if number == 3 else set(signed))
        assert not any("rolled" in name for name in tile["measurements"])
    assert tiles[7]["measurements"]["Attribution 20x"] == float(f"{attribution['20x'][7]:.6g}")
    inside = score(scores["20x"], "Attention fused").percentiles >= 95
    mean = score(scores["20x"], "Attribution total").values[inside].mean()
    assert spot["measurements"]["Attribution total mean"] == pytest.approx(mean, rel=1e-5)
    assert "Attention rolled mean" not in spot["measurements"]
    assert {f"Attention {stage} mean" for stage in list(STAGE_GRID)[:-1]} < set(
        spot["measurements"]
    )
    for path in paths[1:]:
        check_rules(path, bag)


def test_compressed_files_hold_the_same_and_are_the_same_every_time(
    bag: FeatureBag, tmp_path: Path
):
    scores = all_scores(bag)
    written = {}
    for name, compress in (("plain", False), ("one", True), ("two", True)):
        (tmp_path / name).mkdir()
        written[name] = write_geojson(
            tmp_path / name, "slide", bag, scores, [], **ORIGIN, compress=compress
        )
    assert written["one"][0].name == "slide.geojson.gz"
    for plain, one, two in zip(*written.values(), strict=True):
        assert gzip.decompress(one.read_bytes()) == plain.read_bytes()
        assert one.read_bytes() == two.read_bytes()
        assert len(one.read_bytes()) < len(plain.read_bytes()) / 3


def test_a_slide_of_unknown_size_and_resolution_has_maps_without_microns(tmp_path: Path):
    bag = imported(make_bag(block(24, 18)), placed=True)
    scores = all_scores(bag)
    hotspots = find_hotspots(bag, scores["20x"])
    assert hotspots
    assert all(hotspot.area is None for hotspot in hotspots)
    path = write_geojson(tmp_path, "slide", bag, scores, hotspots, **ORIGIN)[0]
    assert "null" not in path.read_text("utf-8")
    document = read(path)
    assert "mpp" not in document["tiacrossfusion"]
    assert document["tiacrossfusion"]["features"]["imported"] == "another program, features.h5"
    assert "Area um^2" not in document["features"][0]["properties"]["measurements"]
    write_annotation_store(tmp_path / "slide.db", bag, scores["20x"], hotspots, **ORIGIN)
    picture = tmp_path / "slide.png"
    attention_figure(None, bag, scores, hotspots, picture, title="a", **ORIGIN)
    check_picture(picture)


def test_colours_run_from_dark_to_yellow_with_the_percentile_of_the_file(tmp_path: Path):
    bag = make_bag(block(8, 8))
    attention = make_attention(bag)
    for path, stage in zip(
        write_all(tmp_path, bag, attention), ("fused", "10x", "5x"), strict=True
    ):
        tiles = [f["properties"] for f in read(path)["features"]]
        tiles = [tile for tile in tiles if tile["objectType"] == "tile"]
        percentile = [tile["measurements"][f"Attention {stage} percentile"] for tile in tiles]
        assert tiles[int(np.argmin(percentile))]["color"] == [68, 1, 84]
        assert tiles[int(np.argmax(percentile))]["color"] == [253, 231, 36]


def test_coordinates_count_from_where_qupath_does(tmp_path: Path):
    cells = block(8, 8)
    plain, moved = make_bag(cells), make_bag(cells, offset=(600, 100))
    attention = hot_attention(plain, {(1, 1): 2.0, (2, 1): 2.0})
    for folder in ("plain", "moved"):
        (tmp_path / folder).mkdir()
    before, after = (
        {feature["id"]: feature for feature in check_rules(paths[0], bag)}
        for bag, paths in (
            (plain, write_all(tmp_path / "plain", plain, attention)),
            (moved, write_all(tmp_path / "moved", moved, attention)),
        )
    )
    # The first column of tiles ends at 506, left of what QuPath shows, and is left out.
    assert len(before) - len(after) == 8
    for key, feature in after.items():
        shape = shapely.geometry.shape(feature["geometry"])
        whole = shapely.geometry.shape(before[key]["geometry"])
        visible = whole.intersection(shapely.box(600, 100, 1e6, 1e6))
        assert shape.equals(shapely.affinity.translate(visible, -600, -100))
    assert any(feature["properties"].get("name") == "Hotspot 1" for feature in after.values())


def test_two_runs_write_the_same_bytes(bag: FeatureBag, tmp_path: Path):
    attention = make_attention(bag)
    (tmp_path / "again").mkdir()
    first = write_all(tmp_path, bag, attention)
    second = write_all(tmp_path / "again", bag, attention)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    # A copied slide has another time of change; nothing may depend on it.
    assert b"123456789" not in first[0].read_bytes()


def test_the_collection_says_where_it_comes_from(bag: FeatureBag, tmp_path: Path):
    record = read(write_all(tmp_path, bag, make_attention(bag))[1])["tiacrossfusion"]
    assert record["slide"] == "a slide.svs"
    assert record["model"] == ORIGIN["model"]
    assert record["features"]["versions"] == {"tiatoolbox": "2.1.3"}
    assert record["colour"] == "percentile of 10x"


scores_of_any_kind = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 0.25, math.nan, math.inf, -math.inf, 1e-30]),
)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_attention_gives_valid_files(data: st.DataObject, tmp_path: Path):
    cells = data.draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)
    )
    bag = make_bag(sorted(set(cells), key=lambda cell: cell[::-1]))
    attention = {}
    for stage, n in (bag.counts() | {"fused": len(bag.scales["10x"])}).items():
        values = st.lists(scores_of_any_kind, min_size=n, max_size=n)
        constants = scores_of_any_kind.map(lambda value, n=n: [value] * n)
        attention[stage] = np.array(data.draw(st.one_of(values, constants)), np.float32)
    for path in write_all(tmp_path, bag, attention):
        features = check_rules(path, bag)
        assert features
    known = np.isfinite(attention["20x"])
    tiles = [f for f in read(tmp_path / "slide.geojson")["features"] if "color" in f["properties"]]
    assert ["Attention 20x" in t["properties"]["measurements"] for t in tiles] == known.tolist()


# Hotspots


def test_hotspots_are_connected_regions_ranked_by_their_mean():
    bag = make_bag(block(40, 40))  # 400 cells at 10x: 20 of them are hot
    hot = {(column, 0): 5.0 for column in range(10)}  # 10 cells in a row at the upper border
    hot |= {(column, 5): 9.0 for column in range(5)}
    hot |= {(19, row): 7.0 for row in range(15, 18)}
    hot |= {(10, 10): 99.0}  # a single cell is no region while there are others
    hotspots = find_hotspots(bag, scores_of(bag, hot_attention(bag, hot))["20x"])
    assert [hotspot.attention for hotspot in hotspots] == [9, 7, 5]
    assert [hotspot.tiles for hotspot in hotspots] == [20, 12, 40]
    assert [hotspot.name for hotspot in hotspots] == ["Hotspot 1", "Hotspot 2", "Hotspot 3"]
    line = round(20 * SIDE), round(2 * SIDE)
    assert hotspots[2].polygon.equals(shapely.box(0, 0, *line))
    assert len(hotspots[2].polygon.exterior.coords) == 5  # no corners of tiles along the sides
    assert hotspots[2].area == pytest.approx(line[0] * line[1] * 0.25**2)


def test_a_single_cell_is_a_hotspot_where_there_is_nothing_else():
    bag = make_bag(block(20, 20))
    scores = scores_of(bag, hot_attention(bag, {(3, 3): 4.0, (7, 7): 5.0}))
    assert [(spot.attention, spot.tiles) for spot in find_hotspots(bag, scores["20x"])] == [
        (5, 4),
        (4, 4),
    ]


def test_a_hotspot_may_have_a_hole_and_touch_another_at_a_corner(tmp_path: Path):
    bag = make_bag(block(40, 40))
    ring = {(4 + i, 4 + j): 5.0 for i in range(3) for j in range(3) if (i, j) != (1, 1)}
    corner = {(7, 7): 3.0, (8, 7): 3.0}
    attention = hot_attention(bag, ring | corner)
    hotspots = find_hotspots(bag, scores_of(bag, attention)["20x"])
    assert [len(hotspot.polygon.interiors) for hotspot in hotspots] == [1, 0]
    features = check_rules(write_all(tmp_path, bag, attention)[0], bag)
    assert [feature["properties"] for feature in features[:2]] == [
        {
            "objectType": "annotation",
            "name": hotspot.name,
            "classification": {"name": "CrossFusion attention hotspot", "color": [220, 20, 60]},
            "isLocked": True,
            "measurements": {
                "Rank": hotspot.rank,
                "Tiles": hotspot.tiles,
                "Area um^2": float(f"{hotspot.area:.6g}"),
                **{f"{name} mean": float(f"{v:.6g}") for name, v in hotspot.means.items()},
            },
            "metadata": {"Model": ORIGIN["model"], "Notice": ORIGIN["note"]},
        }
        for hotspot in hotspots
    ]
    assert features[2]["properties"]["objectType"] == "tile"


def test_there_are_few_hotspots_and_none_in_constant_attention():
    bag = make_bag(block(80, 80))
    hot = {(4 * i, 4 * j): 1.0 + i + 0.01 * j for i in range(8) for j in range(8)}
    hotspots = find_hotspots(bag, scores_of(bag, hot_attention(bag, hot))["20x"])
    assert [hotspot.rank for hotspot in hotspots] == [1, 2, 3, 4, 5]
    assert find_hotspots(bag, scores_of(bag, hot_attention(bag, {}))["20x"]) == []


# The toolbox's annotation store


def test_the_store_is_read_back_with_shares_and_level_0_coordinates(tmp_path: Path):
    bag = make_bag(block(12, 12), offset=(100, 50))
    attention = hot_attention(bag, {(1, 1): 2.0, (2, 1): 2.0})
    attention["20x"][0] = np.nan
    attribution = {"20x": np.linspace(-1, 0.25, 144)}
    scores = scores_of(bag, attention, attribution=attribution)["20x"]
    hotspots = find_hotspots(bag, scores)
    path = tmp_path / "slide.db"
    write_annotation_store(path, bag, scores, hotspots, **ORIGIN)

    store = open_annotation_store(path)
    assert len(store) == 144 + len(hotspots)
    assert store.metadata["tiacrossfusion"]["model"] == ORIGIN["model"]
    hot = store.query(
        where='(props["type"]=="Tile") & (props["Attention fused percentile"] > 0.95)'
    )
    assert len(hot) == 8
    first = store["20x_0_0"]
    assert first.geometry.bounds == (100, 50, 506, 506)
    assert "Attention 20x percentile" not in first.properties
    share = round(score(scores, "Attention 5x").percentiles[0] / 100, 6)
    assert first.properties["Attention 5x percentile"] == share
    (spot,) = store.query(where='props["type"]=="Hotspot"').values()
    assert spot.properties["name"] == "Hotspot 1"
    assert spot.properties["Attention fused mean"] == 2
    assert first.properties["Attribution 20x"] == 0
    assert 0.5 < store["20x_11_11"].properties["Attribution 20x"] < 0.7  # raises the risk a little
    assert spot.geometry.equals(hotspots[0].polygon)
    for annotation in store.values():
        kinds = ("Attention ", "Attribution ")
        shares = [
            value
            for name, value in annotation.properties.items()
            if name.startswith(kinds) and not name.endswith(" mean")
        ]
        assert all(0 <= share <= 1 for share in shares)
    store.close()


# Figures


def check_picture(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert "Software" not in image.info
        assert min(image.size) > 500
        assert np.asarray(image.convert("RGB")).std() > 10
    assert path.stat().st_size < 1.5e6


@pytest.mark.parametrize(
    ("columns", "rows"), [(1, 1), (24, 18), (80, 3), (3, 80)], ids=["tile", "usual", "wide", "tall"]
)
def test_the_attention_figure_takes_slides_of_any_shape(columns: int, rows: int, tmp_path: Path):
    bag = make_bag(block(columns, rows), dimensions=(round(columns * SIDE), round(rows * SIDE)))
    attention = make_attention(bag)
    attention["10x"][0] = np.nan
    thumbnail = np.random.default_rng(0).integers(120, 240, (9 * rows, 9 * columns, 3), np.uint8)
    texts = {"title": "a $\\slide$", "model": "made-up model", "note": "not for clinical use"}
    for name in ("one.png", "two.png"):
        scores = scores_of(bag, attention, attribution={"20x": attention["20x"] - 0.01})
        hotspots = find_hotspots(bag, scores["20x"])
        attention_figure(thumbnail, bag, scores, hotspots, tmp_path / name, **texts)
    check_picture(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_tiles_are_painted_where_they_lie():
    bag = make_bag([(1, 0), (5, 3)], dimensions=(round(8 * SIDE), round(4 * SIDE)))
    white = np.full((40, 80, 3), 250, np.uint8)
    painted = _paint(white, bag, "20x", percentile_colours(np.array([0.0, 100.0])))
    changed = (painted != white).any(axis=2)
    expected = np.zeros((40, 80), bool)
    expected[0:10, 10:20] = expected[30:40, 50:60] = True
    np.testing.assert_array_equal(changed, expected)
    assert painted[5, 15].sum() < painted[35, 55].sum()  # dark is low, yellow is high


def test_the_survival_figure_with_and_without_bin_edges(tmp_path: Path):
    group = GroupCurve(name="low", patients=12, survival=(0.97, 0.9, 0.8, 0.6))
    falls = Curve(
        survival=(0.9, 0.7, 0.42, 0.2),
        edges=(0.0, 11.0, 20.0, 40.0, 150.0),
        unit="months",
        median=34.3,
        groups=(group,),
    )
    timeless = Curve(survival=falls.survival, edges=None, unit=None, median=None)
    stays = falls.model_copy(update={"survival": (0.9,) * 4, "median": None, "groups": ()})
    texts = {"title": "a $\\slide$", "note": "not for clinical use"}
    known, unknown, alive = (tmp_path / f"{name}.png" for name in ("known", "unknown", "alive"))
    survival_figure(falls, known, risk_group="high", **texts)
    survival_figure(timeless, unknown, risk_group=None, **texts)
    survival_figure(stays, alive, risk_group="low", **texts)
    for path in (known, unknown, alive):
        check_picture(path)
    pictures = {path.read_bytes() for path in (known, unknown, alive)}
    assert len(pictures) == 3


def test_importing_the_room_is_light():
    code = (
        "import sys, tiacrossfusion.explain.scores, tiacrossfusion.explain.hotspots, "
        "tiacrossfusion.explain.attention_scores, tiacrossfusion.explain.attribution_scores, "
        "tiacrossfusion.outputs.geojson_files; "
        "print([m for m in ('torch', 'tiatoolbox', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
