"""The report: fragments of slides, and the page that is made of them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re

import pytest
from report_pages import HOSTILE, Page, write

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.slide import predict_stored
from tiacrossfusion.outputs.report import writing as report_writing
from tiacrossfusion.outputs.report.drawings import contribution_bars, draw_survival
from tiacrossfusion.outputs.report.fragment import ReportSlide
from tiacrossfusion.outputs.report.making import make_fragment

# Fragments


def test_a_fragment_survives_its_file(fragment, tmp_path):
    path = tmp_path / "slide.json"
    fragment.save(path)
    assert ReportSlide.load(path) == fragment
    assert [file.name for file in tmp_path.iterdir()] == ["slide.json"]
    failed = ReportSlide(name="a.svs", status="failed", message="no tissue")
    failed.save(path)
    assert ReportSlide.load(path) == failed


@pytest.mark.parametrize("damage", ["cut", "script", "risk", "version", "absent"])
def test_a_damaged_fragment_is_refused_in_one_line(fragment, tmp_path, damage):
    path = tmp_path / "slide.json"
    fragment.save(path)
    content = json.loads(path.read_text())
    if damage == "cut":
        path.write_text(path.read_text()[:500])
    elif damage == "absent":
        path.unlink()
    else:
        if damage == "script":
            content["map"]["ground"]["picture"] = "javascript:alert(1)"
        content["risk"] = None if damage == "risk" else content["risk"]
        content["format_version"] = 2 if damage == "version" else 1
        path.write_text(json.dumps(content))
    with pytest.raises(TiacfError, match=r"slide\.json: .*remove it") as error:
        ReportSlide.load(path)
    assert "\n" not in str(error.value)


def test_a_file_name_that_is_no_unicode_does_not_stop_the_report(fragment, demo_bundle, tmp_path):
    name = os.fsdecode(b"caf\xe9.svs")
    slide = ReportSlide.model_validate(fragment.model_dump() | {"name": name})
    slide.save(tmp_path / "slide.json")
    assert "caf?.svs" in write(tmp_path / "report.html", demo_bundle, [slide])


# The page


def test_the_page_is_the_same_from_fragments_on_disk_in_any_order(slides, demo_bundle, tmp_path):
    first = write(tmp_path / "first.html", demo_bundle, slides)
    for number, each in enumerate(slides):
        each.save(tmp_path / f"{number}.json")
    again = [ReportSlide.load(tmp_path / f"{number}.json") for number in (2, 0, 3, 1)]
    assert write(tmp_path / "again.html", demo_bundle, again) == first


def test_slides_stand_by_falling_risk_and_failed_ones_last(slides, demo_bundle, tmp_path):
    page = Page(write(tmp_path / "report.html", demo_bundle, slides))
    names = [attrs["data-value"] for _, attrs in page.elements if attrs.get("class") == "name"]
    assert names == [HOSTILE, "middle.svs", "best.svs", "broken.svs"]


def test_the_page_loads_nothing_and_escapes_every_name(slides, demo_bundle, tmp_path):
    text = write(tmp_path / "report.html", demo_bundle, slides, title=HOSTILE, warnings=(HOSTILE,))
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == tags.count("style") == 1
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            target = attributes.get(name, "#")
            assert target.startswith(("data:image/", "#")) or (tag, target) == ("link", "data:,")
    assert text.count("&lt;img src=x") >= 10
    assert "<img src=x" not in text


def test_the_policy_allows_only_the_page_s_own_script_and_style(slides, demo_bundle, tmp_path):
    page = Page(write(tmp_path / "report.html", demo_bundle, slides))
    policy = next(
        attrs["content"]
        for _, attrs in page.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (content,) = page.texts[tag][:1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not any("style" in attributes for _, attributes in page.elements)


def test_the_page_says_what_speaks_against_its_numbers(slides, fragment, demo_bundle, tmp_path):
    others = fragment.model_copy(update={"model": "another 7"})
    text = write(tmp_path / "report.html", demo_bundle, [*slides, others])
    assert "Could not be predicted: 1 of 5 slides" in text
    assert "another model (another 7)" in text
    card = demo_bundle.config.card
    for known in (card.notice, card.cohort, card.licence, "broken.svs"):
        assert str(report_writing.Markup.escape(known)) in text


def test_the_page_says_what_the_scales_are_compared_with(fragment, demo_bundle, tmp_path):
    assert fragment.baseline == "own"  # as its attribution says
    told = {"own": "own mean patch", "training": "typical of the training patients"}
    for baseline, words in told.items():
        slide = fragment.model_copy(update={"baseline": baseline})
        text = write(tmp_path / "report.html", demo_bundle, [slide])
        assert [each in text for each in told.values()] == [each == words for each in told.values()]


def test_of_a_large_run_first_patches_then_maps_are_left_out(
    fragment, demo_bundle, tmp_path, monkeypatch
):
    def pictures(text: str) -> tuple[int, int]:
        return len(re.findall('class="patch"', text)), len(re.findall('class="map"', text))

    path = tmp_path / "report.html"
    whole = write(path, demo_bundle, [fragment] * 3)
    patches = sum(len(row.highest) + len(row.lowest) for row in fragment.gallery)
    assert pictures(whole) == (3 * patches, 3)
    maps = sum(len(v.picture) for v in (fragment.map.ground, *fragment.map.layers))
    monkeypatch.setattr(report_writing, "MOST_PICTURES", 3 * maps)
    smaller = write(path, demo_bundle, [fragment] * 3)
    assert pictures(smaller) == (0, 3)
    assert "The patches are left out: the slides have too many for one page." in smaller
    monkeypatch.setattr(report_writing, "MOST_PICTURES", 3 * maps - 1)
    bare = write(path, demo_bundle, [fragment] * 3)
    assert pictures(bare) == (0, 0)
    assert "The maps are left out" in bare


def test_a_run_without_times_and_without_training_risks_has_its_page(result, demo_bundle, tmp_path):
    unknown = demo_bundle.config.model_copy(update={"time_bins": None, "risk_reference": None})
    bare = dataclasses.replace(demo_bundle, config=unknown)
    made = make_fragment(predict_stored(result.bag, bare))
    text = write(tmp_path / "report.html", bare, [made])
    assert "bin edges unknown" in text
    assert "Percentile</button>" not in text
    assert "Median survival" not in text


def test_the_curve_falls_from_one_and_the_median_lies_on_it(fragment):
    drawing = draw_survival(fragment.survival)
    (x0, y0), *rest = drawing.points
    assert (x0, y0) == (52, 14)
    assert [x for x, _ in drawing.points] == sorted(x for x, _ in drawing.points)
    assert [y for _, y in drawing.points] == sorted(y for _, y in drawing.points)
    assert len(rest) == len(fragment.survival.survival)
    assert [len(points) for _, points in drawing.groups] == [len(drawing.points)] * 2
    falls = fragment.survival.model_copy(update={"survival": (0.9, 0.6, 0.4, 0.1), "median": 20.0})
    x, y = draw_survival(falls).median
    assert x == pytest.approx(52 + 414 * 20 / fragment.survival.edges[-1], abs=0.1)
    assert y == pytest.approx((14 + 252) / 2)


def test_bars_of_the_scales_stand_on_one_zero_and_next_to_nothing_looks_so():
    bars = contribution_bars({"5x": 0.3, "10x": -0.1, "20x": 0.0})
    assert [(start, length) for _, _, start, length in bars] == [(25, 75), (0, 25), (25, 0)]
    assert max(length for *_, length in contribution_bars({"5x": 1e-4, "20x": -2e-4})) < 1
