"""Slides and masks that are not what they should be: one line for each, and the others are done."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import struct
import tempfile
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from command_line import assert_failed

from tiacrossfusion import SurvivalPredictor
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cli import main
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import render_slide
from tiacrossfusion.slides.spec import SCALES

APERIO = "Aperio Image Library\r\n{size[0]}x{size[1]}|AppMag = {power}|MPP = {mpp}"
NO_TISSUE = "no tissue found"
NO_SCALE = ("neither microns per pixel nor objective power", "--mpp", "--power")
GREY = "the slide is grey-scale"


@dataclass(frozen=True)
class Run:
    """One run over a folder with many slides."""

    slides: Path
    out: Path
    exit_code: int
    output: str
    rows: dict[str, dict[str, str]]

    def assert_failed(self, name: str, *words: str) -> None:
        """The slide failed in one line with these words, and left nothing but that line."""
        line = self._line(f"FAILED  {self.slides / name}: ")
        row = self.rows[name]
        assert row["status"] == "failed"
        assert row["message"] in line
        for word in words:
            assert word in line
        assert row.get("bag", "") == ""
        assert not [file for file in self.out.glob("*.*") if file.name.startswith(f"{name}.")]

    def assert_done(self, name: str, *words: str) -> None:
        """The slide was done, with a remark that has these words, or without one."""
        self._line(f"ok      {name}: ")
        row = self.rows[name]
        assert row["status"] == "ok"
        for word in words:
            assert word in row["message"]
        if not words:
            assert row["message"] == ""

    def bag(self, name: str) -> FeatureBag:
        """The bag of a slide."""
        return FeatureBag.load(self.out / self.rows[name]["bag"])

    def _line(self, start: str) -> str:
        lines = [line for line in self.output.splitlines() if line.startswith(start)]
        assert len(lines) == 1, self.output
        return lines[0]


def run(command: str, slides: Path, out: Path, *options: str) -> Run:
    arguments = [command, "--img-input", str(slides), "--output-path", str(out), *options]
    result = CliRunner().invoke(main, [*arguments, "--num-workers", "0"])
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit | None), result.output
    table = "extraction.csv" if command == "extract" else "predictions.csv"
    with (out / table).open(newline="", encoding="utf-8") as file:
        rows = {row["slide"]: row for row in csv.DictReader(file)}
    left = [path for path in out.rglob("*") if "staging-" in path.name or path.suffix == ".part"]
    assert not left
    return Run(slides, out, result.exit_code, result.output, rows)


def write(
    path: Path,
    pixels: np.ndarray,
    *,
    factors: tuple[int, ...] = (1, 4),
    mpp: str = "0.5",
    power: str = "20",
    said: str = APERIO,
    **options: object,
) -> None:
    """Write a slide of some levels; as JPEG in RGB unless `options` of tifffile say otherwise."""
    size = (pixels.shape[1], pixels.shape[0])
    how: dict = {"photometric": "rgb", "compression": "jpeg", "tile": (256, 256)} | options
    how |= {"metadata": None, "software": False}
    if path.suffix == ".tif":
        how |= {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        for factor in factors:
            side = (size[0] // factor, size[1] // factor)
            level = cv2.resize(pixels, side, interpolation=cv2.INTER_AREA) if factor > 1 else pixels
            text = said.format(size=size, mpp=mpp, power=power)
            tiff.write(level, description=text, **how)


def swap_sizes(path: Path, level: int | None = None) -> None:
    """Exchange width and height in the tags of a level, or of all."""
    with tifffile.TiffFile(path) as tiff:
        tags = [
            page.tags[name]
            for number, page in enumerate(tiff.pages)
            if level in (None, number)
            for name in ("ImageWidth", "ImageLength")
        ]
        places = [(tag.valueoffset, tag.value, int(tag.dtype)) for tag in tags]
    with path.open("r+b") as file:
        for (one, width, kind), (other, height, _) in zip(places[::2], places[1::2], strict=True):
            for place, value in ((one, height), (other, width)):
                file.seek(place)
                file.write(struct.pack({3: "<H", 4: "<I"}[kind], value))


def write_sparse(path: Path, sides: list[int], tile: bytes) -> None:
    """Write a BigTIFF of square levels whose tiles are all the same bytes, of any size."""
    text = APERIO.format(size=(sides[0], sides[0]), mpp="0.5", power="20").encode() + b"\0"
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16))
        for number, side in enumerate(sides):
            count = (-(-side // 256)) ** 2
            start = file.tell()
            words = start + 8 + 12 * 20 + 8
            offsets = words + len(text) + -len(text) % 8
            sizes = offsets + 8 * count
            data = sizes + 8 * count
            following = data + len(tile) + -len(tile) % 8 if number < len(sides) - 1 else 0
            eights = struct.pack("<HHHH", 8, 8, 8, 0)
            entries = [
                *((256, 4, 1, struct.pack("<Q", side)), (257, 4, 1, struct.pack("<Q", side))),
                *((258, 3, 3, eights), (259, 3, 1, struct.pack("<Q", 7))),
                *((262, 3, 1, struct.pack("<Q", 2)), (270, 2, len(text), struct.pack("<Q", words))),
                *((277, 3, 1, struct.pack("<Q", 3)), (284, 3, 1, struct.pack("<Q", 1))),
                *((322, 4, 1, struct.pack("<Q", 256)), (323, 4, 1, struct.pack("<Q", 256))),
                (324, 16, count, struct.pack("<Q", offsets)),
                (325, 16, count, struct.pack("<Q", sizes)),
            ]
            file.write(struct.pack("<Q", len(entries)))
            for code, kind, values, place in entries:
                file.write(struct.pack("<HHQ", code, kind, values) + place)
            file.write(struct.pack("<Q", following))
            file.write(text.ljust(offsets - words, b"\0"))
            file.write(np.full(count, data if tile else 0, "<u8").tobytes())
            file.write(np.full(count, len(tile), "<u8").tobytes())
            file.write(tile.ljust(len(tile) + -len(tile) % 8, b"\0"))


def marked(pixels: np.ndarray, colour: tuple[int, int, int], width: int) -> np.ndarray:
    """A slide with a stroke of a marker across it."""
    return cv2.line(pixels.copy(), (0, 120), (1000, 700), colour, width)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A sound slide of 1000 x 800 pixels at 0.5 mpp with three levels."""
    path = tmp_path_factory.mktemp("good") / "good.svs"
    render_slide(path, TissueParameters(0.5, 0.5, 0.5), size=(1000, 800), mpp=0.5, seed=1)
    return path


@pytest.fixture(scope="module")
def pixels(good) -> np.ndarray:
    """What the sound slide shows, (800, 1000, 3) RGB."""
    return tifffile.imread(good, key=0)


def test_a_suffix_in_capitals_is_read_like_another(good, tmp_path):
    from tiacrossfusion.slides.slide import open_slide

    shutil.copy(good, tmp_path / "slide.SVS")
    with open_slide(good) as plain, open_slide(tmp_path / "slide.SVS") as slide:
        assert (slide.mpp, slide.dimensions) == (plain.mpp, plain.dimensions)


# --- many bad slides in one folder -------------------------------------------------------------

#: What fails, and words of the line on it.
FAILS: dict[str, tuple[str, ...]] = {
    "text.svs": ("not a slide that TIAToolbox can open", "copy it again"),
    "html.svs": ("not a slide that TIAToolbox can open",),
    "zip.svs": ("not a slide that TIAToolbox can open",),
    "photo-png.svs": ("not a slide that TIAToolbox can open",),
    "photo-jpeg.svs": ("not a slide that TIAToolbox can open",),
    "photo-png.tif": ("not a slide that TIAToolbox can open", "not a TIFF file"),
    "slide.txt": ('".txt"', "the suffix of its format"),
    "list.json": ('".json"',),
    "zero.svs": ("the file is empty", "copy it again"),
    "folder.svs": ("a folder without DICOM files", "give a slide file"),
    "link.svs": ("a link to a file that is not there",),
    "ring.svs": ("a link to a file that is not there",),
    "mpp-zero.svs": ("0 x 0 microns per pixel", "--mpp"),
    "mpp-negative.svs": ("-0.5 x -0.5 microns per pixel", "--mpp"),
    "mpp-small.svs": ("1e-09 x 1e-09 microns per pixel", "--mpp"),
    "mpp-large.svs": ("1e+06 x 1e+06 microns per pixel", "--mpp"),
    "mpp-inf.svs": ("inf x inf microns per pixel", "--mpp"),
    "mpp-none.svs": NO_SCALE,
    "power-zero.svs": NO_SCALE,
    "power-nan.svs": NO_SCALE,
    "power-large.svs": NO_SCALE,
    "level-on-its-side.svs": ("width and height are swapped", "800 x 1000", "250 x 200"),
    "level-of-another-shape.ome.tif": (
        "a level of 500 x 50 pixels is no smaller copy of the first",
    ),
    "strips-on-their-side.svs": ("damaged", "copy it again"),
    "rgb-float.tif": ("32 bits a sample", "convert it to"),
    "rgb-float.svs": ("32 bits a sample", "convert it to"),
    "pixel.svs": ("1 x 1 pixels are less than one 20x patch", "256 x 256"),
    "row.tif": ("1000 x 1 pixels are less than one 20x patch",),
    "white.svs": (NO_TISSUE, "--masks"),
    "pink.svs": (NO_TISSUE, "--masks"),
    "black.svs": ("dark background", "--masks"),
    "broad-black-pen.svs": ("dark background", "--masks"),
    "thin-pen.svs": (NO_TISSUE, "--masks"),
    "empty.svs": ("a level of 200000 x 200000 pixels is empty", "none of its 611524 tiles"),
    "empty.tif": ("a level of 200000 x 200000 pixels is empty", "copy the file again"),
    "empty-level.svs": ("a level of 25000 x 25000 pixels is empty",),
}

#: What is read, and words of the remark on it; none where there is nothing to remark.
READS: dict[str, tuple[str, ...]] = {
    "good.svs": (),
    "svs-in-truth.ndpi": (),
    "svs-in-truth.tif": (),
    "levels.ome.tif": (),
    "level-0.svs": (),
    "levels-0-and-16.svs": (),
    "mpp-text.svs": ("states no microns per pixel, taken as 0.5 by its objective power 20",),
    "mpp-nan.svs": ("states no microns per pixel",),
    "mpp-comma.svs": (),
    "power-large-with-mpp.svs": (),
    "header-on-its-side.svs": ("the header says 800 x 1000 pixels while the image has 1000 x 800",),
    "tags-on-their-side.svs": ("the header says 1000 x 800 pixels while the image has 800 x 1000",),
    "rgb.svs": (),
    "planes.tif": (),
    "slide.jp2": (),  # a TIFF by its content
    "slide.jpg": (),
    "cmyk.tif": (),
    "ycbcr.tif": (),
    "rgb-16.tif": ("16 bits a sample, of which the upper 8 are read",),
    "grey.tif": (GREY,),
    "grey-and-more.tif": (GREY,),
    "palette.tif": (GREY,),
    "rgba.svs": (),
    "cmyk.svs": (),
    "ycbcr.svs": (),
    "rgb-16.svs": ("16 bits a sample, of which the upper 8 are read",),
    "grey.svs": (GREY,),
    "grey-inverted.svs": (GREY,),
    "grey-16.svs": (GREY, "16 bits a sample"),
    "grey-in-rgb.tif": (GREY,),
    "palette.svs": (GREY,),
    "small.svs": (),
    "all-tissue.svs": (),
    "pen.svs": (),
    "broad-pen.svs": (),
}


def make_slides(folder: Path, good: Path, pixels: np.ndarray) -> None:
    """Write every slide of `FAILS` and `READS`."""

    def copy(*names: str) -> None:
        for name in names:
            shutil.copy(good, folder / name)

    def slide(name: str, content: np.ndarray = pixels, **options: object) -> None:
        write(folder / name, content, **options)

    def raw(name: str, content: np.ndarray, **options: object) -> None:
        slide(name, content, **{"compression": "zlib", "factors": (1,)} | options)

    photos = {suffix: cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".png", ".jpg")}
    (folder / "text.svs").write_text("not a slide")
    (folder / "html.svs").write_text("<!DOCTYPE html><html><body>Please log in</body></html>")
    with zipfile.ZipFile(folder / "zip.svs", "w") as archive:
        archive.write(good, "good.svs")
    (folder / "photo-png.svs").write_bytes(photos[".png"])
    (folder / "photo-png.tif").write_bytes(photos[".png"])
    (folder / "photo-jpeg.svs").write_bytes(photos[".jpg"])
    (folder / "list.json").write_text(
        '{".zgroup": "{}", "0/0": ["http://localhost:9/slide.tif", 0, 9]}'
    )
    copy("slide.jp2", "slide.txt", "slide.jpg", "good.svs")
    copy("svs-in-truth.ndpi", "svs-in-truth.tif", "strips-on-their-side.svs")
    swap_sizes(folder / "strips-on-their-side.svs")
    (folder / "zero.svs").touch()
    (folder / "folder.svs").mkdir()
    (folder / "link.svs").symlink_to(folder / "nowhere.svs")
    (folder / "ring.svs").symlink_to(folder / "ring.svs")

    slide("level-0.svs", factors=(1,))
    slide("levels-0-and-16.svs", factors=(1, 16))
    for name, mpp in (
        *(("zero", "0"), ("negative", "-0.5"), ("small", "1e-9"), ("large", "1e6")),
        *(("inf", "inf"), ("nan", "nan"), ("text", "half a micron"), ("comma", "0,5")),
    ):
        slide(f"mpp-{name}.svs", mpp=mpp)
    slide("mpp-none.svs", said="Aperio Image Library\r\n")
    no_mpp = "Aperio Image Library\r\n|AppMag = {power}"
    for name, power in (("zero", "0"), ("nan", "nan"), ("large", "1e9")):
        slide(f"power-{name}.svs", power=power, said=no_mpp)
    slide("power-large-with-mpp.svs", power="1e9")
    slide("header-on-its-side.svs", said="Aperio Image Library\r\n800x1000|AppMag = 20|MPP = 0.5")
    slide("level-on-its-side.svs")
    swap_sizes(folder / "level-on-its-side.svs", 0)
    for name, rows in (("levels.ome.tif", 800), ("level-of-another-shape.ome.tif", 100)):
        scale = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "axes": "YXS"}
        with tifffile.TiffWriter(folder / name, ome=True) as tiff:
            how: dict = {"photometric": "rgb", "compression": "zlib", "tile": (256, 256)}
            tiff.write(pixels, subifds=1, metadata=scale, **how)
            tiff.write(pixels[:rows:2, ::2], subfiletype=1, **how)
    slide("tags-on-their-side.svs")
    swap_sizes(folder / "tags-on-their-side.svs")

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    black = {"photometric": "minisblack"}
    slide("grey.svs", grey, **black)
    slide("grey.tif", grey, **black)
    raw("grey-16.svs", grey.astype(np.uint16) * 257, **black)
    raw("grey-inverted.svs", 255 - grey, photometric="miniswhite")
    slide("grey-in-rgb.tif", cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
    colours = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)
    for name in ("palette.svs", "palette.tif"):
        raw(name, grey, photometric="palette", colormap=colours)
    raw("grey-and-more.tif", pixels[..., :2].copy(), planarconfig="contig", **black)
    raw("rgb.svs", pixels)
    full = np.full_like(grey, 255)
    raw("rgba.svs", np.dstack([pixels, full]), extrasamples=["unassalpha"])
    raw("planes.tif", np.ascontiguousarray(pixels.transpose(2, 0, 1)), planarconfig="separate")
    inks = np.dstack([255 - pixels, np.zeros_like(grey)])
    y, cr, cb = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb))
    for suffix in (".svs", ".tif"):
        raw(f"cmyk{suffix}", inks, photometric="separated")
        raw(f"ycbcr{suffix}", cv2.merge([y, cb, cr]), photometric="ycbcr")
        raw(f"rgb-16{suffix}", pixels.astype(np.uint16) * 257)
        raw(f"rgb-float{suffix}", (pixels / 255).astype(np.float32))

    raw("pixel.svs", pixels[:1, :1])
    raw("row.tif", pixels[:1])
    slide("small.svs", pixels[200:500, 300:700])
    glass = np.full_like(pixels, 243)
    slide("white.svs", np.full_like(pixels, 255))
    slide("pink.svs", np.full_like(pixels, (200, 120, 160)))
    slide("black.svs", np.zeros_like(pixels))
    slide("all-tissue.svs", cv2.resize(pixels[250:550, 250:750], (1000, 800)))
    slide("pen.svs", marked(pixels, (40, 60, 160), 40))
    slide("thin-pen.svs", marked(glass, (50, 140, 80), 40))
    slide("broad-pen.svs", marked(glass, (40, 60, 160), 250))
    slide("broad-black-pen.svs", marked(glass, (20, 20, 25), 250))

    write_sparse(folder / "empty.svs", [200_000, 50_000], b"")
    shutil.copy(folder / "empty.svs", folder / "empty.tif")
    write_sparse(folder / "empty-level.svs", [25_000], b"")


@pytest.fixture(scope="module")
def extracted(good, pixels, tmp_path_factory) -> Run:
    """One run over all of them."""
    folder = tmp_path_factory.mktemp("catalogue")
    make_slides(folder / ".", good, pixels)
    return run("extract", folder, tmp_path_factory.mktemp("bags") / "bags", "--file-types", "*.*")


def test_every_slide_of_the_folder_is_accounted_for(extracted):
    assert extracted.exit_code == 1
    assert set(extracted.rows) == {*FAILS, *READS}
    assert f"{len(READS)} of {len(FAILS) + len(READS)} slides done" in extracted.output
    assert f"{len(FAILS)} failed" in extracted.output
    assert len(list(extracted.out.glob("*.zarr"))) == len(READS)


@pytest.mark.parametrize("name", FAILS)
def test_what_is_no_fit_slide_fails_in_one_line(extracted, name):
    extracted.assert_failed(name, *FAILS[name])


@pytest.mark.parametrize("name", READS)
def test_what_can_be_read_is_read_with_its_remark(extracted, name):
    extracted.assert_done(name, *READS[name])
    assert all(extracted.bag(name).counts().values())


@pytest.mark.parametrize("name", ["rgba.svs", "cmyk.svs", "rgb-16.svs"])
def test_what_is_converted_has_the_features_of_rgb(extracted, name):
    plain, converted = extracted.bag("rgb.svs"), extracted.bag(name)
    np.testing.assert_array_equal(converted.scales["20x"].features, plain.scales["20x"].features)


def test_missing_levels_change_no_place_and_little_else(extracted):
    """Without low levels the mask is averaged from level 0: patches at the edge may come or go."""
    whole = extracted.bag("good.svs")
    for name in ("level-0.svs", "levels-0-and-16.svs"):
        cells = {tuple(cell) for cell in extracted.bag(name).scales["20x"].grid.tolist()}
        assert len(cells ^ {tuple(cell) for cell in whole.scales["20x"].grid.tolist()}) <= 1


def test_a_broad_stroke_of_a_pen_counts_as_tissue(extracted):
    """A known limit: tissue is told by darkness, so a mask is needed on slides with broad marks."""
    assert extracted.bag("broad-pen.svs").counts()["20x"] > 0


# --- the same through prediction and Python ----------------------------------------------------

COMMON = ("text.svs", "zero.svs", "rgb-float.tif", "pixel.svs", "rgb-float.svs")


@pytest.fixture(scope="module")
def predicted(extracted, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("common")
    for name in (*COMMON, "grey.svs", "good.svs", "mpp-text.svs"):
        shutil.copy(extracted.slides / name, folder)
    return run("predict", folder, tmp_path_factory.mktemp("out") / "out", "--no-attribution")


@pytest.mark.parametrize("name", COMMON)
def test_prediction_names_them_too(predicted, name):
    predicted.assert_failed(name, *FAILS[name])
    assert predicted.rows[name]["risk"] == ""


@pytest.mark.parametrize("name", ["grey.svs", "good.svs", "mpp-text.svs"])
def test_prediction_does_the_others(predicted, name):
    predicted.assert_done(name, *READS[name])
    assert (predicted.out / f"{Path(name).stem}.geojson").exists()
    assert float(predicted.rows[name]["risk"]) < 0


def test_a_bag_remembers_that_its_slide_is_grey(extracted, tmp_path):
    arguments = ["predict", "--bags", str(extracted.out / "grey.svs.zarr"), "--no-attribution"]
    result = CliRunner().invoke(main, [*arguments, "--output-path", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert GREY in result.output


def test_the_engine_leaves_them_out_and_says_why(extracted):
    slides = [extracted.slides / name for name in ("good.svs", *COMMON[:3], "grey.svs")]
    predictor = SurvivalPredictor(num_workers=0)
    results = predictor.run(slides)
    assert set(results) == {slides[0], slides[-1]}
    assert GREY in results[slides[-1]]["message"]
    for slide, outcome in zip(slides[1:4], predictor.outcomes[1:4], strict=True):
        assert outcome.status == "failed"
        assert outcome.message.startswith(f"{slide}: ")
        assert all(word in outcome.message for word in FAILS[slide.name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pixels: pixels.astype(np.uint16) * 257, "uint16, not 8 bits"),
        (lambda pixels: (pixels / 255).astype(np.float32), "float32, not 8 bits"),
        (lambda pixels: pixels[..., 0], "1 samples a pixel"),
        (lambda pixels: pixels[:1, :1], "1 x 1 pixels are less than one 20x patch"),
    ],
)
def test_arrays_that_are_no_picture_in_rgb_are_refused(pixels, change, words):
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    predictor = SurvivalPredictor(num_workers=0)
    assert predictor.run([VirtualWSIReader(change(pixels), mpp=0.5)]) == {}
    assert words in predictor.outcomes[0].message


def test_patches_that_come_in_another_size_count_as_unreadable(pixels, monkeypatch, caplog):
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    whole = VirtualWSIReader.read_rect

    def read_rect(self, location, size, **options):
        read = whole(self, location, size, **options)
        return read[:-1] if size == (256, 256) else read

    monkeypatch.setattr(VirtualWSIReader, "read_rect", read_rect)
    predictor = SurvivalPredictor(num_workers=0)
    assert predictor.run([VirtualWSIReader(pixels, mpp=0.5)]) == {}
    assert "no patch can be read" in predictor.outcomes[0].message
    assert "256 x 255 pixels came for 256 x 256" in caplog.text


def test_a_scale_given_by_the_user_helps_where_the_file_has_none(extracted, tmp_path):
    for name, option in (("mpp-none.svs", "--mpp=0.5"), ("power-zero.svs", "--power=20")):
        done = run("extract", extracted.slides / name, tmp_path / name, option)
        assert done.exit_code == 0, done.output


# --- cut off -----------------------------------------------------------------------------------

TENTHS = range(1, 10)


@pytest.fixture(scope="module")
def cut(good, pixels, tmp_path_factory) -> Run:
    """Slides cut at every tenth: one with three levels, and one whose tags come before its tiles."""
    folder = tmp_path_factory.mktemp("cut")
    write(folder / "tall.tif", np.tile(pixels, (4, 1, 1)), factors=(1,), said="")
    for source, name in ((good, "levels-{}.svs"), (folder / "tall.tif", "tall-{}.tif")):
        content = source.read_bytes()
        for tenth in TENTHS:
            cut_short = content[: len(content) * tenth // 10]
            (folder / name.format(tenth)).write_bytes(cut_short)
    return run("extract", folder, tmp_path_factory.mktemp("cut-bags") / "bags")


@pytest.mark.parametrize("tenth", TENTHS)
def test_a_slide_that_lost_its_tags_is_refused(cut, tenth):
    cut.assert_failed(f"levels-{tenth}.svs", "damaged", "copy it again")


@pytest.mark.parametrize("tenth", TENTHS)
def test_a_slide_that_lost_its_last_tiles_is_read_up_to_them(cut, tenth):
    name = f"tall-{tenth}.tif"
    if cut.rows[name]["status"] == "failed":
        assert tenth <= 4, "more than the first row of 5x patches is there"
        cut.assert_failed(name, "damaged", "copy it again")
        return
    cut.assert_done(name, "patches that cannot be read were left out", "not copied to its end")
    whole, rest = cut.bag("tall.tif"), cut.bag(name)
    assert int(cut.rows[name]["dropped_20x"]) > 0
    for scale in SCALES:
        all_of, some_of = whole.scales[scale], rest.scales[scale]
        assert len(some_of) < len(all_of)
        where = {tuple(cell): index for index, cell in enumerate(all_of.grid.tolist())}
        # What the mask takes for tissue depends on what can be seen of the slide.
        both = [
            (where[tuple(cell)], index)
            for index, cell in enumerate(some_of.grid.tolist())
            if tuple(cell) in where
        ]
        assert both
        theirs, ours = np.array(both).T
        np.testing.assert_array_equal(some_of.features[ours], all_of.features[theirs])


# --- rights, names, size -----------------------------------------------------------------------


def test_a_slide_that_may_not_be_read_is_named(good):
    folder = Path(tempfile.mkdtemp())  # others may enter it, unlike pytest's
    try:
        for path in (folder, *(folder / name for name in ("in", "out", "locked"))):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        shutil.copy(good, folder / "in" / "good.svs")
        for path in (folder / "in" / "private.svs", folder / "locked" / "slide.svs"):
            shutil.copy(good, path)
            path.chmod(0)
        (folder / "in" / "beyond.svs").symlink_to(folder / "locked" / "slide.svs")
        (folder / "locked").chmod(0)
        root = os.geteuid() == 0
        if root:
            run("extract", good, folder / "first")  # all is imported while that is allowed
            os.seteuid(65534)
        try:
            done = run("extract", folder / "in", folder / "out" / "bags")
        finally:
            if root:
                os.seteuid(0)
        assert done.exit_code == 1
        done.assert_failed("private.svs", "permission denied", "ask for the right")
        done.assert_failed("beyond.svs", "permission denied")
        done.assert_done("good.svs")
    finally:
        (folder / "locked").chmod(0o777)
        shutil.rmtree(folder)


NAMES = {
    "spaces": "a slide  of mine.svs",
    "quotes": 'it\'s "the" `one`.svs',
    "composed": unicodedata.normalize("NFC", "é.svs"),
    "decomposed": unicodedata.normalize("NFD", "é.svs"),
    "commas": "a,b;c\t.svs",
    "leading dash": "-slide.svs",
    "patterns": "*[1]?{}%s$HOME~.svs",
    "backslash": "a\\b.svs",
    "upper case": "CASE.svs",
    "lower case": "case.svs",
    "two suffixes": "case.svs.svs",
    "line": "new\nline.svs",
    "long": "x" * 251 + ".svs",
    "long, alike": "x" * 250 + "y.svs",
    "long, wide": "é" * 125 + ".svs",
}


@pytest.fixture(scope="module")
def named(good, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    for name in NAMES.values():
        os.link(good, folder / name)
    os.link(good, folder / os.fsdecode(b"bad\xff.svs"))
    return folder


@pytest.fixture(scope="module")
def named_bags(named, tmp_path_factory) -> Run:
    return run("extract", named, tmp_path_factory.mktemp("named-bags") / "bags")


@pytest.mark.parametrize("kind", NAMES)
def test_any_name_will_do(named_bags, kind):
    row = named_bags.rows[NAMES[kind]]
    assert (row["status"], row["message"]) == ("ok", "")
    bag = FeatureBag.load(named_bags.out / row["bag"])
    assert bag.provenance.slide == NAMES[kind]
    shown = NAMES[kind].replace("\n", "\\n").replace("\t", "\\t")
    assert f"ok      {shown}: " in named_bags.output


def test_names_do_not_get_into_each_others_way(named_bags):
    assert len({row["bag"] for row in named_bags.rows.values() if row["bag"]}) == len(NAMES)
    assert len(list(named_bags.out.glob("*.zarr"))) == len(NAMES)


def test_a_name_that_is_no_text_is_refused(named_bags):
    assert named_bags.exit_code == 1
    row = named_bags.rows["bad\\udcff.svs"]
    assert row["status"] == "failed"
    assert "rename it" in row["message"]
    assert sum(line.startswith("FAILED") for line in named_bags.output.splitlines()) == 1


def test_prediction_takes_such_names_too(named, tmp_path):
    (tmp_path / "in").mkdir()
    kinds = ("quotes", "line", "long")
    for kind in kinds:
        os.link(named / NAMES[kind], tmp_path / "in" / NAMES[kind])
    done = run("predict", tmp_path / "in", tmp_path / "out", "--no-attribution")
    assert done.exit_code == 0, done.output
    outputs = {done.rows[NAMES[kind]]["output"] for kind in kinds}
    assert len(outputs) == len(kinds)
    assert all((tmp_path / "out" / f"{output}_attention.png").exists() for output in outputs)


def test_a_leading_dash_on_the_command_line(named, tmp_path, monkeypatch):
    monkeypatch.chdir(named)
    done = run("extract", Path("-slide.svs"), tmp_path / "out")
    assert done.exit_code == 0


def test_a_huge_slide_of_glass_is_looked_at_in_parts(tmp_path):
    import tracemalloc

    glass = np.full((256, 256, 3), 243, np.uint8)
    tile = imagecodecs.jpeg8_encode(glass, level=80, colorspace="rgb", outcolorspace="rgb")
    (tmp_path / "in").mkdir()
    write_sparse(tmp_path / "in" / "huge.svs", [70_000, 4_375], tile)
    tracemalloc.start()
    try:
        done = run("extract", tmp_path / "in", tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    done.assert_failed("huge.svs", NO_TISSUE)
    assert peak < 300 * 2**20  # the slide would take 14 GB


# --- masks -------------------------------------------------------------------------------------

SQUARE = [[100, 100], [900, 100], [900, 700], [100, 700], [100, 100]]
BOW_TIE = [[100, 100], [900, 700], [900, 100], [100, 700], [100, 100]]
ONES = np.full((80, 100), 255, np.uint8)


def polygon(*rings: list[list[float]]) -> dict:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": list(rings)},
        "properties": {},
    }


def collection(*features: dict) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


def geometry(kind: str, coordinates: object) -> dict:
    return {"type": kind, "coordinates": coordinates}


#: Content of a mask file, and words of the line on it.
UNFIT_MASKS: dict[str, tuple[object, tuple[str, ...]]] = {
    "on-its-side.png": (ONES.T, ("80 x 100 does not have the shape", "1000 x 800")),
    "one-pixel.png": (ONES[:1, :1], ("1 x 1 is too coarse", "more pixels")),
    "coarse.png": (ONES[:2, :3], ("3 x 2 is too coarse", "more pixels")),
    "zeros.png": (ONES * 0, ("the mask is empty",)),
    "cut-off.png": (cv2.imencode(".png", ONES)[1].tobytes()[:60], ("cannot be read",)),
    "nan.npy": (np.full((80, 100), np.nan), ("8000 values that are not finite", "save it as 0")),
    "some-nan.npy": (np.where(ONES.cumsum(1) > 9e3, np.nan, 1.0), ("not finite",)),
    "text.npy": (np.full((80, 100), "tissue"), ("type <U6", "save it as 0")),
    "complex.npy": (np.full((80, 100), 1j), ("type complex128",)),
    "objects.npy": (np.full((80, 100), None, dtype=object), ("cannot be read",)),
    "pickled.npy": (pickle.dumps(ONES), ("cannot be read", "pickled")),
    "channels-first.npy": (np.ones((3, 80, 100), bool), ("does not have the shape",)),
    "scalar.npy": (np.array(1), ("(height, width)",)),
    "nothing.geojson": (collection(), ("no area in it",)),
    "points.geojson": (geometry("Point", [300, 300]), ("no area in it", "QuPath")),
    "line.geojson": (geometry("LineString", SQUARE), ("no area in it",)),
    "no-area.geojson": (polygon([[10, 10]] * 4), ("no area in it",)),
    "small-area.geojson": (
        polygon([[10, 10], [30, 10], [30, 30], [10, 10]]),
        ("no tissue by its mask", "mark more of it"),
    ),
    "elsewhere.geojson": (polygon([[x + 5000, y] for x, y in SQUARE]), ("lie outside",)),
    "damaged.geojson": (b'{"type": "Feat', ("not a GeoJSON file",)),
    "other.json": ({"a": 1}, ("not a GeoJSON file",)),
    "list.json": ([1, 2], ("not a GeoJSON file",)),
    "nan.geojson": (b'{"type": "Polygon", "coordinates": [[[NaN, 1]]]}', ("not a GeoJSON file",)),
    "inf.geojson": (
        b'{"type": "Polygon", "coordinates": [[[1e400, 1], [2, 3], [4, 5], [1e400, 1]]]}',
        ("not a GeoJSON file",),
    ),
    "deep.geojson": (b"[" * 10**5 + b"]" * 10**5, ("not a GeoJSON file",)),
    "latin.geojson": (b"\xff\xfe{}", ("not a GeoJSON file",)),
}

#: Content of a mask file, and the number of 20x patches on a slide of 4 x 4 (some reach beyond it).
FIT_MASKS: dict[str, tuple[object, int]] = {
    "ones.png": (ONES, 16),
    "sixteen-bits.png": (ONES.astype(np.uint16) * 257, 16),
    "labels.npy": (np.ones((80, 100), int) * 3, 16),
    "self-crossing.geojson": (polygon(BOW_TIE), 4),
    "partly-outside.geojson": (polygon([[x + 500, y] for x, y in SQUARE]), 5),
    "with-an-empty-one.geojson": (collection(polygon(SQUARE), polygon()), 9),
}


@pytest.fixture(scope="module")
def masked(good, tmp_path_factory) -> Run:
    slides, masks = tmp_path_factory.mktemp("masked"), tmp_path_factory.mktemp("masks")
    for name, (content, _) in (UNFIT_MASKS | FIT_MASKS).items():
        path = masks / f"{name}{Path(name).suffix}"  # of the slide "<name>.svs"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".npy":
            np.save(path, content, allow_pickle=True)
        elif path.suffix == ".png":
            cv2.imwrite(str(path), content)
        else:
            path.write_text(json.dumps(content))
        os.link(good, slides / f"{name}.svs")
    os.link(good, slides / "without-one.svs")
    out = tmp_path_factory.mktemp("masked-bags") / "bags"
    return run("extract", slides, out, "--masks", str(masks))


@pytest.mark.parametrize("name", UNFIT_MASKS)
def test_unfit_masks_are_refused_in_one_line(masked, name):
    row = masked.rows[f"{name}.svs"]
    (line,) = [x for x in masked.output.splitlines() if x == f"FAILED  {row['message']}"]
    assert name in line
    for word in UNFIT_MASKS[name][1]:
        assert word in line
    assert not (masked.out / f"{name}.zarr").exists()


@pytest.mark.parametrize("name", FIT_MASKS)
def test_odd_masks_that_can_be_understood_are_taken(masked, name):
    masked.assert_done(f"{name}.svs")
    assert masked.bag(f"{name}.svs").counts()["20x"] == FIT_MASKS[name][1]


def test_a_slide_without_a_mask_of_its_name_is_refused(masked):
    assert masked.rows["without-one.svs"]["status"] == "failed"
    assert "no mask for without-one.svs" in masked.rows["without-one.svs"]["message"]


def test_a_mask_of_another_slide_is_told_by_its_shape_alone(good, tmp_path):
    cv2.imwrite(str(tmp_path / "other.png"), np.full((100, 100), 255, np.uint8))
    arguments = ["extract", "--img-input", str(good), "--output-path", str(tmp_path / "bags")]
    result = CliRunner().invoke(main, [*arguments, "--masks", str(tmp_path / "other.png")])
    assert_failed(result, "other.png", "does not have the shape of good.svs (1000 x 800)")
