"""GeoJSON that QuPath loads."""

from __future__ import annotations

import gzip
import json
import math
import runpy
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_scores import (
    ORIGIN,
    SIDE,
    all_scores,
    block,
    check_picture,
    hot_attention,
    imported,
    make_attention,
    make_bag,
    result_of,
    score,
    scores_of,
    write_geojson,
)

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.explain.attention_scores import STAGE_GRID
from tiacrossfusion.explain.hotspots import find_hotspots
from tiacrossfusion.outputs.annotation_store import AnnotationStoreWriter
from tiacrossfusion.outputs.overlay import attention_figure

CHECKER = Path(__file__).resolve().parents[3] / "shared" / "tools" / "check_geojson.py"


def write_all(folder: Path, bag: FeatureBag, attention: dict[str, np.ndarray]) -> list[Path]:
    return write_geojson(folder, "slide", result_of(bag, scores_of(bag, attention)))


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
    paths = write_geojson(tmp_path, "slide", result_of(bag, scores))
    shown = [feature["properties"] for feature in check_rules(paths[0], bag)]
    tiles = [each for each in shown if each["objectType"] == "tile"]
    spot = shown[0]
    signed = ["Attribution 5x", "Attribution 10x", "Attribution 20x", "Attribution total"]
    for number, tile in enumerate(tiles):
        has = {name for name in tile["measurements"] if name.startswith("Attribution")}
        assert has == (set(signed[:2]) if number == 3 else set(signed))
        assert not any("rolled" in name for name in tile["measurements"])
    assert tiles[7]["measurements"]["Attribution 20x"] == float(
        f"{144 * attribution['20x'][7]:.6g}"
    )
    mean = find_hotspots(bag, scores["20x"])[0].mean
    assert spot["measurements"]["Attribution total mean"] == pytest.approx(mean, rel=1e-5)
    assert spot["classification"]["name"] == "tiacrossfusion raises the risk"
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
            tmp_path / name, "slide", result_of(bag, scores, []), gzip=compress
        )
    assert written["one"][0].name == "slide.geojson.gz"
    for plain, one, two in zip(*written.values(), strict=True):
        assert gzip.decompress(one.read_bytes()) == plain.read_bytes()
        assert one.read_bytes() == two.read_bytes()
        assert len(one.read_bytes()) < len(plain.read_bytes()) / 3


def test_a_slide_of_unknown_size_and_resolution_has_maps_without_microns(tmp_path: Path):
    bag = imported(make_bag(block(24, 18)), placed=True)
    scores = all_scores(bag)
    result = result_of(bag, scores)
    assert result.hotspots
    assert all(hotspot.area is None for hotspot in result.hotspots)
    path = write_geojson(tmp_path, "slide", result)[0]
    assert "null" not in path.read_text("utf-8")
    document = read(path)
    assert "mpp" not in document["tiacrossfusion"]
    assert document["tiacrossfusion"]["features"]["imported"] == "another program, features.h5"
    assert "Area um^2" not in document["features"][0]["properties"]["measurements"]
    AnnotationStoreWriter().write(tmp_path, "slide", result)
    picture = tmp_path / "slide.png"
    attention_figure(result, picture)
    check_picture(picture)


@pytest.mark.parametrize("scales", [("20x",), ("5x", "20x"), ("10x", "20x")])
def test_a_bag_of_some_scales_has_maps_on_its_own_grids(tmp_path: Path, scales: tuple[str, ...]):
    whole = make_bag(block(12, 8))
    bag = FeatureBag({name: whole.scales[name] for name in scales}, whole.provenance)
    attention = {name: make_attention(whole)[name] for name in scales}
    result = result_of(bag, scores_of(bag, attention, attribution=attention))
    assert result.hotspots
    names = {f"Attention {name}" for name in scales} | {"Attribution total"}
    for path, scale in zip(
        write_geojson(tmp_path, "slide", result), ("20x", "10x", "5x"), strict=True
    ):
        features = check_rules(path, bag)
        tiles = [f["properties"] for f in features if f["properties"]["objectType"] == "tile"]
        assert len(tiles) == (len(bag.scales[scale]) if scale in scales else 0)
        for tile in tiles:
            listed = {name.removesuffix(" mean") for name in tile["measurements"]}
            assert names <= listed
    AnnotationStoreWriter().write(tmp_path, "slide", result)
    attention_figure(result, tmp_path / "slide.png")
    check_picture(tmp_path / "slide.png")


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
            "classification": {"name": "tiacrossfusion highest attention", "color": [220, 20, 60]},
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
