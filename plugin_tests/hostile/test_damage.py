"""Slides that are damaged in places: what is left out, and how it is said."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cli import main
from tiacrossfusion.slides.families import parents_of, whole_families
from tiacrossfusion.slides.grid import PatchGrid
from tiacrossfusion.slides.spec import SCALES


def damage(slide: Path, share: float, level: int = 0) -> None:
    """Overwrite the middle of some tiles of a level, evenly over the slide."""
    with tifffile.TiffFile(slide) as file:
        page = file.series[0].levels[level].pages[0]
        tiles = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    count = max(1, int(share * len(tiles)))
    chosen = ((np.arange(count) + 0.5) * len(tiles) / count).astype(int)  # one: in the middle
    with slide.open("r+b") as file:
        for offset, count in (tiles[tile] for tile in chosen):
            file.seek(offset)
            file.write(b"\x00" * count)


def run(command: str, source: Path, out: Path):
    arguments = [command, "--img-input", str(source), "--output-path", str(out)]
    return CliRunner().invoke(main, arguments)


def test_damaged_regions_cost_their_patches_alone(simulated, tmp_path):
    whole, broken = tmp_path / "whole.svs", tmp_path / "broken.svs"
    for path in (whole, broken):
        shutil.copy(simulated / "high.svs", path)
    damage(broken, 0.01)
    for slide in (whole, broken):
        assert run("extract", slide, tmp_path / "bags").exit_code == 0
    bags = {path.stem: FeatureBag.load(path) for path in (tmp_path / "bags").glob("*.zarr")}
    dropped = bags["broken"].provenance.dropped
    assert dropped["20x"] >= 1
    for scale in SCALES:
        all_of, some_of = bags["whole"].scales[scale], bags["broken"].scales[scale]
        assert len(some_of) == len(all_of) - dropped.get(scale, 0)
        where = {tuple(cell): index for index, cell in enumerate(all_of.grid.tolist())}
        same = [where[tuple(cell)] for cell in some_of.grid.tolist()]
        np.testing.assert_array_equal(some_of.features, all_of.features[same])
    with (tmp_path / "bags" / "extraction.csv").open(newline="", encoding="utf-8") as file:
        messages = {row["slide"]: row["message"] for row in csv.DictReader(file)}
    assert messages["whole.svs"] == ""
    assert f"{dropped['20x']} at 20x" in messages["broken.svs"]
    assert "20x patch at (" in (tmp_path / "bags" / "tiacf.log").read_text(encoding="utf-8")

    result = run("predict", broken, tmp_path / "out")
    assert result.exit_code == 0
    assert f"{dropped['20x']} at 20x" in result.output


def test_a_slide_damaged_all_over_fails_in_one_line(simulated, tmp_path):
    slide = tmp_path / "slide.svs"
    shutil.copy(simulated / "low.svs", slide)
    damage(slide, 1.0)
    result = run("extract", slide, tmp_path / "bags")
    assert result.exit_code == 1
    failed = [line for line in result.output.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert str(slide) in failed[0]
    assert not list((tmp_path / "bags").glob("*.zarr"))


def full_grids(columns: int, rows: int) -> dict[str, PatchGrid]:
    """All cells of a slide of so many 5x cells."""
    grids = {}
    for scale, factor in zip(SCALES, (1, 2, 4), strict=True):
        row, column = np.divmod(np.arange(columns * rows * factor**2), columns * factor)
        cells = np.stack([column, row], axis=1).astype(np.int32)
        grids[scale] = PatchGrid(scale, np.tile(cells, 2).astype(np.int64), cells)
    return grids


@given(st.data())
def test_what_is_kept_has_its_ancestors_and_children(data):
    grids = full_grids(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)))
    readable = {
        scale: np.array(data.draw(st.lists(st.booleans(), min_size=len(g), max_size=len(g))))
        for scale, g in grids.items()
    }
    kept = whole_families(grids, readable)
    cells = {scale: {tuple(c) for c in grids[scale].grid[kept[scale]]} for scale in SCALES}
    for scale in SCALES:
        assert not (kept[scale] & ~readable[scale]).any()
    for coarse, fine in (("5x", "10x"), ("10x", "20x")):
        assert {(c // 2, r // 2) for c, r in cells[fine]} == cells[coarse]
    # Nothing is dropped without need: a 20x cell whose whole line can be read is there.
    line = readable["20x"]
    for factor, scale in ((2, "10x"), (4, "5x")):
        able = {tuple(c) for c in grids[scale].grid[readable[scale]]}
        line = line & np.array([(c // factor, r // factor) in able for c, r in grids["20x"].grid])
    np.testing.assert_array_equal(kept["20x"], line)


def test_parents_that_are_missing_are_told():
    fine = np.array([[0, 0], [3, 1], [5, 5]])
    np.testing.assert_array_equal(parents_of(fine, np.array([[1, 0], [0, 0]])), [1, 0, -1])
    np.testing.assert_array_equal(parents_of(fine, np.zeros((0, 2), int)), [-1, -1, -1])


@pytest.mark.parametrize("level", [0, 1])
def test_only_damage_in_the_level_that_patches_are_cut_from_costs_patches(
    simulated, tmp_path, level
):
    slide = tmp_path / "slide.svs"
    shutil.copy(simulated / "high.svs", slide)
    damage(slide, 0.01, level)
    result = run("extract", slide, tmp_path / "bags")
    assert result.exit_code == 0, result.output
    bag = FeatureBag.load(tmp_path / "bags" / "slide.zarr")
    assert bool(bag.provenance.dropped) == (level == 0)
    assert all(len(scale) for scale in bag.scales.values())


def test_a_slide_of_one_level_is_read_around_its_damage(tmp_path):
    slide = tmp_path / "slide.tiff"
    rng = np.random.default_rng(0)
    pixels = np.full((2048, 3072, 3), 240, np.uint8)
    pixels[256:1792, 256:2816] = rng.integers(90, 200, (1536, 2560, 3))
    tifffile.imwrite(
        slide,
        pixels,
        tile=(256, 256),
        compression="jpeg",
        photometric="rgb",
        resolution=(20000, 20000),
    )
    damage(slide, 0.005)
    result = CliRunner().invoke(
        main,
        [
            "extract",
            "--img-input",
            str(slide),
            "--output-path",
            str(tmp_path / "bags"),
            "--mpp",
            "0.5",
        ],
    )
    assert result.exit_code == 0, result.output
    bag = FeatureBag.load(tmp_path / "bags" / "slide.zarr")
    assert bag.provenance.dropped["20x"] >= 1
    assert len(bag.scales["20x"]) > 20
