"""One picture in many containers: which picture is the slide, at which scale, with the same features."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.inference.extraction import extract_bag, tissue_grids
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import render_slide
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.slide import open_slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec

SIDE, MPP = 2048, 0.5
TILES = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
JPEG = {"compression": "jpeg", "compressionargs": {"level": 95}}
SCALE = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}


@pytest.fixture(scope="module")
def pixels(tmp_path_factory) -> np.ndarray:
    path = tmp_path_factory.mktemp("drawn") / "drawn.svs"
    render_slide(path, TissueParameters(0.6, 0.5, 0.6), size=(SIDE, SIDE), mpp=MPP, seed=5)
    return tifffile.imread(path)


def smaller(pixels: np.ndarray, factor: int) -> np.ndarray:
    side = pixels.shape[0] // factor
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def pyramid(path: Path, pixels: np.ndarray, factors: tuple[int, ...], **options: object) -> Path:
    """A tiled pyramid as vips writes it."""
    bigtiff = bool(options.pop("bigtiff", False))
    every = bool(options.pop("every", False))
    said = dict(options.pop("said", SCALE))
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as file:
        file.write(pixels, **said, **TILES, **JPEG | options)
        for factor in factors:
            level = pixels[::factor, ::factor] if every else smaller(pixels, factor)
            file.write(np.ascontiguousarray(level), subfiletype=1, **TILES, **JPEG | options)
    return path


def aperio(path: Path, pixels: np.ndarray, factors: tuple[int, ...], said: str) -> Path:
    with tifffile.TiffWriter(path) as file:
        for factor in (1, *factors):
            level = smaller(pixels, factor) if factor > 1 else pixels
            text = f"Aperio Image Library\r\n{SIDE}x{SIDE}|{said}"
            file.write(level, description=text, subfiletype=int(factor > 1), **TILES, **JPEG)
    return path


def ome(path: Path, pixels: np.ndarray, factors: tuple[int, ...]) -> Path:
    size = {"PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": MPP}
    options = {"tile": (256, 256), "photometric": "rgb", **JPEG}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as file:
        file.write(pixels, subifds=len(factors), metadata={"axes": "YXS", **size}, **options)
        for factor in factors:
            file.write(smaller(pixels, factor), subfiletype=1, **options)
    return path


def bag_of(path: Path) -> FeatureBag:
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((MPP, MPP), rel=1e-4)
        assert slide.dimensions == (SIDE, SIDE)
        assert "microns" not in slide.caveat
        return extract_bag(slide, SamplingSpec(), load_encoder("stain-texture"), ReadOptions())


CONTAINERS = {
    "aperio.svs": lambda path, pixels: aperio(path, pixels, (4,), f"AppMag = 20|MPP = {MPP}"),
    "flat.tif": lambda path, pixels: pyramid(path, pixels, ()),
    "vips.tif": lambda path, pixels: pyramid(path, pixels, (2, 4, 8)),
    "vips-big.tiff": lambda path, pixels: pyramid(path, pixels, (2, 4, 8), bigtiff=True),
    "every-nth.tif": lambda path, pixels: pyramid(path, pixels, (2, 4, 8), every=True),
    "pyramid.ome.tif": lambda path, pixels: ome(path, pixels, (2, 4, 8)),
}


@pytest.fixture(scope="module")
def lossless(pixels, tmp_path_factory) -> FeatureBag:
    path = tmp_path_factory.mktemp("lossless") / "slide.tif"
    return bag_of(pyramid(path, pixels, (4,), compression="zlib", compressionargs={}))


@pytest.mark.parametrize("name", CONTAINERS)
def test_one_picture_has_the_same_features_in_every_container(pixels, lossless, tmp_path, name):
    found = bag_of(CONTAINERS[name](tmp_path / name, pixels))
    for scale in SCALES:
        wanted, got = lossless.scales[scale], found.scales[scale]
        assert abs(len(got) - len(wanted)) <= max(1, 0.02 * len(wanted))
        where = {tuple(cell): row for row, cell in enumerate(wanted.grid.tolist())}
        both = [(where[c], n) for n, c in enumerate(map(tuple, got.grid.tolist())) if c in where]
        ours, theirs = np.array(both).T
        difference = got.features[theirs].astype(float) - wanted.features[ours]
        sd = lossless.scales["20x"].features.astype(float).std(axis=0) + 0.05
        assert np.abs(difference / sd).mean() < 0.1


# --- which picture -----------------------------------------------------------------------------


def test_an_overview_or_label_before_the_slide_is_not_the_slide(pixels, tmp_path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(smaller(pixels, 4), photometric="rgb", metadata=None, rowsperstrip=16)
        file.write(pixels, **SCALE, **TILES, **JPEG)
        file.write(smaller(pixels, 4), subfiletype=1, **TILES, **JPEG)
    with open_slide(path) as slide:
        assert slide.dimensions == (SIDE, SIDE)
        assert slide.mpp == pytest.approx((MPP, MPP))  # of its own page, not of the first
        assert slide.caveat == ""
        found = slide.reader.read_rect((700, 700), (200, 200), resolution=0, units="level")
    assert np.abs(found[..., :3].astype(int) - pixels[700:900, 700:900]).mean() < 5


def test_two_scanned_regions_are_named_and_each_can_be_chosen(pixels, tmp_path):
    path = tmp_path / "two.ome.tif"
    second = np.ascontiguousarray(pixels[:1536, :1536])
    said = {"axes": "YXS", "PhysicalSizeY": MPP, "PhysicalSizeX": MPP}
    with tifffile.TiffWriter(path, ome=True) as file:
        for region, mpp in ((second, 0.25), (pixels, MPP)):
            sizes = said | {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            file.write(region, tile=(256, 256), photometric="rgb", metadata=sizes, **JPEG)
    with open_slide(path) as slide:
        assert slide.dimensions == (SIDE, SIDE)
        assert slide.mpp == (MPP, MPP)
        assert "series 1 (2048 x 2048) is read, not series 0 (1536 x 1536)" in slide.caveat
    with open_slide(path, series=0) as slide:
        assert slide.dimensions == (1536, 1536)
        assert slide.mpp == (0.25, 0.25)
        assert slide.caveat == ""
    with pytest.raises(UsageError, match="no series 5"):
        open_slide(path, series=5)


def test_an_overview_in_colour_is_not_the_slide_of_a_fluorescence_scan(pixels, tmp_path):
    path = tmp_path / "channels.ome.tif"
    channels = np.stack([pixels[..., 0].astype(np.uint16) * 200] * 4)
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(smaller(pixels, 4), photometric="rgb", metadata={"axes": "YXS"})
        said = {"axes": "CYX", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
        file.write(channels, tile=(256, 256), photometric="minisblack", metadata=said)
    with pytest.raises(TiacfError, match=r"convert it to a tiled TIFF or SVS in RGB"):
        open_slide(path, mpp=MPP)


def test_a_large_picture_in_one_piece_is_refused_before_it_is_decoded(
    pixels, tmp_path, monkeypatch
):
    monkeypatch.setattr("tiacrossfusion.slides.opening.MOST_AT_ONCE", SIDE * SIDE - 1)
    strip = tmp_path / "strip.tif"
    tifffile.imwrite(strip, pixels, photometric="rgb", rowsperstrip=SIDE, metadata=None, **SCALE)
    cv2.imwrite(str(tmp_path / "flat.png"), pixels)
    for path in (strip, tmp_path / "flat.png"):
        with pytest.raises(TiacfError, match="decoded at once; convert it to a tiled pyramid"):
            open_slide(path, mpp=MPP)
    rows = tmp_path / "rows.tif"
    tifffile.imwrite(rows, pixels, photometric="rgb", rowsperstrip=16, metadata=None, **SCALE)
    with open_slide(rows) as slide:
        assert slide.dimensions == (SIDE, SIDE)


# --- which scale -------------------------------------------------------------------------------


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200, 4800])
def test_the_resolution_of_a_printer_is_no_scale(pixels, tmp_path, dpi):
    said = {"resolution": (dpi, dpi), "resolutionunit": "INCH"}
    path = pyramid(tmp_path / "slide.tif", pixels[:1024, :1024], (), said=said)
    with pytest.raises(TiacfError, match=f"{dpi} dpi is no microscope's; give one with --mpp"):
        open_slide(path)
    with open_slide(path, mpp=MPP) as slide:
        assert slide.mpp == (MPP, MPP)


@pytest.mark.parametrize(
    ("said", "mpp", "words"),
    [
        ("AppMag = 20|MPP = 0.5", 0.5, ()),
        ("AppMag = 40|MPP = 0.5", 0.5, ("objective power 40 means about 0.25", "--mpp settles it")),
        ("AppMag = 20|MPP = 0.23", 0.23, ("objective power 20 means about 0.5",)),
        ("AppMag = 40", 0.25, ("states no microns per pixel", "objective power 40")),
    ],
)
def test_sources_of_the_scale_are_ranked_and_contradictions_told(
    pixels, tmp_path, said, mpp, words
):
    with open_slide(aperio(tmp_path / "slide.svs", pixels, (4,), said)) as slide:
        assert slide.mpp == (mpp, mpp)
        assert all(word in slide.caveat for word in words)
        assert bool(slide.caveat) == bool(words)


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [
        (500, "nm", 0.5),
        (0.0005, "mm", 0.5),
        (0.5, "um", 0.5),
        (1, "pixel", None),
        (1.96850394e-5, "in", 0.5),
    ],
)
def test_units_of_ome_are_honoured(pixels, tmp_path, size, unit, mpp):
    path = tmp_path / "slide.ome.tif"
    said = {"axes": "YXS"}
    for axis in "XY":
        said |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels, tile=(256, 256), photometric="rgb", metadata=said, **JPEG)
    if mpp is None:
        with pytest.raises(TiacfError, match=r'"pixel", which is no length'):
            open_slide(path)
        return
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((mpp, mpp), rel=1e-6)


@pytest.mark.parametrize(
    ("mpp", "outcome"), [(0.5, ""), (0.6, "enlarged 1.2 times"), (1.0, "enlarged 2 times")]
)
def test_enlarged_patches_are_remarked_on(pixels, tmp_path, mpp, outcome):
    from tiacrossfusion.slides.patches import coarse_base

    path = pyramid(
        tmp_path / "slide.tif",
        pixels,
        (),
        said={"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": 3},
    )
    with open_slide(path) as slide:
        assert outcome in coarse_base(slide, SamplingSpec())
        assert len(tissue_grids(slide, SamplingSpec(), ReadOptions())[0]["20x"])


def test_patches_that_would_be_enlarged_more_than_twice_are_refused_before_work(pixels, tmp_path):
    path = pyramid(tmp_path / "slide.tif", pixels, ())
    with open_slide(path, mpp=2.0) as slide:
        with pytest.raises(TiacfError, match=r"enlarged 4 times; .*--allow-enlarged"):
            tissue_grids(slide, SamplingSpec(), ReadOptions())
        allowed = ReadOptions(allow_enlarged=True)
        assert len(tissue_grids(slide, SamplingSpec(), allowed)[0]["20x"]) > 100
    with (
        open_slide(path, mpp=29.0) as slide,
        pytest.raises(TiacfError, match="one of the two is wrong"),
    ):
        tissue_grids(slide, SamplingSpec(), ReadOptions(allow_enlarged=True))


@pytest.mark.filterwarnings("ignore:get_frame_offsets")
def test_a_dicom_folder_without_a_dot_in_its_name_is_read(real_slides):
    folder = real_slides / "wsi_dicom_cmu1_small_region"
    with open_slide(folder) as slide, open_slide(real_slides / "CMU-1-Small-Region.svs") as same:
        assert slide.dimensions == same.dimensions
        assert slide.mpp == pytest.approx(same.mpp, rel=1e-3)
        options = ReadOptions(num_workers=1)
        one, other = (
            extract_bag(each, SamplingSpec(), load_encoder("stain-texture"), options)
            for each in (slide, same)
        )
    assert one.counts() == other.counts()
