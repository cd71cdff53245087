"""Tiles decoded here and the slide's own reader give the same patches, and notice the same damage."""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiatoolbox.wsicore.wsireader import VirtualWSIReader, WSIReader

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.batches import read_batches
from tiacrossfusion.slides.grid import PatchGrid, nested_grids
from tiacrossfusion.slides.readers.area_average import AreaAverage
from tiacrossfusion.slides.readers.base import PatchReader
from tiacrossfusion.slides.readers.choice import choose_reader
from tiacrossfusion.slides.readers.tile_cache import TileCache, count_uses
from tiacrossfusion.slides.readers.toolbox_reader import ToolboxReader
from tiacrossfusion.slides.slide import Slide, open_slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.slides.tissue import tissue_mask

SPEC = SamplingSpec()
SMALL = SamplingSpec(patch_size=64)
#: What tiles hold beyond the edge of the picture, where the writer lets one choose.
RED = (255, 0, 0)


@dataclass(frozen=True)
class Coding:
    """How the tiles of a simulated slide are written."""

    compression: str | int
    photometric: str
    subsampling: str = "444"
    shared_tables: bool = False
    predictor: bool = False

    def tile(self, pixels: np.ndarray) -> bytes:
        """Encode (h, w, 3) uint8 RGB."""
        if self.compression == "jpeg":
            return imagecodecs.jpeg8_encode(
                pixels,
                level=90,
                colorspace="rgb",
                outcolorspace=self.photometric,
                subsampling=self.subsampling,
            )
        if self.compression == 33003:
            y, cr, cb = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb))
            pixels = cv2.merge([y, cb, cr])
        return imagecodecs.jpeg2k_encode(
            pixels, level=45, codecformat="j2k", mct=self.compression == 33005
        )


CODINGS = {
    "JPEG 4:2:0": Coding("jpeg", "ycbcr", "420"),
    "JPEG 4:2:0, shared tables": Coding("jpeg", "ycbcr", "420", shared_tables=True),
    "JPEG 4:2:2": Coding("jpeg", "ycbcr", "422"),
    "JPEG 4:4:4": Coding("jpeg", "ycbcr", "444"),
    "JPEG RGB": Coding("jpeg", "rgb", "444"),
    "JPEG RGB, shared tables": Coding("jpeg", "rgb", "444", shared_tables=True),
    "JPEG 2000 RGB": Coding(33005, "rgb"),
    "JPEG 2000 YCbCr": Coding(33003, "rgb"),
    "LZW": Coding("lzw", "rgb"),
    "LZW of differences": Coding("lzw", "rgb", predictor=True),
    "deflate": Coding("zlib", "rgb", predictor=True),
    "uncompressed": Coding("none", "rgb"),
}


def picture(width: int, height: int) -> np.ndarray:
    """Blurred noise: detail at every scale, and no two places alike."""
    noise = np.random.default_rng(width * height).normal(size=(height, width, 3)).astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(noise, (0, 0), sigma) * 2 * sigma for sigma in (1.5, 12))
    return np.clip(150 + 40 * fine + 60 * coarse, 0, 254).astype(np.uint8)


def split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """Take quantisation and Huffman tables out of a JPEG stream: (tables, stream without them)."""
    tables, rest, position = b"\xff\xd8", b"\xff\xd8", 2
    while jpeg[position + 1] != 0xDA:
        marker, length = struct.unpack_from(">xBH", jpeg, position)
        segment = jpeg[position : position + 2 + length]
        if marker in (0xDB, 0xC4):
            tables += segment
        else:
            rest += segment
        position += 2 + length
    return tables + b"\xff\xd9", rest + jpeg[position:]


def tiles(image: np.ndarray, side: tuple[int, int], coding: Coding) -> Iterator[bytes]:
    """Encoded tiles of (height, width) `side`, row by row; red beyond the picture."""
    height, width, _ = image.shape
    padded = np.empty(
        (-(-height // side[0]) * side[0], -(-width // side[1]) * side[1], 3), np.uint8
    )
    padded[:] = RED
    padded[:height, :width] = image
    for y in range(0, height, side[0]):
        for x in range(0, width, side[1]):
            yield coding.tile(np.ascontiguousarray(padded[y : y + side[0], x : x + side[1]]))


def write_slide(
    path: Path,
    coding: Coding,
    *,
    size: tuple[int, int] = (900, 700),
    tile: tuple[int, int] = (128, 128),
    factors: tuple[float, ...] = (1, 4),
    mpp: float = 0.25,
    strips: bool = False,
    said: str = "",
    bigtiff: bool = False,
) -> Path:
    """Write a slide in Aperio's manner: levels in tiles of (height, width), smaller by `factors`.

    `said` is the colour space that the tag tells of, and `strips` lays the last level in strips.
    """
    image = picture(*size)
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for number, factor in enumerate(factors):
            shape = (max(1, int(size[0] / factor)), max(1, int(size[1] / factor)))
            level = cv2.resize(image, shape, interpolation=cv2.INTER_AREA) if factor != 1 else image
            options: dict = {
                "photometric": coding.photometric,
                "description": (
                    f"Aperio Image Library\r\n{size[0]}x{size[1]}|AppMag = {10 / mpp:g}|MPP = {mpp}"
                ),
                "metadata": None,
                "software": False,
                "compression": None if coding.compression == "none" else coding.compression,
            }
            if coding.compression == "jpeg":
                options["compressionargs"] = {"outcolorspace": said or coding.photometric}
            if coding.photometric == "ycbcr":
                options["subsampling"] = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[
                    coding.subsampling
                ]
            if strips and number == len(factors) - 1:
                tiff.write(level, rowsperstrip=64, **options)
                continue
            options["tile"] = tile
            if not isinstance(coding.compression, int) and coding.compression != "jpeg":
                tiff.write(level, predictor=coding.predictor, **options)
                continue
            encoded = list(tiles(level, tile, coding))
            if coding.shared_tables:
                options["jpegtables"] = split_tables(encoded[0])[0]
                encoded = [split_tables(one)[1] for one in encoded]
            tiff.write(iter(encoded), shape=level.shape, dtype=np.uint8, **options)
    return path


Patches = dict[tuple[str, int], np.ndarray]


def read_all(
    slide: Slide,
    grids: dict[str, PatchGrid],
    spec: SamplingSpec,
    reader: PatchReader,
    **options: int,
) -> tuple[Patches, dict[tuple[str, int], str]]:
    """All patches by scale and index, in order, and the reasons of those that are unreadable."""
    options = {"batch_size": 16, "num_workers": 2} | options
    patches: Patches = {}
    unreadable: dict[tuple[str, int], str] = {}
    for batch in read_batches(slide, grids, spec, reader, **options):
        for scale, index, image in zip(batch.scales, batch.indices, batch.images, strict=True):
            patches[SCALES[scale], int(index)] = image
        unreadable |= {(patch.scale, patch.index): patch.reason for patch in batch.unreadable}
    assert len(patches) + len(unreadable) == sum(len(grid) for grid in grids.values())
    return patches, unreadable


def assert_readers_agree(slide: Slide, spec: SamplingSpec, grids: dict[str, PatchGrid]) -> int:
    """Every patch differs by a grey level at most; returns how many tiles were decoded."""
    with choose_reader(slide, spec) as reader:
        assert reader.name == "tiles"
        by_tiles, unreadable = read_all(slide, grids, spec, reader)
        assert not unreadable
        by_reader, _ = read_all(slide, grids, spec, ToolboxReader(slide, spec, "to compare"))
        assert list(by_tiles) == list(by_reader)
        for key, patch in by_reader.items():
            difference = np.abs(patch.astype(int) - by_tiles[key]).mean()
            assert difference <= 1, f"{key}: {difference}"
        return reader.tiles_decoded


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("metaplasia_40x.svs", {}),
        ("celiac-disease_20x.svs", {}),
        ("granular-cell-tumor_20x.svs", {}),
        ("CMU-1-Small-Region.svs", {}),
        ("tcga-cr-7395-01a-01-ts1.svs", {"power": 40}),
        ("tcga-cr-7395-01a-01-ts1.svs", {"mpp": 0.2519}),
    ],
)
def test_the_readers_agree_on_real_slides(real_slides, name, scale):
    with open_slide(real_slides / name, **scale) as slide:
        grids = nested_grids(slide, tissue_mask(slide, SPEC), SPEC)
        few = {}
        for number, grid in grids.items():
            some = np.unique(np.linspace(0, len(grid) - 1, 12).astype(int))
            few[number] = PatchGrid(number, grid.bounds[some], grid.grid[some])
        assert_readers_agree(slide, SPEC, few)


@pytest.mark.parametrize("suffix", [".svs", ".tif"])  # OpenSlide's reader, TIAToolbox's TIFF reader
@pytest.mark.parametrize("coding", CODINGS)
def test_the_readers_agree_on_every_coding(tmp_path, coding, suffix):
    path = write_slide(tmp_path / f"slide{suffix}", CODINGS[coding])
    with open_slide(path) as slide:
        assert_readers_agree(slide, SMALL, nested_grids(slide, None, SMALL))


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    coding=st.sampled_from(["JPEG 4:2:0", "JPEG 4:4:4", "JPEG RGB", "LZW", "JPEG 2000 RGB"]),
    suffix=st.sampled_from([".svs", ".tif"]),
    size=st.tuples(st.integers(130, 1100), st.integers(130, 1100)),
    tile=st.sampled_from([(128, 128), (240, 240), (256, 256), (512, 512), (112, 304)]),
    factors=st.sampled_from([(1,), (1, 4), (1, 2), (1, 2.7), (1, 3.3, 7.9), (1, 2, 4, 8)]),
    mpp=st.sampled_from([0.25, 0.2528, 0.5, 0.4952, 0.61, 1.3]),
    bigtiff=st.booleans(),
    units=st.sampled_from(["mpp", "power"]),
)
def test_the_readers_agree_on_any_layout(
    tmp_path, coding, suffix, size, tile, factors, mpp, bigtiff, units
):
    path = write_slide(
        tmp_path / f"slide{suffix}",
        CODINGS[coding],
        size=size,
        tile=tile,
        factors=factors,
        mpp=mpp,
        bigtiff=bigtiff,
    )
    spec = SamplingSpec(patch_size=64, units=units)
    with open_slide(path) as slide:
        assert_readers_agree(slide, spec, nested_grids(slide, None, spec))


def test_other_layouts_go_through_the_reader(tmp_path, real_slides):
    coding = CODINGS["JPEG 4:2:0"]
    plain = write_slide(tmp_path / "plain.svs", coding)
    strips = write_slide(
        tmp_path / "strips.ome.tif", CODINGS["uncompressed"], factors=(1,), strips=True
    )
    lies = write_slide(tmp_path / "lies.svs", CODINGS["JPEG RGB"], said="ycbcr")
    missing = write_slide(tmp_path / "missing.svs", coding)
    with tifffile.TiffFile(missing, mode="r+b") as tiff:
        counts = tiff.pages[0].databytecounts
        tiff.pages[0].tags["TileByteCounts"].overwrite([0, *counts[1:]])
    array = np.full((300, 300, 3), 255, np.uint8)
    for source, reason in (
        (strips, "strips, not tiles"),
        (lies, r"differ from it by \d+\.\d grey levels"),
        (missing, "some tiles are missing"),
        (real_slides / "test3-DAPI-2-387.ndpi", "vendor hamamatsu"),
        (VirtualWSIReader(array, mpp=(0.5, 0.5)), "VirtualWSIReader"),
        (WSIReader.open(plain, post_proc=np.negative), "post-processes"),
    ):
        with open_slide(source) as slide, choose_reader(slide, SMALL) as reader:
            assert re.search(f"^WSIReader: .*{reason}", reader.name)
            first = {"20x": PatchGrid("20x", np.array([[0, 0, 128, 128]]), np.array([[0, 0]]))}
            assert reader.reading(first)("20x", 0).shape == (64, 64, 3)


def test_rows_of_tiles_that_do_not_fit_in_memory_are_not_kept(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "slide.svs", CODINGS["JPEG 4:2:0"], tile=(512, 512), factors=(1,))
    two_rows = 2 * 2 * 512 * 512 * 3  # of 900 pixels
    for limit, name in (
        (two_rows, "tiles"),
        (two_rows - 1, "WSIReader: two rows of tiles take 3 MiB"),
    ):
        monkeypatch.setattr("tiacrossfusion.slides.readers.tile_reader.MOST_WAITING", limit)
        with open_slide(path) as slide, choose_reader(slide, SMALL) as reader:
            assert reader.name == name


def test_each_tile_is_decoded_once(tmp_path):
    path = write_slide(
        tmp_path / "slide.svs", CODINGS["JPEG 4:2:0"], size=(2000, 1500), factors=(1,)
    )
    with open_slide(path) as slide:
        grids = nested_grids(slide, None, SMALL)
        some = {  # every third patch: not all tiles are needed
            scale: PatchGrid(scale, grid.bounds[::3], grid.grid[::3])
            for scale, grid in grids.items()
        }
        touched = set()
        for grid in some.values():
            for x0, y0, x1, y1 in grid.bounds:  # at 0.25 mpp, cells and regions are the same
                for row in range(y0 // 128, min(-(-y1 // 128), 12)):
                    touched |= {
                        (row, column) for column in range(x0 // 128, min(-(-x1 // 128), 16))
                    }
        for workers in (0, 1, 4):
            with choose_reader(slide, SMALL) as reader:
                read_all(slide, some, SMALL, reader, num_workers=workers)
                assert reader.tiles_decoded == len(touched)
                read_all(slide, grids, SMALL, reader, num_workers=workers)
                assert reader.tiles_decoded == len(touched) + 12 * 16


def test_the_way_does_not_depend_on_batches_workers_and_reader(tmp_path):
    path = write_slide(tmp_path / "slide.svs", CODINGS["JPEG 2000 RGB"], size=(1300, 1100))
    with open_slide(path) as slide, choose_reader(slide, SMALL) as reader:
        grids = nested_grids(slide, None, SMALL)
        expected, _ = read_all(slide, grids, SMALL, reader, batch_size=1, num_workers=0)
        cells = [
            (row, column, number)
            for scale, index in expected
            for number, factor in [(SCALES.index(scale), {"5x": 1, "10x": 2, "20x": 4}[scale])]
            for column, row in [grids[scale].grid[index] // factor]
        ]
        assert cells == sorted(cells)
        assert expected.keys() == {(s, i) for s in SCALES for i in range(len(grids[s]))}
        for batch_size, workers in ((7, 1), (32, 3), (10_000, 2)):
            batches = list(
                read_batches(
                    slide, grids, SMALL, reader, batch_size=batch_size, num_workers=workers
                )
            )
            assert all(len(batch.images) == batch_size for batch in batches[:-1])
            found = np.concatenate([batch.images for batch in batches])
            np.testing.assert_array_equal(found, list(expected.values()))
        by_reader, _ = read_all(slide, grids, SMALL, ToolboxReader(slide, SMALL, ""), num_workers=3)
        assert list(by_reader) == list(expected)


def touching(slide: Slide, grids: dict[str, PatchGrid], tile: tuple[int, int, int, int]) -> set:
    """The patches whose region of level 0 touches a rectangle (x0, y0, x1, y1)."""
    found = set()
    for scale, grid in grids.items():
        *_, size = slide.reader.find_read_rect_params(
            (0, 0), (64, 64), SMALL.resolution(scale), "mpp"
        )
        starts, ends = grid.bounds[:, :2], grid.bounds[:, :2] + size
        hit = ((starts < tile[2:]) & (ends > tile[:2])).all(axis=1)
        found |= {(scale, int(index)) for index in np.flatnonzero(hit)}
    return found


@pytest.mark.parametrize(
    ("harm", "reader_notices"),
    [
        ("zeros", True),
        ("hole", True),
        ("noise", True),
        ("end", True),
        ("other tile", False),
    ],
)
@pytest.mark.parametrize("suffix", [".svs", ".tif"])
def test_damaged_tiles_cost_the_patches_that_touch_them(tmp_path, harm, reader_notices, suffix):
    coding = CODINGS["JPEG 4:2:0"]
    path = write_slide(tmp_path / f"slide{suffix}", coding, size=(1500, 1300), factors=(1,))
    row, column = 5, 2
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        number = row * 12 + column
        offset, count = page.dataoffsets[number], page.databytecounts[number]
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).bytes(count)
    start, harmful = {
        "zeros": (0, bytes(count)),
        "hole": (count // 2, bytes(count // 3)),
        "noise": (count // 2, noise[: count // 3]),
        "end": (count - 2, b"\x12\x34"),
        "other tile": (0, coding.tile(picture(64, 64)).ljust(count, b"\0")),
    }[harm]
    content[offset + start : offset + start + len(harmful)] = harmful
    path.write_bytes(content)
    with open_slide(path) as slide, choose_reader(slide, SMALL) as reader:
        assert reader.name == "tiles"
        grids = nested_grids(slide, None, SMALL)
        expected = touching(
            slide, grids, (column * 128, row * 128, column * 128 + 128, row * 128 + 128)
        )
        for workers in (0, 3):
            patches, unreadable = read_all(slide, grids, SMALL, reader, num_workers=workers)
            assert set(unreadable) == expected
            assert all(unreadable.values())
        reference = ToolboxReader(slide, SMALL, "to compare")
        by_reader, unreadable = read_all(slide, grids, SMALL, reference, num_workers=3)
        if suffix == ".svs" and reader_notices:  # the TIFF reader paints over what is damaged
            assert set(unreadable) == expected
        for key in patches.keys() & by_reader.keys():
            assert np.abs(patches[key].astype(int) - by_reader[key]).mean() <= 1


def test_a_file_that_ends_early_loses_what_is_beyond(tmp_path):
    path = write_slide(
        tmp_path / "slide.tif", CODINGS["JPEG 4:2:0"], size=(1500, 1300), factors=(1,), bigtiff=True
    )
    with open_slide(path) as slide, choose_reader(slide, SMALL) as reader:
        grids = nested_grids(slide, None, SMALL)
        whole, _ = read_all(slide, grids, SMALL, reader)
        with path.open("r+b") as file:
            file.truncate(int(path.stat().st_size * 0.7))
        patches, unreadable = read_all(slide, grids, SMALL, reader)
        assert 0 < len(unreadable) < len(whole)
        assert all("the file ends" in reason for reason in unreadable.values())
        for key, patch in patches.items():
            np.testing.assert_array_equal(patch, whole[key])


def test_a_slide_without_a_readable_beginning_is_given_up(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "slide.tif", CODINGS["uncompressed"], factors=(1,), bigtiff=True)
    monkeypatch.setattr("tiacrossfusion.slides.batches.GIVE_UP_AFTER", 50)
    with open_slide(path) as slide, choose_reader(slide, SMALL) as reader:
        grids = nested_grids(slide, None, SMALL)
        with path.open("r+b") as file:
            file.truncate(3000)
        with pytest.raises(TiacfError, match=r"slide\.tif: the first 50 patches cannot be decoded"):
            read_all(slide, grids, SMALL, reader)


def test_one_may_stop_early_and_errors_come_through(tmp_path):
    path = write_slide(tmp_path / "slide.svs", CODINGS["JPEG 4:2:0"], size=(1500, 1300))
    before = threading.active_count()
    with open_slide(path) as slide, choose_reader(slide, SMALL) as reader:
        grids = nested_grids(slide, None, SMALL)
        stream = read_batches(slide, grids, SMALL, reader, batch_size=4, num_workers=3)
        assert len(next(stream).images) == 4
        stream.close()
        assert threading.active_count() == before

        class BrokenReader(ToolboxReader):
            def read(self, bounds, scale):
                raise KeyError("a defect")

        with pytest.raises(KeyError, match="a defect"):
            read_all(slide, grids, SMALL, BrokenReader(slide, SMALL, ""))
        assert threading.active_count() == before


@given(
    spans=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 5), st.integers(0, 7)),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None)
def test_tiles_stay_as_long_as_they_are_needed(spans):
    corners = np.array(spans).reshape(-1, 2, 2)
    spans = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    uses = count_uses(spans, (5, 7))
    expected = np.zeros((5, 7), int)
    for top, left, bottom, right in spans:
        expected[top:bottom, left:right] += 1
    np.testing.assert_array_equal(uses, expected)
    decoded: list[tuple[int, int]] = []

    def decode(level: int, row: int, column: int) -> np.ndarray:
        decoded.append((row, column))
        return np.zeros((1, 1, 3), np.uint8)

    cache = TileCache(decode, {0: uses})
    for top, left, bottom, right in spans.tolist():
        for row in range(top, bottom):
            for column in range(left, right):
                cache.get(0, row, column)
        cache.release(0, (top, left, bottom, right))
    assert sorted(decoded) == [tuple(place) for place in np.argwhere(expected).tolist()]
    assert len(cache) == 0


@given(
    width=st.integers(40, 400),
    height=st.integers(40, 400),
    side=st.integers(16, 40),
    seed=st.integers(0),
)
@settings(max_examples=25, deadline=None)
def test_averaging_areas_is_what_opencv_does(width, height, side, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    found = AreaAverage((width, height), side)(picture)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1  # halves are rounded up here, to even there
    assert difference.mean() < 0.1
