"""The scenarios beyond the first: what is planted where, tissue, and nuisance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tiacrossfusion.errors import UsageError
from tiacrossfusion.simulation.bags import BagOptions, draw_bag, draw_bags, pattern_direction
from tiacrossfusion.simulation.patterns import Patterns, draw_patterns
from tiacrossfusion.simulation.planted import PLACED, draw_planted_cohort, slide_rng
from tiacrossfusion.simulation.scenarios import OF_SLIDES, SCENARIOS
from tiacrossfusion.slides.families import parents_of

SIDE = 5


def patterns_of(scenario: str, n: int = 60, **options: float) -> list[tuple[dict, Patterns]]:
    rows = draw_planted_cohort(n, 3, scenario=scenario, side=SIDE).to_dict("records")
    return [
        (row, draw_patterns(row, slide_rng(3, i), scenario=scenario, side=SIDE, **options))
        for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_hazard_has_mean_0_and_the_asked_deviation(scenario):
    hazard = draw_planted_cohort(20_000, 1, scenario=scenario, side=4).log_hazard
    assert hazard.mean() == pytest.approx(0, abs=0.05)
    assert hazard.std() == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("scenario", PLACED)
def test_where_a_pattern_lies_decides_and_its_burden_tells_nothing(scenario):
    drawn = patterns_of(scenario)
    counts = {tuple(int(has.sum()) for has in each.has.values()) for _, each in drawn}
    assert len(counts) == 1  # burdens are the same in all slides
    for row, each in drawn:
        scale = "10x" if scenario == "middle-inside" else "20x"
        share = each.placed.sum() / each.has[scale].sum()
        assert share == pytest.approx(row["overlap"], abs=0.03)
        assert not (each.placed & ~each.has[scale]).any()


def test_beside_means_touching_and_never_inside():
    for _, each in patterns_of("neighbour", 20):
        up10 = parents_of(each.grid["10x"], each.grid["5x"])
        cell = each.grid["5x"][up10[parents_of(each.grid["20x"], each.grid["10x"])]]
        coarse = each.grid["5x"][each.has["5x"]]
        gap = np.abs(cell[:, None] - coarse[None]).max(axis=2).min(axis=1)
        assert (gap[each.placed] == 1).all()
        assert (gap[each.has["20x"] & ~each.placed] > 1).all()


def test_of_three_ways_no_two_patterns_tell_anything():
    for _, each in patterns_of("three-way", 20):
        up10 = parents_of(each.grid["10x"], each.grid["5x"])
        up20 = parents_of(each.grid["20x"], each.grid["10x"])
        coarse, middle = each.has["5x"][up10[up20]], each.has["10x"][up20]
        assert (coarse == middle)[each.placed].all()
        assert middle[coarse].mean() == pytest.approx(0.5)  # 10x is independent of 5x


def test_the_rare_pattern_is_rare():
    shares = [each.has["20x"].mean() for _, each in patterns_of("rare")]
    assert max(shares) <= 0.03
    assert 0.01 < np.mean(shares) < 0.02


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_tissue_keeps_its_share_in_whole_families(scenario):
    for _, each in patterns_of(scenario, 5, tissue=0.6):
        assert len(each.grid["20x"]) == pytest.approx(0.6 * 16 * SIDE**2, abs=1)
        for fine, coarse in (("20x", "10x"), ("10x", "5x")):
            up = parents_of(each.grid[fine], each.grid[coarse])
            assert (up >= 0).all()
            assert len(np.unique(up)) == len(each.grid[coarse])
        assert len({tuple(cell) for cell in each.grid["20x"].tolist()}) == len(each.grid["20x"])


def test_nuisance_is_correlated_and_not_the_pattern():
    table = draw_planted_cohort(8, 1, scenario="product", side=8)
    options = BagOptions("product", encoder_width=64, side=8, nuisance=True)
    plain = BagOptions("product", encoder_width=64, side=8)
    noisy, clean = (
        np.concatenate([bag.scales["20x"].features.astype(float) for bag in draw_bags(table, 1, o)])
        for o in (options, plain)
    )
    largest = [np.linalg.eigvalsh(np.cov(x.T))[-1] for x in (noisy, clean)]
    assert largest[0] > 10 > 5 > largest[1]
    assert np.linalg.norm(pattern_direction("20x", 64)) == pytest.approx(1)


def test_wide_bags_of_ten_thousand_patches_are_drawn():
    row = draw_planted_cohort(1, 1, scenario="sum", side=25).iloc[0].to_dict()
    bag = draw_bag(row, slide_rng(1, 0), BagOptions("sum", encoder_width=1024, side=25))
    assert bag.scales["20x"].features.shape == (10_000, 1024)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tissue": 0.0}, "tissue is 0.0; give a share"),
        ({"tissue": math.nan}, "tissue is nan; give a share"),
        ({"scenario": "neighbor"}, "scenario is 'neighbor'; give one of coarse, .*neighbour"),
        ({"encoder_width": 5000}, "encoder_width is 5000; give 1 to 4096"),
        ({"side": 93}, "side is 93; give 1 to 92"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, words):
    with pytest.raises(UsageError, match=words) as caught:
        BagOptions(**{"scenario": "product"} | options)
    assert "\n" not in str(caught.value)


def test_a_row_of_another_scenario_is_refused():
    row = draw_planted_cohort(1, 1, scenario="colocation", side=4).iloc[0].to_dict()
    with pytest.raises(UsageError, match="states an overlap"):
        draw_bag(row, slide_rng(1, 0), BagOptions("product", side=4))
    with pytest.raises(UsageError, match="give at least 4 for neighbour"):
        draw_planted_cohort(1, 1, scenario="neighbour", side=3)
    assert set(OF_SLIDES) < set(SCENARIOS)
