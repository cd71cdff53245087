"""The report in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from browser import Browser
from report_pages import HOSTILE, write


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
