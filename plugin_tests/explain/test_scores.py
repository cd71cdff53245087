"""Scores of patches on nested grids, and hotspots."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import shapely
from made_up_scores import (
    SIDE,
    block,
    hot_attention,
    imported,
    make_attention,
    make_bag,
    score,
    scores_of,
)

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.extent import why_no_maps
from tiacrossfusion.explain.hotspots import find_hotspots
from tiacrossfusion.explain.score import percentile_rank
from tiacrossfusion.outputs.colours import score_shares


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


def test_rolled_attention_and_attribution_are_per_area_and_add_up_by_place():
    # Two 5x cells: three 20x cells in two 10x cells in the left one, a single one in the right.
    bag = make_bag([(0, 0), (1, 1), (2, 0), (5, 3)])
    given = {
        "5x": np.array([0.3, -0.2]),
        "10x": np.array([0.4, 0.1, 0.6]),
        "20x": np.array([0.1, 0.2, -0.1, 0.05]),  # (0, 0), (2, 0), (1, 1), (5, 3)
    }
    scores = scores_of(bag, make_attention(bag), rolled=given, attribution=given)
    # Each value times the number of patches of its scale, whatever was kept inside it.
    expected = [
        4 * 0.1 + 3 * 0.4 + 2 * 0.3,
        4 * 0.2 + 3 * 0.1 + 2 * 0.3,
        4 * -0.1 + 3 * 0.4 + 2 * 0.3,
        4 * 0.05 + 3 * 0.6 + 2 * -0.2,
    ]
    fine = scores["20x"]
    rolled, total = score(fine, "Attention rolled"), score(fine, "Attribution total")
    np.testing.assert_allclose(rolled.values, expected)
    np.testing.assert_allclose(total.values, expected)
    np.testing.assert_allclose(score(fine, "Attribution 10x").values, [1.2, 0.3, 1.2, 1.8])
    np.testing.assert_allclose(rolled.percentiles, percentile_rank(np.array(expected)))
    assert total.percentiles is None
    assert (total.signed, total.unit) == (True, "risk")
    inside = score(scores["10x"], "Attribution 20x mean")
    np.testing.assert_allclose(inside.values, [0.0, 0.8, 0.2], atol=1e-15)
    np.testing.assert_allclose(score(scores["5x"], "Attribution 5x").values, 2 * given["5x"])
    # A network of one scale has no more than that.
    only = scores_of(bag, {"20x": given["20x"]}, attribution={"20x": given["20x"]})
    names = [each.name for each in only["20x"] if each.signed]
    assert names == ["Attribution 20x", "Attribution total"]
    np.testing.assert_array_equal(score(only["20x"], "Attribution total").values, 4 * given["20x"])


@pytest.mark.parametrize(("placed", "nested"), [(False, True), (True, False)])
def test_maps_of_a_bag_without_places_are_refused_in_one_line(placed: bool, nested: bool):
    bag = imported(make_bag(block(4, 4)), placed=placed, nested=nested)
    assert why_no_maps(bag)
    assert not why_no_maps(make_bag(block(4, 4)))
    with pytest.raises(TiacfError, match=r"so maps cannot be drawn; .* tiacf extract") as error:
        scores_of(bag, make_attention(bag))
    assert "\n" not in str(error.value)


def test_attention_of_another_length_is_refused():
    bag = make_bag(block(4, 4))
    attention = make_attention(bag) | {"fused": np.ones(3)}
    with pytest.raises(ValueError, match=r"Attention fused has the shape \(3,\), not \(4,\)"):
        scores_of(bag, attention)


@pytest.mark.process
def test_importing_the_room_is_light():
    code = (
        "import sys, tiacrossfusion.explain.scores, tiacrossfusion.explain.hotspots, "
        "tiacrossfusion.explain.attention_scores, tiacrossfusion.explain.attribution_scores, "
        "tiacrossfusion.outputs.geojson_files; "
        "print([m for m in ('torch', 'tiatoolbox', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Hotspots


def test_hotspots_are_connected_regions_ranked_by_their_mean():
    bag = make_bag(block(40, 40))  # 400 cells at 10x: 20 of them are hot
    hot = {(column, 0): 5.0 for column in range(10)}  # 10 cells in a row at the upper border
    hot |= {(column, 5): 9.0 for column in range(5)}
    hot |= {(19, row): 7.0 for row in range(15, 18)}
    hot |= {(10, 10): 99.0}  # a single cell is no region while there are others
    hotspots = find_hotspots(bag, scores_of(bag, hot_attention(bag, hot))["20x"])
    assert [hotspot.mean for hotspot in hotspots] == [9, 7, 5]
    assert [hotspot.tiles for hotspot in hotspots] == [20, 12, 40]
    assert [hotspot.name for hotspot in hotspots] == ["Hotspot 1", "Hotspot 2", "Hotspot 3"]
    line = round(20 * SIDE), round(2 * SIDE)
    assert hotspots[2].polygon.equals(shapely.box(0, 0, *line))
    assert len(hotspots[2].polygon.exterior.coords) == 5  # no corners of tiles along the sides
    assert hotspots[2].area == pytest.approx(line[0] * line[1] * 0.25**2)


def test_a_single_cell_is_a_hotspot_where_there_is_nothing_else():
    bag = make_bag(block(20, 20))
    scores = scores_of(bag, hot_attention(bag, {(3, 3): 4.0, (7, 7): 5.0}))
    assert [(spot.mean, spot.tiles) for spot in find_hotspots(bag, scores["20x"])] == [
        (5, 4),
        (4, 4),
    ]


def test_there_are_few_hotspots_and_none_in_constant_attention():
    bag = make_bag(block(80, 80))
    hot = {(4 * i, 4 * j): 1.0 + i + 0.01 * j for i in range(8) for j in range(8)}
    hotspots = find_hotspots(bag, scores_of(bag, hot_attention(bag, hot))["20x"])
    assert [hotspot.rank for hotspot in hotspots] == [1, 2, 3, 4, 5]
    assert find_hotspots(bag, scores_of(bag, hot_attention(bag, {}))["20x"]) == []


def test_hotspots_of_attribution_raise_or_lower_the_risk_and_none_is_about_zero():
    bag = make_bag(block(40, 40))
    n = len(bag.scales["20x"])
    place = bag.scales["20x"].grid
    values = np.zeros(n)
    values[(place < 6).all(axis=1)] = 0.2 / n  # 36 tiles in a corner
    values[(place >= 35).all(axis=1)] = -0.1 / n  # 25 in the other
    scores = scores_of(bag, make_attention(bag), attribution={"20x": values})
    hotspots = find_hotspots(bag, scores["20x"])
    assert [(spot.kind, spot.rank, spot.tiles) for spot in hotspots] == [
        ("raises", 1, 36),
        ("lowers", 1, 25),
    ]
    assert [spot.mean for spot in hotspots] == pytest.approx([0.2, -0.1])
    assert {spot.kind for spot in find_hotspots(bag, scores["20x"], "attention")} == {"attention"}
    tiny = scores_of(bag, make_attention(bag), attribution={"20x": values / 1000})
    assert find_hotspots(bag, tiny["20x"]) == []
    (total,) = (each for each in tiny["20x"] if each.name == "Attribution total")
    assert np.isnan(score_shares(total)).all()
