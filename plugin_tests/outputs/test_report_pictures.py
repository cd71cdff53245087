"""Maps, scale bars and gallery of a slide in the report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up_scores import score, scores_of
from report_pages import picture, write

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.gallery import PATCHES, read_gallery
from tiacrossfusion.inference.slide import SlideResult, predict_stored
from tiacrossfusion.outputs.report.making import make_fragment
from tiacrossfusion.outputs.report.pictures import LEVELS, tiles_picture
from tiacrossfusion.slides.patches import read_patch


def test_tiles_are_one_pixel_each_in_the_colours_of_the_scale():
    cells = np.array([[3, 5], [4, 5], [6, 7], [3, 7]])
    colours = np.stack(
        [np.arange(256), 255 - np.arange(256), np.full(256, 7), np.full(256, 255)], 1
    )
    pixels = picture(
        tiles_picture(cells, np.array([0.0, 1.0, 0.5, np.nan]), colours.astype(np.uint8))
    )
    assert pixels.shape == (3, 4, 4)
    assert pixels[0, 0].tolist() == [0, 255, 7, 255]
    assert pixels[0, 1].tolist() == [255, 0, 7, 255]
    assert abs(int(pixels[2, 3, 0]) - 127.5) <= 256 / LEVELS
    assert (pixels[..., 3] > 0).sum() == 3  # neither what is no tile nor what is not known


def test_maps_lie_where_their_tiles_do(result, scores, fragment):
    width, height = result.bag.provenance.dimensions
    unit = max(width, height) / 1000
    names = [(layer.family, layer.name) for layer in fragment.map.layers]
    assert names[:4] == [("Attention", name) for name in ("5x", "10x", "20x", "fused")]
    assert names[4:] == [("Attribution", name) for name in ("5x", "10x", "20x", "total")]
    for layer in fragment.map.layers:
        grid = {"fused": "10x", "total": "20x"}.get(layer.name, layer.name)
        tiles = result.bag.scales[grid]
        pixels = picture(layer.picture)
        columns, rows = tiles.grid.max(axis=0) - tiles.grid.min(axis=0) + 1
        assert pixels.shape[:2] == (rows, columns)
        reach = [*tiles.bounds[:, :2].min(axis=0), *tiles.bounds[:, 2:].max(axis=0)]
        placed = [layer.x, layer.y, layer.x + layer.width, layer.y + layer.height]
        np.testing.assert_allclose(np.array(placed) * unit, reach, atol=unit * 0.02)
    values = score(scores["20x"], "Attribution 20x").values
    layer = next(v for v in fragment.map.layers if (v.family, v.name) == ("Attribution", "20x"))
    columns, rows = result.bag.scales["20x"].grid.T
    pixels = picture(layer.picture)[rows, columns].astype(int)
    assert (pixels[np.argmax(values), 0] > pixels[np.argmax(values), 2]).all()  # red raises
    assert (pixels[np.argmin(values), 0] < pixels[np.argmin(values), 2]).all()
    assert pixels[np.argmax(np.abs(values)), 3] == 255
    assert pixels[np.argmin(np.abs(values)), 3] < 100


def test_scale_bars_are_as_long_as_they_say(slide, fragment):
    def microns(label: str) -> float:
        number, unit = label.split()
        return float(number) * {"mm": 1000, "μm": 1}[unit]

    of_slide = slide.dimensions[0] * slide.mpp[0]
    bar = fragment.map.bar
    assert bar.length / fragment.map.width * of_slide == pytest.approx(microns(bar.label), rel=1e-3)
    for row, width in zip(fragment.gallery, (512, 256, 128), strict=True):
        assert row.bar.length / 100 * width == pytest.approx(microns(row.bar.label), rel=1e-2)
        assert 5 <= row.bar.length <= 25


# Gallery


def test_gallery_shows_what_raises_and_what_lowers_the_risk_most(
    slide, result, scores, demo_bundle
):
    spec = demo_bundle.config.sampling
    gallery = read_gallery(slide, result.bag, scores, spec)
    assert [row.scale for row in gallery.rows] == ["5x", "10x", "20x"]
    assert gallery.unreadable == 0
    for row in gallery.rows:
        values = score(scores[row.scale], f"Attribution {row.scale}").values
        assert row.score == "attribution"
        raises = sorted(values[values > 0], reverse=True)[:PATCHES]
        assert [patch.attribution for patch in row.highest] == raises
        assert [patch.attribution for patch in row.lowest] == sorted(values[values < 0])[:PATCHES]
        for patch in (*row.highest, *row.lowest):
            pixels = read_patch(slide, np.array(patch.bounds), row.scale, spec)
            np.testing.assert_array_equal(patch.image, pixels)


def test_gallery_of_attention_has_no_patch_twice_even_where_all_scores_are_equal(
    slide, result, demo_bundle
):
    attention = {name: np.full(len(v), 0.5) for name, v in result.prediction.attention.items()}
    scores = scores_of(result.bag, attention)
    for row in read_gallery(slide, result.bag, scores, demo_bundle.config.sampling).rows:
        n = len(result.bag.scales[row.scale])
        bounds = {patch.bounds for patch in (*row.highest, *row.lowest)}
        assert row.score == "attention"
        assert len(row.lowest) == min(PATCHES, n // 2)
        assert len(bounds) == len(row.highest) + len(row.lowest) == min(2 * PATCHES, n)


def test_gallery_of_a_single_patch_has_it_once(slide, result, demo_bundle):
    scales = {
        name: ScaleFeatures(*(array[:1] for array in vars(scale).values()))
        for name, scale in result.bag.scales.items()
    }
    bag = FeatureBag(scales, result.bag.provenance)
    one = predict_stored(bag, demo_bundle, attribution=False)
    gallery = read_gallery(slide, bag, one.scores, demo_bundle.config.sampling)
    assert [(len(row.highest), len(row.lowest)) for row in gallery.rows] == [(1, 0)] * 3
    made = make_fragment(dataclasses.replace(one, gallery=gallery))
    assert all(len(row.highest) == 1 for row in made.gallery)


def test_a_damaged_patch_is_left_out_and_counted(
    slide, result, scores, demo_bundle, fragment, monkeypatch
):
    strongest = np.nanargmax(score(scores["20x"], "Attribution 20x").values)
    damaged = tuple(result.bag.scales["20x"].bounds[strongest, :2].tolist())
    read = slide.reader.read_rect

    def read_rect(location, size, **how):
        if location == damaged and tuple(size) == (256, 256):
            raise ValueError("cannot decode this tile")
        return read(location=location, size=size, **how)

    monkeypatch.setattr(slide.reader, "read_rect", read_rect)
    gallery = read_gallery(slide, result.bag, scores, demo_bundle.config.sampling)
    assert gallery.unreadable == 1
    assert [len(row.highest) for row in gallery.rows][2] == PATCHES - 1
    made = make_fragment(dataclasses.replace(result, gallery=gallery))
    assert "damaged" in made.gallery_note
    assert not fragment.gallery_note


def without_coordinates(result: SlideResult) -> SlideResult:
    """The same from features of another program, which does not say where its patches lie."""
    scales = {
        name: ScaleFeatures(scale.features, None, None) for name, scale in result.bag.scales.items()
    }
    made = result.bag.provenance.model_copy(
        update={"imported": "a .pt file", "dimensions": None, "mpp": None, "mask": None}
    )
    return dataclasses.replace(result, bag=FeatureBag(scales, made), scores={}, overview=None)


def test_without_coordinates_the_risk_is_shown_and_the_maps_are_refused(
    slide, result, scores, demo_bundle, tmp_path
):
    unplaced = without_coordinates(result)
    with pytest.raises(TiacfError, match="positions of its patches are unknown"):
        read_gallery(slide, unplaced.bag, scores, demo_bundle.config.sampling)
    made = make_fragment(unplaced)
    assert made.map is None
    assert made.risk == result.prediction.risk
    page = write(tmp_path / "report.html", demo_bundle, [made])
    assert "No map is shown: the positions of its patches are unknown" in page
    assert "No patches are shown" in page


def test_without_the_slide_the_maps_lie_on_its_patches(result, demo_bundle, tmp_path):
    made = make_fragment(dataclasses.replace(result, overview=None))
    assert made.map.ground.kind == "patches"
    assert (picture(made.map.ground.picture)[..., 3] > 0).sum() == result.bag.counts()["20x"]
    page = write(tmp_path / "report.html", demo_bundle, [made])
    assert "No patches are shown: the slide was predicted from stored features." in page
