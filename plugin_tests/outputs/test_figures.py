"""The pictures of a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_scores import (
    SIDE,
    block,
    check_picture,
    make_attention,
    make_bag,
    result_of,
    scores_of,
)

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.explain.score import Score
from tiacrossfusion.models.config import RiskGroup
from tiacrossfusion.outputs.curve import Curve
from tiacrossfusion.outputs.overlay import _paint, attention_figure
from tiacrossfusion.outputs.survival_plot import survival_figure


@pytest.mark.parametrize(
    ("columns", "rows"), [(1, 1), (24, 18), (80, 3), (3, 80)], ids=["tile", "usual", "wide", "tall"]
)
def test_the_attention_figure_takes_slides_of_any_shape(columns: int, rows: int, tmp_path: Path):
    bag = make_bag(block(columns, rows), dimensions=(round(columns * SIDE), round(rows * SIDE)))
    attention = make_attention(bag)
    attention["10x"][0] = np.nan
    thumbnail = np.random.default_rng(0).integers(120, 240, (9 * rows, 9 * columns, 3), np.uint8)
    named = bag.provenance.model_copy(update={"slide": "a $\\slide$"})
    bag = FeatureBag(bag.scales, named)
    for name in ("one.png", "two.png"):
        scores = scores_of(bag, attention, attribution={"20x": attention["20x"] - 0.01})
        attention_figure(result_of(bag, scores, overview=thumbnail), tmp_path / name)
    check_picture(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_tiles_are_painted_where_they_lie():
    bag = make_bag([(1, 0), (5, 3)], dimensions=(round(8 * SIDE), round(4 * SIDE)))
    white = np.full((40, 80, 3), 250, np.uint8)
    painted = _paint(white, bag, Score("Any", "20x", np.array([0.1, 0.9])))
    changed = (painted != white).any(axis=2)
    expected = np.zeros((40, 80), bool)
    expected[0:10, 10:20] = expected[30:40, 50:60] = True
    np.testing.assert_array_equal(changed, expected)
    assert painted[5, 15].sum() < painted[35, 55].sum()  # dark is low, yellow is high


def test_the_survival_figure_with_and_without_bin_edges(tmp_path: Path):
    group = RiskGroup(name="low", patients=12, survival=(0.97, 0.9, 0.8, 0.6))
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
