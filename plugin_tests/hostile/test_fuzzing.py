"""Damaged files are read or refused in one line: never a hang, a dead interpreter or unbounded memory.

The short version of `benchmarks/fuzzing.py`, whose cases these are, and sizes that no file can have.
"""

from __future__ import annotations

import importlib
import struct
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.readers.jpeg_stream import DamagedTileError, check_jpeg2000
from tiacrossfusion.slides.readers.tiff_directory import read_tiff
from tiacrossfusion.slides.readers.tiff_tiles import tiled_page
from tiacrossfusion.slides.slide import open_slide

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
#: Cases of each target.
CASES = {
    "SlidePatches": 50,
    "SlideBag": 10,
    "Bag": 40,
    "BundleConfig": 30,
    "TrainingConfig": 40,
    "BundleWeights": 15,
    "OfficialCheckpoint": 20,
    "EncoderWeights": 80,
    "PtFeatures": 80,
}


@pytest.fixture(scope="module")
def fuzzing():
    """The script, found by the processes that it starts too."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("fuzzing")
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_read_or_refused_in_one_line(fuzzing, tmp_path, name):
    target = next(one for one in fuzzing.TARGETS if one.__name__ == name)
    tally = fuzzing.fuzz(target, tmp_path, seed=2026, cases=CASES[name], limit=120)
    assert not tally.faults
    assert tally.read + tally.refused == tally.cases == CASES[name]
    assert tally.refused > tally.cases // 10, "hardly any damage was noticed: is there any?"
    assert tally.peak < 400, f"{tally.peak} MiB"


def test_all_targets_are_tested(fuzzing):
    assert set(CASES) == {target.__name__ for target in fuzzing.TARGETS}


def test_each_kind_of_fault_is_found_under_its_case(fuzzing, tmp_path):
    from fuzz_targets import Harmful, generator

    def deeds(seed: int) -> list[str]:
        drawn = (generator(Harmful, seed, case) for case in range(len(Harmful.deeds)))
        return [rng.choice(Harmful.deeds) for rng in drawn]

    seed = next(seed for seed in range(10**6) if sorted(deeds(seed)) == sorted(Harmful.deeds))
    tally = fuzzing.fuzz(Harmful, tmp_path, seed=seed, cases=6, limit=3, memory=200)
    found = {fault.case: fault.kind for fault in tally.faults}
    wanted = {
        case: deed for case, deed in enumerate(deeds(seed)) if deed not in ("read", "refused")
    }
    assert found == wanted
    assert (tally.read, tally.refused) == (1, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A slide of one level in 4 x 3 tiles, and a thumbnail in strips."""
    path = tmp_path_factory.mktemp("whole") / "whole.svs"
    described = "Aperio Image Library\r\n512x384|AppMag = 20|MPP = 0.5"
    pixels = np.full((384, 512, 3), 200, np.uint8)
    options = {"compression": "zlib", "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, tile=(128, 128), description=described, **options)
        tiff.write(pixels[::4, ::4], rowsperstrip=16, **options)
    return path


def changed(whole: Path, to: Path, page: int, tag: str, field: str, value: int) -> Path:
    """Copy a slide with another number in a tag: its value (the first one) or its count."""
    data = bytearray(whole.read_bytes())
    with tifffile.TiffFile(whole) as tiff:
        it = tiff.pages[page].tags[tag]
        width = it.valuebytecount // it.count if field == "value" else 4
        place = it.valueoffset if field == "value" else it.offset + 4
    data[place : place + width] = value.to_bytes(width, "little")
    to.write_bytes(data)
    return to


@pytest.mark.parametrize(
    ("page", "tag", "field", "value", "words"),
    [
        (0, "ImageWidth", "value", 60000, "12 of 1407 tiles"),
        (0, "ImageLength", "value", 65535, "12 of 2048 tiles"),
        (0, "ImageWidth", "value", 0, "0 x 384 pixels"),
        (0, "TileWidth", "value", 0, "tiles of 0 x 128"),
        (0, "TileWidth", "value", 65520, "65520 x 128 pixels"),
        (0, "TileOffsets", "count", 3, "3 of 12 tiles"),
        (0, "TileOffsets", "count", 2**31, "said to hold"),
        (0, "TileByteCounts", "value", 65535, "65535 bytes"),
        (1, "ImageLength", "value", 60000, "of 3750 strips"),
        (1, "RowsPerStrip", "value", 0, "strips of 128 x 0"),
    ],
)
def test_sizes_that_the_file_cannot_hold_are_refused(
    whole, tmp_path, page, tag, field, value, words
):
    read_tiff(whole)
    path = changed(whole, tmp_path / "slide.svs", page, tag, field, value)
    with pytest.raises(TiacfError, match=words) as caught:
        open_slide(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def next_directory(path: Path, number: int) -> int:
    """Where in a classic TIFF the place of the directory after the one of a number stands."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[number]
        return page.offset + 2 + 12 * len(page.tags)


@pytest.mark.parametrize(
    ("place", "words"), [("itself", "circle"), ("beyond", "ends at byte"), ("odd", "damaged")]
)
def test_directories_that_lead_nowhere_are_refused(whole, tmp_path, place, words):
    data = bytearray(whole.read_bytes())
    with tifffile.TiffFile(whole) as tiff:
        first = tiff.pages[0].offset
    target = {"itself": first, "beyond": len(data) + 8, "odd": len(data) - 3}[place]
    struct.pack_into("<I", data, next_directory(whole, 1), target)
    (tmp_path / "slide.svs").write_bytes(data)
    with pytest.raises(TiacfError, match=words):
        open_slide(tmp_path / "slide.svs")


@pytest.mark.parametrize("length", [0, 3, 8, 15, 100, 1000])
def test_a_file_that_ends_in_its_tags_is_refused_or_no_tiff(whole, tmp_path, length):
    path = tmp_path / "slide.svs"
    path.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(TiacfError, match=r"slide\.svs"):
        open_slide(path)


def test_values_that_are_read_again_and_again_are_refused(tmp_path):
    """One long list of sizes that each of a thousand directories has as its own."""
    path, count = tmp_path / "slide.tif", 2**18
    entries = [(256, 16 * count), (257, 16), (322, 16), (323, 16)]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 8 + 4 * count) + bytes(4 * count))
        for number in range(1000):
            file.write(struct.pack("<H", len(entries) + 2))
            for code, value in entries:
                file.write(struct.pack("<HHII", code, 4, 1, value))
            for code in (324, 325):
                file.write(struct.pack("<HHII", code, 4, count, 8))
            file.write(struct.pack("<I", file.tell() + 4 if number < 999 else 0))
    with pytest.raises(TiacfError, match="more values than the file has room for"):
        read_tiff(path)


def test_a_tag_that_stands_twice_is_refused(whole, tmp_path):
    path = changed(whole, tmp_path / "slide.svs", 0, "TileLength", "value", 128)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(whole) as tiff:
        tags = tiff.pages[0].tags
        struct.pack_into("<H", data, tags["TileLength"].offset, tags["TileWidth"].code)
    path.write_bytes(data)
    with pytest.raises(TiacfError, match="tag 322 stands twice"):
        open_slide(path)


def test_a_suffix_does_not_spare_a_file_its_look(whole, tmp_path):
    path = changed(whole, tmp_path / "slide.ndpi", 0, "TileWidth", "value", 65520)
    with pytest.raises(TiacfError, match="65520 x 128 pixels"):
        open_slide(path)


def test_real_slides_and_other_files_pass(real_slides, tmp_path):
    for path in real_slides.iterdir():
        read_tiff(path)
    (tmp_path / "slide.svs").write_text("no TIFF")
    read_tiff(tmp_path / "slide.svs")


@pytest.mark.parametrize(("mpp", "refused"), [(0.5, False), (100.0, False), (0.01, True)])
def test_slides_of_no_plausible_size_or_scale_are_refused(whole, mpp, refused):
    if not refused:
        with open_slide(whole, mpp=mpp) as slide:
            assert slide.mpp == (mpp, mpp)
        return
    with pytest.raises(TiacfError, match="no plausible scale"):
        open_slide(whole, mpp=mpp)


def test_a_slide_as_long_as_a_street_is_refused(tmp_path):
    path = tmp_path / "long.svs"
    described = "Aperio Image Library\r\n6000x16|AppMag = 20|MPP = 50"
    pixels = np.full((16, 6000, 3), 200, np.uint8)
    options = {"tile": (16, 16), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, pixels, description=described, **options)
    with pytest.raises(TiacfError, match="300 x 1 mm"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.dimensions == (6000, 16)


def codestream(side: int, **numbers: int) -> bytes:
    """A JPEG 2000 codestream of a grey square, with other numbers in its SIZ segment."""
    places = {"right": 8, "bottom": 12, "left": 16, "top": 20, "across": 24, "down": 28}
    data = bytearray(
        imagecodecs.jpeg2k_encode(np.full((side, side, 3), 99, np.uint8), codecformat="j2k")
    )
    for name, number in numbers.items():
        struct.pack_into(">I", data, places[name], number)
    return bytes(data)


def test_jpeg2000_of_another_size_is_not_decoded():
    check_jpeg2000(codestream(64), 64, 64)
    for numbers in (
        {"right": 2**31},
        {"bottom": 65},
        {"across": 1, "down": 1},
        {"across": 0},
    ):
        with pytest.raises(DamagedTileError, match="JPEG 2000 data"):
            check_jpeg2000(codestream(64, **numbers), 64, 64)
    many = bytearray(codestream(64))
    struct.pack_into(">H", many, 40, 10_000)
    with pytest.raises(DamagedTileError, match="10000 samples"):
        check_jpeg2000(bytes(many), 64, 64)
    # Of a file in boxes the decoder takes another codestream than the first that is found.
    boxed = imagecodecs.jpeg2k_encode(np.zeros((64, 64, 3), np.uint8), codecformat="jp2")
    for data in (b"\xff\x4f\xff\x51", boxed):
        with pytest.raises(DamagedTileError, match="no JPEG 2000"):
            check_jpeg2000(data, 64, 64)


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_what_unpacks_to_more_than_a_tile_is_damaged(tmp_path, compression):
    path = tmp_path / "slide.tif"
    pixels = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), compression=compression, photometric="rgb")
    encode = {"zlib": imagecodecs.zlib_encode, "lzw": imagecodecs.lzw_encode}[compression]
    with path.open("rb") as file:
        page = tiled_page(read_tiff(path).pictures[0], file.fileno())
    assert page.decode(encode(bytes(pixels.size))).shape == pixels.shape
    for size in (pixels.size - 1, pixels.size + 1, 50_000_000):
        with pytest.raises((DamagedTileError, imagecodecs.ZlibError)):
            page.decode(encode(bytes(size)))
