"""The report: fragments of slides, the gallery, and the page in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_scores import score, scores_of
from PIL import Image

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.explain.attribution import Attribution
from tiacrossfusion.explain.gallery import PATCHES, read_gallery
from tiacrossfusion.explain.hotspots import find_hotspots
from tiacrossfusion.inference.extraction import bag_provenance
from tiacrossfusion.inference.slide import SlideResult, predict_stored
from tiacrossfusion.outputs.report import writing as report_writing
from tiacrossfusion.outputs.report.drawings import contribution_bars, draw_survival
from tiacrossfusion.outputs.report.fragment import ReportSlide
from tiacrossfusion.outputs.report.making import make_fragment
from tiacrossfusion.outputs.report.pictures import LEVELS, tiles_picture
from tiacrossfusion.outputs.report.writing import ReportRun, write_report
from tiacrossfusion.slides.grid import nested_grids
from tiacrossfusion.slides.overview import read_overview
from tiacrossfusion.slides.patches import read_patch
from tiacrossfusion.slides.slide import open_slide

HOSTILE = '"><img src=x onerror="document.title=1"><script>document.title=2</script>.svs'


CONTRIBUTION = {"5x": 0.1, "10x": -0.2, "20x": 0.4}


@pytest.fixture(scope="module")
def slide(simulated):
    with open_slide(simulated / "low.svs") as slide:
        yield slide


@pytest.fixture(scope="module")
def result(slide, demo_bundle) -> SlideResult:
    """A prediction from features at random: the report does not care where they come from."""
    rng = np.random.default_rng(0)
    spec = demo_bundle.config.sampling
    scales = {}
    for scale, grid in nested_grids(slide, None, spec).items():
        features = rng.random((len(grid), demo_bundle.config.encoder.width)).astype(np.float16)
        scales[scale] = ScaleFeatures(features, grid.bounds, grid.grid)
    made = bag_provenance(slide, spec, demo_bundle.config.encoder, None)
    return dataclasses.replace(
        predict_stored(FeatureBag(scales, made), demo_bundle, attribution=False),
        overview=read_overview(slide, 1200),
    )


@pytest.fixture(scope="module")
def scores(result):
    rng = np.random.default_rng(1)
    attribution = {scale: rng.normal(0, 0.1, n) for scale, n in result.bag.counts().items()}
    return scores_of(result.bag, result.prediction.attention, attribution=attribution)


@pytest.fixture(scope="module")
def fragment(slide, result, scores, demo_bundle) -> ReportSlide:
    adds = Attribution({}, result.prediction.risk, -1.0, CONTRIBUTION, "own")
    whole = dataclasses.replace(
        result,
        prediction=dataclasses.replace(result.prediction, attribution=adds),
        scores=scores,
        hotspots=find_hotspots(result.bag, scores["20x"]),
        gallery=read_gallery(slide, result.bag, scores, demo_bundle.config.sampling),
    )
    return make_fragment(whole).model_copy(update={"source": "/data/low.svs"})


@pytest.fixture
def slides(fragment) -> list[ReportSlide]:
    """Slides of a run, not in the order of their risk."""
    return [
        fragment.model_copy(update={"name": "middle.svs", "risk": -2.0}),
        fragment.model_copy(update={"name": HOSTILE, "risk": -1.0, "message": HOSTILE}),
        ReportSlide(name="broken.svs", status="failed", message=f"{HOSTILE}: not a slide"),
        fragment.model_copy(update={"name": "best.svs", "risk": -3.0, "source": HOSTILE}),
    ]


def write(path: Path, bundle, slides: list[ReportSlide], **of_run: Any) -> str:
    write_report(path, ReportRun(bundle.config, **of_run), slides)
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements of a page and the texts in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data):
        self.texts.setdefault(self.elements[-1][0] if self.elements else "", []).append(data)


def picture(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


# Pictures


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
        if location == damaged and how["resolution"] == 0.5:
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
    with pytest.raises(TiacfError, match="not known where its patches lie"):
        read_gallery(slide, unplaced.bag, scores, demo_bundle.config.sampling)
    made = make_fragment(unplaced)
    assert made.map is None
    assert made.risk == result.prediction.risk
    page = write(tmp_path / "report.html", demo_bundle, [made])
    assert "No map is shown: it is not known where its patches lie" in page
    assert "No patches are shown" in page


def test_without_the_slide_the_maps_lie_on_its_patches(result, demo_bundle, tmp_path):
    made = make_fragment(dataclasses.replace(result, overview=None))
    assert made.map.ground.kind == "patches"
    assert (picture(made.map.ground.picture)[..., 3] > 0).sum() == result.bag.counts()["20x"]
    page = write(tmp_path / "report.html", demo_bundle, [made])
    assert "No patches are shown: the slide itself was not at hand." in page


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


# A real browser


class Browser:
    """Chromium without a window, spoken to through a pipe (the DevTools protocol)."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, from_write = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, from_write)]
        options = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        command = [program, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # The browser reads from descriptor 3 and writes to 4.
        start = f"import os, sys; os.dup2({ends[0]}, 3); os.dup2({ends[1]}, 4); "
        self._process = subprocess.Popen(
            [sys.executable, "-c", start + "os.execv(sys.argv[1], sys.argv[1:])", *command],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_read, from_write, *ends):
            os.close(end)
        self._rest, self._number = b"", 0
        self._session: str | None = None
        self.events: list[dict] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], 60)[0], "the browser does not answer"
            received = os.read(self._from, 1 << 16)
            assert received, "the browser has ended"
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, *, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        # Without smooth scrolling an element stays where it was found until it is clicked.
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        self.call("Emulation.setEmulatedMedia", features=still)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def run(self, script: str) -> Any:
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def run_until(self, script: str, value: Any) -> None:
        """Run a script again until it gives this value."""
        for _ in range(100):
            if self.run(script) == value:
                return
            self.run("new Promise(done => setTimeout(done, 50))")
        raise AssertionError(f"{script} is {self.run(script)!r}, not {value!r}")

    def click(self, selector: str) -> None:
        """Press the mouse on the middle of an element."""
        self.run(
            f"document.querySelector({json.dumps(selector)})"
            ".scrollIntoView({block: 'center', behavior: 'instant'})"
        )
        x, y = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=39
            )

    def picture(self, selector: str) -> np.ndarray:
        """What is seen of an element."""
        box = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, "
            "height: b.height}; })()"
        )
        shot = self.call(
            "Page.captureScreenshot", clip=box | {"scale": 1}, captureBeyondViewport=True
        )
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))

    def complaints(self) -> list[dict]:
        """Errors, warnings and messages of the page, and requests other than for itself."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        found = [event for event in self.events if event["method"] in kinds]
        for event in self.events:
            if event["method"] == "Network.requestWillBeSent":
                request = event["params"]
                if request["type"] != "Document" and not request["request"]["url"].startswith(
                    "data:"
                ):
                    found.append(event)
        return found

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium to open the report in; apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


VIEWER = "section.slide.chosen figure.viewer"


@pytest.mark.process
def test_the_report_works_in_a_browser(browser, slides, demo_bundle, tmp_path):
    path = tmp_path / "report.html"
    write(path, demo_bundle, slides, title=HOSTILE)
    browser.open(path, width=1400, height=1000)

    # What stands in names is text, and has done nothing.
    assert browser.run("document.title") == HOSTILE
    assert browser.run("document.querySelectorAll('img:not(.legend img)').length") == 0
    chosen = "document.querySelector('section.slide.chosen h2').textContent"
    assert browser.run(chosen) == HOSTILE
    shown = "[...document.querySelectorAll('section.slide')].filter(s => s.offsetParent !== null).length"
    assert browser.run(shown) == 1

    # Maps are switched, and the slider moves them in and out.
    layer = f"[...document.querySelectorAll('{VIEWER} .layer')]"
    visible = (
        f"{layer}.filter(l => getComputedStyle(l).display !== 'none').map(l => l.dataset.layer)"
    )
    seen = {}
    for key in ("attention-5x", "attention-fused", "attribution-20x", ""):
        browser.click(f"{VIEWER} label:has(input[value='{key}']) span")
        assert browser.run(visible) == ([key] if key else [])
        seen[key] = browser.picture(f"{VIEWER} .map")
    for key in ("attention-5x", "attention-fused", "attribution-20x"):
        assert np.abs(seen[key].astype(int) - seen[""]).mean() > 1
    assert np.abs(seen["attention-5x"].astype(int) - seen["attention-fused"]).mean() > 1
    browser.click(f"{VIEWER} label:has(input[value='attention-5x']) span")
    browser.run(f"document.querySelector('{VIEWER} .opacity input').focus()")
    for _ in range(7):
        browser.press("ArrowRight")
    opacity = f"{layer}.map(l => getComputedStyle(l)).find(s => s.display !== 'none').opacity"
    assert float(browser.run(opacity)) == pytest.approx(0.67)
    assert browser.run(f"document.querySelector('{VIEWER} output').value") == "67 %"
    assert np.abs(browser.picture(f"{VIEWER} .map").astype(int) - seen["attention-5x"]).mean() > 0.5

    # A patch of the gallery shows where it lies.
    browser.click("section.slide.chosen .patch")
    assert browser.run("document.querySelectorAll('.marks rect.shown').length") == 1

    # Sorting, the next slide, and a click on a row; the map stays the one chosen.
    names = "[...document.querySelectorAll('.ranking tbody .name')].map(c => c.dataset.value)"
    browser.click(".ranking th:nth-child(2) button")
    assert browser.run(names) == ["best.svs", "middle.svs", HOSTILE, "broken.svs"]
    browser.click(".ranking th:nth-child(2) button")
    assert browser.run(names) == [HOSTILE, "middle.svs", "best.svs", "broken.svs"]
    browser.click("section.slide.chosen .step[data-step='1']")
    browser.run_until(chosen, "middle.svs")
    assert browser.run(visible) == ["attention-5x"]
    browser.click(".ranking tr.failed")
    browser.run_until(chosen, "broken.svs")
    assert browser.complaints() == []


def test_on_a_narrow_screen_nothing_sticks_out(browser, slides, demo_bundle, tmp_path):
    path = tmp_path / "report.html"
    write(path, demo_bundle, slides)
    browser.open(path, width=390, height=844)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.picture(f"{VIEWER} .map").shape[1] > 250
    assert browser.complaints() == []


def test_a_report_of_no_slides_opens(browser, demo_bundle, tmp_path):
    path = tmp_path / "report.html"
    write(path, demo_bundle, [])
    browser.open(path, width=800, height=600)
    assert "0 slides" in browser.run("document.body.textContent")
    assert browser.complaints() == []
