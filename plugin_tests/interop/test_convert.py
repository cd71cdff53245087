"""`tiacf convert`: features of other programs become bags, and bags what they read."""

from __future__ import annotations

import errno
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from command_line import assert_failed, assert_usage

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.bags.caveats import bag_caveats
from tiacrossfusion.cli import main
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.interop.conversion import convert
from tiacrossfusion.interop.h5_reading import read_h5
from tiacrossfusion.interop.importing import ImportOptions, import_bag
from tiacrossfusion.interop.sources import SlideFiles, find_slide_files
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

WIDTH = 6
FOLDERS = {"5x": "x5", "10x": "x10", "20x": "x20"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


@functools.cache
def tissue(seed: int, size: int = 320) -> np.ndarray:
    """A mask of a few round pieces of tissue, in units of 20x cells / 4."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), bool)
    for _ in range(4):
        cx, cy = rng.uniform(0.2, 0.8, 2) * size
        mask |= (x - cx) ** 2 + (y - cy) ** 2 < (rng.uniform(0.08, 0.2) * size) ** 2
    return mask


def corners(mask: np.ndarray, cell: int, start=(0, 0), least: float = 0.0) -> np.ndarray:
    """Corners (N, 2) of the cells with more than `least` tissue, in pixels of the mask."""
    padded = np.pad(mask[start[1] :, start[0] :], ((0, cell), (0, cell)))
    rows, columns = (size // cell for size in padded.shape)
    cells = padded[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
    y, x = np.nonzero(cells.sum(axis=(1, 3)) > least * cell**2)
    return np.stack([x, y], axis=1) * cell + start


def positions(seed: int = 0, side: int = 512, shift: int = 0, least: float = 0.0):
    """Level-0 corners of each scale of a slide; `shift` moves the grids apart."""
    rng = np.random.default_rng(seed + 1000)
    mask = tissue(seed)
    found = {}
    for scale in SCALES:
        cell = 4 * CELLS_20X[scale]
        start = rng.integers(0, cell, 2) if shift else (0, 0)
        found[scale] = corners(mask, cell, start, least) * (side // 4)
    return found


def features(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def write_trident(path: Path, xy: np.ndarray, scale: str, seed: int = 0, **changes) -> np.ndarray:
    side = 512 * CELLS_20X[scale]
    attributes = {
        "patch_size": 256,
        "patch_size_level0": side,
        "level0_magnification": 40,
        "target_magnification": int(scale[:-1]),
        "overlap": 0,
        "name": path.stem,
        "savetodir": "somewhere",
        "level0_width": 60000,
        "level0_height": 50000,
    } | changes
    values = features(len(xy), seed + len(xy))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = values
        file["features"].attrs.update({"name": path.stem, "encoder": "uni_v1"})
        file["coords"] = xy.astype(np.int32)
        file["coords"].attrs.update({k: v for k, v in attributes.items() if v is not None})
    return values


def trident_slide(folder: Path, name: str = "s", seed: int = 0, **changes) -> dict[str, np.ndarray]:
    xy = positions(seed)
    for scale in SCALES:
        write_trident(folder / FOLDERS[scale] / f"{name}.h5", xy[scale], scale, seed, **changes)
    return xy


def plain_h5(path: Path, key: str, values: np.ndarray, xy: np.ndarray | None, **root) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[key] = values
        if xy is not None:
            file["coords"] = xy
        file.attrs.update(root)


def pt_slide(folder: Path, name: str = "s", counts=(12, 45, 170), seed: int = 0) -> None:
    for scale, count in zip(SCALES, counts, strict=True):
        path = folder / FOLDERS[scale] / "pt_files" / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.from_numpy(features(count, seed + count)), path)


def own_bag(seed: int = 0, name: str = "s.svs") -> FeatureBag:
    """A bag as this package makes them: cells of 506.3 px whose lines are rounded."""
    mask = tissue(seed)
    cells20 = corners(mask, 4) // 4
    lines = np.rint(np.arange(400) * 506.3).astype(np.int64)
    rng = np.random.default_rng(seed)
    scales = {}
    for scale in SCALES:
        n = CELLS_20X[scale]
        grid = np.unique(cells20 // n, axis=0)
        low, high = grid * n, (grid + 1) * n
        bounds = np.concatenate([lines[low], lines[high]], axis=1)
        values = rng.normal(size=(len(grid), WIDTH)).astype(np.float16)
        scales[scale] = ScaleFeatures(values, bounds, grid.astype(np.int32))
    provenance = Provenance(
        slide=name,
        slide_size=1,
        slide_hash="2",
        dimensions=(41000, 42000),
        mpp=(0.2528, 0.2528),
        power=40,
        offset=(0, 0),
        mask="otsu",
        sampling=SamplingSpec(),
        encoder=EncoderSpec(
            name="test", width=WIDTH, mean=(0, 0, 0), std=(1, 1, 1), input_size=256
        ),
        versions={"torch": "2"},
    )
    return FeatureBag(scales, provenance)


def assert_same_arrays(one: FeatureBag, other: FeatureBag) -> None:
    for scale in SCALES:
        for field in ("features", "bounds", "grid"):
            first, second = (getattr(bag.scales[scale], field) for bag in (one, other))
            assert first.dtype == second.dtype
            assert np.array_equal(first, second), (scale, field)


# --- reading -------------------------------------------------------------------------------------


def test_trident_files_become_a_nested_bag_with_positions(tmp_path):
    xy = trident_slide(tmp_path / "in")
    result = run("--bags", tmp_path / "in", "--output-path", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "1 of 1 slides converted" in result.output
    bag = FeatureBag.load(tmp_path / "out" / "s.zarr")
    said = bag.provenance
    assert (said.slide, said.power, said.dimensions) == ("s", 40, (60000, 50000))
    assert said.imported.startswith("TRIDENT h5: ")
    assert said.encoder == EncoderSpec(name="uni_v1", width=WIDTH)
    assert said.sampling == SamplingSpec(units="power", patch_size=256)
    assert said.mask is said.mpp is said.slide_size is said.encoder.mean is None
    for scale in SCALES:
        side = 512 * CELLS_20X[scale]
        have = bag.scales[scale]
        expected = features(len(xy[scale]), len(xy[scale])).astype(np.float16)
        assert np.array_equal(have.features, expected)
        assert np.array_equal(have.bounds, np.hstack([xy[scale], xy[scale] + side]))
        assert np.array_equal(have.grid, xy[scale] // side)
        assert (have.features.dtype, have.bounds.dtype, have.grid.dtype) == ("f2", "i8", "i4")


def test_a_leading_axis_of_one_is_taken_off(tmp_path):
    xy = trident_slide(tmp_path)
    path = tmp_path / "x5" / "s.h5"
    with h5py.File(path, "a") as file:
        values = file["features"][()]
        del file["features"]
        file["features"] = values[None]
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    bag, _ = import_bag(slide, ImportOptions(encoder="e"))
    assert np.array_equal(bag.scales["5x"].features, values.astype(np.float16))
    assert len(bag.scales["5x"]) == len(xy["5x"])


@pytest.mark.parametrize("given", [{}, {"power": 40.0}, {"mpp": 0.2528}])
def test_clam_files_without_attributes(tmp_path, given):
    xy = positions()
    for scale in SCALES:  # in CLAM's folders
        path = tmp_path / FOLDERS[scale] / "h5_files" / "s.h5"
        plain_h5(path, "features", features(len(xy[scale]), len(xy[scale])), xy[scale])
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    bag, notes = import_bag(slide, ImportOptions(encoder="e", **given))
    assert not notes
    assert bag.provenance.imported.startswith("CLAM h5: ")
    for scale in SCALES:  # neighbours tell the size, 512 px, where 256 px at 0.5 mpp are 506.3
        side = 512 * CELLS_20X[scale]
        assert np.array_equal(bag.scales[scale].bounds, np.hstack([xy[scale], xy[scale] + side]))
        assert np.array_equal(bag.scales[scale].grid, xy[scale] // side)


def test_clam_attributes_count_in_pixels_of_their_level(tmp_path):
    xy = positions(side=1024)
    for scale, level, downsample in (("5x", 2, 16.0), ("10x", 1, 8.0), ("20x", 1, 4.0)):
        path = tmp_path / FOLDERS[scale] / "s.h5"
        plain_h5(path, "features", features(len(xy[scale]), len(xy[scale])), xy[scale])
        with h5py.File(path, "a") as file:
            said = {"patch_size": 256, "patch_level": level, "downsample": (downsample,) * 2}
            file["coords"].attrs.update(said)
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    bag, _ = import_bag(slide, ImportOptions(encoder="e"))
    for scale in SCALES:
        bounds = bag.scales[scale].bounds
        assert (bounds[:, 2:] - bounds[:, :2] == 1024 * CELLS_20X[scale]).all()


def test_grids_that_do_not_nest_have_positions_but_no_grid(tmp_path):
    xy = positions(shift=1)
    for scale in SCALES:
        write_trident(tmp_path / FOLDERS[scale] / "s.h5", xy[scale], scale)
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    bag, _ = import_bag(slide, ImportOptions())
    assert all(bag.scales[s].grid is None and bag.scales[s].bounds is not None for s in SCALES)


def test_a_grid_whose_ancestors_are_missing_is_none(tmp_path):
    xy = positions()
    xy["5x"] = xy["5x"][1:]
    for scale in SCALES:
        write_trident(tmp_path / FOLDERS[scale] / "s.h5", xy[scale], scale)
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    bag, _ = import_bag(slide, ImportOptions())
    assert bag.scales["20x"].grid is None


def test_stamp_counts_microns(tmp_path):
    xy = positions()
    for scale in SCALES:
        um = 128.0 * CELLS_20X[scale]
        plain_h5(
            tmp_path / FOLDERS[scale] / "s.h5",
            "feats",
            features(len(xy[scale]), len(xy[scale])).astype(np.float16),
            xy[scale] * 0.25,
            unit="um",
            tile_size_um=um,
            tile_size_px=224,
            extractor="ctranspath",
        )
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    bag, notes = import_bag(slide, ImportOptions(mpp=0.25))
    assert not notes
    assert bag.provenance.encoder.name == "ctranspath"
    assert bag.provenance.sampling.patch_size == 224
    for scale in SCALES:
        assert np.array_equal(bag.scales[scale].bounds[:, :2], xy[scale])
    bag, notes = import_bag(slide, ImportOptions())
    assert bag.scales["20x"].bounds is None
    assert any("give --mpp" in note for note in notes)


@pytest.mark.parametrize(("microns", "pixels"), [(256.0, 224), (256.0, 256), (64.0, 256)])
def test_tiles_of_another_scale_than_the_given_one_are_refused(tmp_path, microns, pixels):
    made = {
        "unit": "um",
        "tile_size_um": microns,
        "tile_size_px": pixels,
        "extractor": "ctranspath",
    }
    xy = np.array([[0.0, 0.0], [microns, 0.0]])
    plain_h5(tmp_path / "x20" / "s.h5", "feats", features(2, 2).astype(np.float16), xy, **made)
    (slide,) = find_slide_files({"20x": tmp_path / "x20"})
    for mpp in (None, 0.25):
        with pytest.raises(TiacfError, match=f"tiles of {microns:g} microns in {pixels} pixels"):
            import_bag(slide, ImportOptions(mpp=mpp))


def test_microns_per_pixel_may_be_those_of_each_slide(tmp_path):
    for name in ("a", "b"):
        xy = np.array([[0.0, 0.0], [128.0, 0.0]])
        made = {"unit": "um", "tile_size_um": 128.0, "tile_size_px": 256, "extractor": "ctranspath"}
        values = features(2, ord(name)).astype(np.float16)
        plain_h5(tmp_path / "x20" / f"{name}.h5", "feats", values, xy, **made)
    (tmp_path / "mpp.csv").write_text("slide,mpp\na.svs,0.25\nb,0.5\n")
    out = ("--x20", tmp_path / "x20", "--output-path", tmp_path / "out")
    assert run(*out, "--mpp", tmp_path / "mpp.csv").exit_code == 0
    for name, side in (("a", 512), ("b", 256)):
        bag = FeatureBag.load(tmp_path / "out" / f"{name}.zarr")
        assert bag.scales["20x"].bounds[0].tolist() == [0, 0, side, side]
    (tmp_path / "mpp.csv").write_text("slide,mpp\na,0.25\n")
    assert_failed(
        run(*out, "--mpp", tmp_path / "mpp.csv", "--overwrite"), "b: the CSV of --mpp has no row"
    )


def test_a_locked_file_is_called_locked(tmp_path, monkeypatch):
    def locked(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "unable to lock file")

    path = tmp_path / "s.h5"
    path.touch()
    monkeypatch.setattr(h5py, "File", locked)
    with pytest.raises(TiacfError, match="another program has locked it"):
        read_h5(path)


def test_stores_of_other_programs_are_named(tmp_path):
    stores = {
        "lazy": (("tables", "shapes"), "SpatialData store, as LazySlide writes it"),
        "deep": (("features", "coordinates"), "TIAToolbox's DeepFeatureExtractor"),
    }
    for name, (groups, said) in stores.items():
        for group in groups:
            (tmp_path / name / "s.zarr" / group).mkdir(parents=True)
        assert_usage(run("--x20", tmp_path / name, "--output-path", tmp_path / "out"), said)


@pytest.mark.parametrize("unit", [None, "level0", "scale"])
def test_coordinates_of_unknown_meaning_wait_for_the_user(tmp_path, shared_data, unit):
    source = shared_data / "features" / "TCGA-AD-6964-01Z-00-DX1.h5"
    with h5py.File(source) as file:
        xy, feats = file["coords"][()], file["feats"][()]
    for scale in SCALES:
        n = CELLS_20X[scale]
        # What the same tissue gives at the coarser scales, counted in pixels of level 0 or the scale.
        cells = np.unique(xy // (512 * n), axis=0) * 512 * (1 if unit == "scale" else n)
        values = feats if scale == "20x" else features(len(cells), n, 512)
        plain_h5(tmp_path / FOLDERS[scale] / "s.h5", "feats", values, xy if n == 1 else cells)
    options = ["--encoder", "e", "--patch-size", 512]
    if unit:
        options += ["--coords", unit]
    if unit == "scale":
        options += ["--mpp", 0.25]
    result = run("--bags", tmp_path, "--output-path", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    bag = FeatureBag.load(tmp_path / "out" / "s.zarr")
    assert len(bag.scales["20x"]) == 777
    assert np.array_equal(bag.scales["20x"].features, feats.astype(np.float16))
    if unit is None:
        assert "give --coords" in result.output
        assert bag.scales["20x"].bounds is bag.scales["20x"].grid is None
    else:
        zoom = 2 if unit == "scale" else 1
        side = 512 * zoom
        assert np.array_equal(bag.scales["20x"].bounds, np.hstack([xy * zoom, xy * zoom + side]))
        assert np.array_equal(bag.scales["20x"].grid, xy // 512)


def test_tile_names_of_many_sizes_are_no_scale(tmp_path, shared_data):
    source = shared_data / "features" / "TCGA-3X-AAVA-01Z-00-DX1.h5"
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
        shutil.copy(source, tmp_path / folder / "s.h5")
    result = run("--bags", tmp_path, "--output-path", tmp_path / "out", "--encoder", "e")
    assert_failed(result, "6 patch sizes, 506 to 1013 px", "one scale")


def test_tile_names_of_one_size_have_no_positions(tmp_path):
    for scale, count in zip(SCALES, (30, 110, 420), strict=True):
        path = tmp_path / FOLDERS[scale] / "s.h5"
        plain_h5(path, "features", features(count, count), None)
        names = [f"0_0_{i}_{506 * CELLS_20X[scale]}.jpg" for i in range(count)]
        with h5py.File(path, "a") as file:
            file["metadata"] = names
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    bag, notes = import_bag(slide, ImportOptions(encoder="e"))
    assert bag.counts() == {"5x": 30, "10x": 110, "20x": 420}
    assert bag.scales["5x"].bounds is None
    assert notes == ["positions unknown at 5x, 10x, 20x (no coordinates)"]


def test_names_of_other_things_than_the_patches_are_passed_over(tmp_path):
    plain_h5(tmp_path / "s.h5", "features", features(30, 30), None)
    with h5py.File(tmp_path / "s.h5", "a") as file:  # would take minutes to look through
        file.create_dataset("metadata", shape=(10**12,), dtype="S16", chunks=(1000,))
    assert read_h5(tmp_path / "s.h5").facts.side is None


def test_authors_tensors(tmp_path):
    pt_slide(tmp_path / "in")
    result = run(
        "--bags", tmp_path / "in", "--output-path", tmp_path / "out", "--encoder", "resnet50"
    )
    assert result.exit_code == 0, result.output
    bag = FeatureBag.load(tmp_path / "out" / "s.zarr")
    assert bag.counts() == {"5x": 12, "10x": 45, "20x": 170}
    assert np.array_equal(bag.scales["10x"].features, features(45, 45).astype(np.float16))
    assert bag.scales["10x"].bounds is bag.scales["10x"].grid is None
    assert bag.provenance.imported.startswith("pt: ")


def test_h5_is_taken_where_a_slide_has_both(tmp_path):
    pt_slide(tmp_path)
    trident_slide(tmp_path)
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    assert {path.suffix for path in slide.files.values()} == {".h5"}


# --- one slide -----------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [0.0, 0.25, 0.5])
def test_scales_of_one_slide_pass_and_of_two_do_not(tmp_path, least):
    for seed in range(4):
        xy = positions(seed, shift=1, least=least)
        other = positions(seed + 50, shift=1, least=least)
        files = {scale: tmp_path / scale / "s.h5" for scale in SCALES}
        for scale in SCALES:
            write_trident(files[scale], xy[scale], scale)
        _, notes = import_bag(SlideFiles("s", files), ImportOptions())
        assert not notes
        write_trident(files["20x"], other["20x"], "20x")
        with pytest.raises(TiacfError, match=r"^s: only .* patches hold .* one slide"):
            import_bag(SlideFiles("s", files), ImportOptions())


def change(folder: Path, scale: str, **changes) -> None:
    write_trident(folder / FOLDERS[scale] / "s.h5", positions()[scale], scale, **changes)


def edit(folder: Path, scale: str, dataset: str, values: np.ndarray) -> None:
    with h5py.File(folder / FOLDERS[scale] / "s.h5", "a") as file:
        attributes = dict(file[dataset].attrs)
        del file[dataset]
        file[dataset] = values
        file[dataset].attrs.update(attributes)


def _too_large(folder: Path) -> None:
    values = features(len(positions()["10x"]))
    values[3, 2] = 7e4
    edit(folder, "10x", "features", values)


def _not_finite(folder: Path) -> None:
    values = features(len(positions()["10x"]))
    values[3, 2:4] = np.nan
    edit(folder, "10x", "features", values)


def _swapped(folder: Path) -> None:
    (folder / "x5").rename(folder / "t")
    (folder / "x20").rename(folder / "x5")
    (folder / "t").rename(folder / "x20")


def _same_file(folder: Path) -> None:
    for scale in ("10x", "20x"):
        xy = positions()["5x"]
        plain_h5(folder / FOLDERS[scale] / "s.h5", "features", features(len(xy), len(xy)), xy)


def _cut_off(folder: Path) -> None:
    path = folder / "x20" / "s.h5"
    path.write_bytes(path.read_bytes()[:3000])


def _text_file(folder: Path) -> None:
    (folder / "x20" / "s.h5").write_text("no HDF5")


N20 = len(positions()["20x"])
REFUSALS = {
    "not finite": (_not_finite, ["2 features are not finite", "x10"]),
    "too large": (_too_large, ["1 features are beyond 65504", "x10"]),
    "swapped": (_swapped, ["is of 20x, given as 5x"]),
    "same features": (_same_file, ["5x and 10x hold the same features"]),
    "cut off": (_cut_off, ["cannot be read as HDF5"]),
    "text": (_text_file, ["cannot be read as HDF5"]),
    "other width": (
        lambda f: edit(f, "5x", "features", features(len(positions()["5x"]), 0, 7)),
        ["5x and 10x differ in features of width: 7 and 6"],
    ),
    "integers": (
        lambda f: edit(f, "5x", "features", np.ones((len(positions()["5x"]), 6), int)),
        ["features are int64"],
    ),
    "a slide embedding": (
        lambda f: edit(f, "5x", "features", features(1)[0]),
        ["features have the shape (6,)"],
    ),
    "no patch": (
        lambda f: edit(f, "5x", "features", np.zeros((0, 6), np.float32)),
        ["holds no patch"],
    ),
    "coords of another": (
        lambda f: edit(f, "20x", "coords", positions()["20x"][1:]),
        [f"not ({N20}, 2)"],
    ),
    "other dimensions": (
        lambda f: change(f, "5x", level0_width=50000),
        ["5x and 10x differ in level-0 dimensions: (50000, 50000) and (60000, 50000)"],
    ),
    "other slide": (lambda f: change(f, "10x", name="t"), ["differ in the slide: s and t"]),
    "other power": (
        lambda f: change(f, "20x", level0_magnification=20, patch_size_level0=256),
        ["differ in the level-0 magnification: 40 and 20"],
    ),
    "outside": (
        lambda f: edit(f, "20x", "coords", positions()["20x"] + (512 * 100, 0)),
        ["20x patches lie outside the slide of 60000 x 50000 px"],
    ),
    "patch size": (lambda f: change(f, "20x", patch_size=224), ["patch sizes 224 and 256"]),
    "not 4 : 2 : 1": (
        lambda f: change(f, "20x", patch_size_level0=560),
        ["2048 at 5x, 1024 at 10x, 560 at 20x level-0 px wide, not as 4 : 2 : 1"],
    ),
    "side and magnification": (
        lambda f: change(f, "5x", patch_size_level0=512),
        ["5x patches are 512 level-0 px wide", "are 2048"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_files_that_cannot_be_one_bag_are_refused_in_one_line(tmp_path, case):
    spoil, words = REFUSALS[case]
    trident_slide(tmp_path / "in")
    trident_slide(tmp_path / "in", "t", seed=1)
    spoil(tmp_path / "in")
    out = tmp_path / "out"
    result = run("--bags", tmp_path / "in", "--output-path", out)
    if case == "swapped":  # of both slides
        assert result.exit_code == 1
        assert result.output.count("FAILED") == 2
        assert words[0] in result.output
        return
    assert_failed(result, *words)
    assert "1 of 2 slides converted" in result.output
    assert sorted(path.name for path in out.iterdir()) == ["t.zarr", "tiacf.log"]


def test_a_wrong_power_is_noticed_by_the_distances(tmp_path):
    xy = positions()
    for scale in SCALES:
        values = features(len(xy[scale]), len(xy[scale]))
        plain_h5(tmp_path / FOLDERS[scale] / "s.h5", "features", values, xy[scale])
    result = run(
        "--bags", tmp_path, "--output-path", tmp_path / "o", "--encoder", "e", "--power", 20
    )
    assert_failed(result, "stand 2048 level-0 px apart", "be 1024 wide", "--power")


@pytest.mark.parametrize("counts", [(170, 45, 12), (12, 11, 170), (12, 45, 1700)])
def test_counts_that_cannot_be_one_slide(tmp_path, counts):
    pt_slide(tmp_path, counts=counts)
    result = run("--bags", tmp_path, "--output-path", tmp_path / "o", "--encoder", "e")
    assert_failed(result, "patches at", "cannot be of one slide")


def test_odd_counts_are_said(tmp_path):
    pt_slide(tmp_path, counts=(50, 60, 240))
    result = run("--bags", tmp_path, "--output-path", tmp_path / "o", "--encoder", "e")
    assert result.exit_code == 0
    assert "50 patches at 5x and 60 at 10x" in result.output
    assert "WARNING" in (tmp_path / "o" / "tiacf.log").read_text()


def test_a_slide_without_a_scale_is_named_and_the_others_go_on(tmp_path):
    pt_slide(tmp_path / "in", "a")
    pt_slide(tmp_path / "in", "b", seed=5)
    (tmp_path / "in" / "x10" / "pt_files" / "a.pt").unlink()
    result = run("--bags", tmp_path / "in", "--output-path", tmp_path / "out", "--encoder", "e")
    assert_failed(result, "a: no file at 10x")
    assert (tmp_path / "out" / "b.zarr").is_dir()
    assert not (tmp_path / "out" / "a.zarr").exists()


@pytest.mark.parametrize("scales", [("20x",), ("5x", "20x"), ("10x", "20x")])
def test_one_or_two_scales_become_a_bag(tmp_path, scales):
    xy = trident_slide(tmp_path / "in")
    options = [o for s in scales for o in (f"--{FOLDERS[s]}", tmp_path / "in" / FOLDERS[s])]
    result = run(*options, "--output-path", tmp_path / "out")
    assert result.exit_code == 0, result.output
    bag = FeatureBag.load(tmp_path / "out" / "s.zarr")
    assert tuple(bag.scales) == scales
    for scale in scales:
        side = 512 * CELLS_20X[scale]
        assert np.array_equal(bag.scales[scale].bounds, np.hstack([xy[scale], xy[scale] + side]))
        assert np.array_equal(bag.scales[scale].grid, xy[scale] // side)
    for kind in ("h5", "pt"):  # and back
        out = tmp_path / kind
        result = run("--bags", tmp_path / "out", "--output-format", kind, "--output-path", out)
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(
            FOLDERS[scale] for scale in scales
        )
    assert run("--bags", tmp_path / "h5", "--output-path", tmp_path / "again").exit_code == 0
    again = FeatureBag.load(tmp_path / "again" / "s.zarr")
    assert all(np.array_equal(bag.scales[scale].grid, again.scales[scale].grid) for scale in scales)


def test_one_scale_without_positions_becomes_a_bag(tmp_path):
    pt_slide(tmp_path / "in")
    x10 = ("--x10", tmp_path / "in" / "x10")
    result = run(*x10, "--encoder", "e", "--output-path", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert FeatureBag.load(tmp_path / "out" / "s.zarr").counts() == {"10x": 45}
    assert "positions unknown at 10x (no coordinates)" in result.output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"features": torch.ones(3, 6)}, "holds a dict, not one tensor"),
        (torch.ones(3, 6, dtype=torch.int64), "features are int64"),
        (torch.full((45, 6), float("inf")), "270 features are not finite"),
        (torch.ones(6), "features have the shape (6,)"),
    ],
)
def test_other_tensor_files_are_refused(tmp_path, content, words):
    pt_slide(tmp_path / "in")
    torch.save(content, tmp_path / "in" / "x10" / "pt_files" / "s.pt")
    result = run("--bags", tmp_path / "in", "--output-path", tmp_path / "out", "--encoder", "e")
    assert_failed(result, words)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda tensor: tensor.to_sparse(),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, change):
    pt_slide(tmp_path / "in")
    path = tmp_path / "in" / "x10" / "pt_files" / "s.pt"
    torch.save(change(torch.from_numpy(features(45, 45))), path)
    result = run("--bags", tmp_path / "in", "--output-path", tmp_path / "out", "--encoder", "e")
    assert_failed(result, str(path), "; ")
    assert "unexpected" not in result.output


@pytest.mark.parametrize("content", [b"", b"no tensor", None])
def test_damaged_tensor_files_are_refused(tmp_path, content):
    pt_slide(tmp_path / "in")
    path = tmp_path / "in" / "x10" / "pt_files" / "s.pt"
    path.write_bytes(path.read_bytes()[:-300] if content is None else content)
    result = run("--bags", tmp_path / "in", "--output-path", tmp_path / "out", "--encoder", "e")
    assert_failed(result, str(path))


def test_half_precision_tensors_are_read(tmp_path):
    pt_slide(tmp_path)
    path = tmp_path / "x10" / "pt_files" / "s.pt"
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn):
        tensor = torch.from_numpy(features(45, 45)).to(dtype)
        torch.save(tensor[None], path)
        (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
        bag, _ = import_bag(slide, ImportOptions(encoder="e"))
        assert np.array_equal(bag.scales["10x"].features, tensor.to(torch.float16).numpy())


# --- options -------------------------------------------------------------------------------------


def test_wrong_options_are_refused_in_one_line(tmp_path):
    pt_slide(tmp_path / "in")
    x5, out = tmp_path / "in" / "x5", ("--output-path", tmp_path / "out")
    bags = tmp_path / "bags"
    own_bag().save(bags / "s.zarr")
    (tmp_path / "empty").mkdir()
    assert_usage(run("--bags", tmp_path / "in"), "--output-path is missing")
    assert_usage(run(*out), "--x5, --x10 or --x20 missing", "--bags")
    assert_usage(run("--x5", x5, "--bags", tmp_path, *out), "give the one or the others")
    assert_usage(run("--bags", tmp_path / "absent", *out), "no such file")
    assert_usage(run("--bags", tmp_path / "empty", *out), "no bag", "folders x5, x10 and x20")
    (tmp_path / "half" / "x5").mkdir(parents=True)
    assert_usage(run("--bags", tmp_path / "half", *out), "half/x5: holds no feature file")
    assert_usage(run("--bags", tmp_path / "in", "--mpp", 0, *out), "--mpp 0")
    assert_failed(run("--bags", tmp_path / "in", *out), "s: the files do not say", "--encoder")
    assert_usage(run("--bags", bags, *out), "holds bags already")
    result = run("--bags", bags, "--output-format", "pt", "--encoder", "e", *out)
    assert_usage(result, "--encoder is for feature files")
    result = run(
        "--bags", tmp_path / "in", "--encoder", "e", "--output-path", bags / "s.zarr/zarr.json"
    )
    assert_usage(result, "is a file")


def test_patch_size_must_agree_with_the_files(tmp_path):
    trident_slide(tmp_path / "in")
    result = run("--bags", tmp_path / "in", "--output-path", tmp_path / "o", "--patch-size", 224)
    assert_failed(result, "patch sizes 224 and 256 in the files and --patch-size")


def test_a_name_that_is_too_long_for_more_is_shortened(tmp_path):
    for name in ("a", "l" * 240, "z"):
        for scale in SCALES:
            path = tmp_path / FOLDERS[scale] / f"{name}.pt"
            path.parent.mkdir(exist_ok=True)
            torch.save(torch.ones({"5x": 1, "10x": 4, "20x": 16}[scale], 8), path)
    for kind in ("bag", "pt"):
        out = tmp_path / kind
        result = run(
            *("--bags", tmp_path, "--encoder", "e", "--output-format", kind, "--output-path", out)
        )
        assert result.exit_code == 0, result.output
        assert "3 of 3 slides converted" in result.output
        assert len(list(out.rglob("l*"))) == (1 if kind == "bag" else 3)


@pytest.mark.process
def test_help_is_light():
    code = (
        "import sys\nfrom tiacrossfusion.cli import main\n"
        "try:\n    main(['convert', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'cv2', 'pandas', 'pydantic', 'h5py', 'zarr', 'shapely'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- writing -------------------------------------------------------------------------------------


def test_bags_come_back_from_h5_as_they_were(tmp_path):
    bag = own_bag()
    bag.save(tmp_path / "bags" / "s.zarr")
    result = run(
        "--bags", tmp_path / "bags", "--output-format", "h5", "--output-path", tmp_path / "h5"
    )
    assert result.exit_code == 0, result.output
    result = run("--bags", tmp_path / "h5", "--output-path", tmp_path / "again")
    assert result.exit_code == 0, result.output
    again = FeatureBag.load(tmp_path / "again" / "s.zarr")
    assert_same_arrays(bag, again)
    assert again.provenance.model_copy(update={"imported": ""}) == bag.provenance
    assert again.provenance.imported.startswith("tiacrossfusion h5: ")
    assert not any(bag_caveats(again))  # it is this package's all the same
    result = run("--bags", tmp_path / "h5", "--output-path", tmp_path / "o", "--encoder", "other")
    assert_failed(result, "--encoder other", "the files say test")


def test_h5_files_are_read_as_trident_files(tmp_path):
    bag = own_bag()
    bag.save(tmp_path / "s.zarr")
    run("--bags", tmp_path / "s.zarr", "--output-format", "h5", "--output-path", tmp_path)
    for scale in SCALES:
        with h5py.File(tmp_path / FOLDERS[scale] / "s.h5", "a") as file:
            assert file["features"].dtype == np.float32
            assert np.array_equal(file["features"][()], bag.scales[scale].features)
            assert np.array_equal(file["coords"][()], bag.scales[scale].bounds[:, :2])
            assert dict(file["coords"].attrs) == {
                "patch_size": 256,
                "patch_size_level0": round(506.3 * CELLS_20X[scale]),
                "target_magnification": int(scale[:-1]),
                "level0_magnification": 40,
                "level0_width": 41000,
                "level0_height": 42000,
                "overlap": 0,
                "name": "s",
            }
            assert file["features"].attrs["encoder"] == "test"
            del file.attrs["tiacrossfusion_provenance"]  # what another program would leave
    (slide,) = find_slide_files({s: tmp_path / f for s, f in FOLDERS.items()})
    again, notes = import_bag(slide, ImportOptions())
    assert not notes
    for scale in SCALES:
        difference = again.scales[scale].bounds - bag.scales[scale].bounds
        assert np.abs(difference[:, :2]).max() == 0
        assert np.abs(difference).max() <= 1  # cells are 506 or 507 px wide
        assert again.scales[scale].grid is None


def test_bags_come_back_from_pt_with_their_features(tmp_path):
    bag = own_bag()
    bag.save(tmp_path / "bags" / "s.zarr")
    run("--bags", tmp_path / "bags", "--output-format", "pt", "--output-path", tmp_path / "pt")
    for scale in SCALES:
        path = tmp_path / "pt" / FOLDERS[scale] / "pt_files" / "s.pt"
        tensor = torch.load(path, weights_only=True)
        assert tensor.dtype == torch.float32
        assert np.array_equal(tensor.numpy(), bag.scales[scale].features)
    result = run("--bags", tmp_path / "pt", "--output-path", tmp_path / "o", "--encoder", "e")
    assert result.exit_code == 0, result.output
    again = FeatureBag.load(tmp_path / "o" / "s.zarr")
    for scale in SCALES:
        assert np.array_equal(again.scales[scale].features, bag.scales[scale].features)
        assert again.scales[scale].bounds is None


def test_from_trident_straight_to_tensors(tmp_path):
    xy = trident_slide(tmp_path / "in")
    folders = [x for f in FOLDERS.values() for x in (f"--{f}", tmp_path / "in" / f)]
    result = run(*folders, "--output-format", "pt", "--output-path", tmp_path / "o")
    assert result.exit_code == 0, result.output
    tensor = torch.load(tmp_path / "o" / "x5" / "pt_files" / "s.pt", weights_only=True)
    assert tensor.shape == (len(xy["5x"]), WIDTH)


def test_bags_without_positions_make_no_h5(tmp_path):
    pt_slide(tmp_path / "in")
    result = run(
        "--bags", tmp_path / "in", "--encoder", "e", "--output-format", "h5", "--output-path",
        tmp_path / "o",
    )  # fmt: skip
    assert_failed(result, "s: it is not known where its 5x patches lie", "write pt files")
    assert not list((tmp_path / "o").rglob("*s.h5*"))


def test_h5_files_changed_since_are_refused(tmp_path):
    own_bag().save(tmp_path / "s.zarr")
    run("--bags", tmp_path / "s.zarr", "--output-format", "h5", "--output-path", tmp_path / "in")
    with h5py.File(tmp_path / "in" / "x5" / "s.h5", "a") as file:
        file["coords"][0] = (7, 7)
    result = run("--bags", tmp_path / "in", "--output-path", tmp_path / "out")
    assert_failed(result, "was changed after tiacf wrote it")
    trident_slide(tmp_path / "t")
    shutil.copy(tmp_path / "t" / "x5" / "s.h5", tmp_path / "in" / "x5" / "s.h5")
    result = run("--bags", tmp_path / "in", "--output-path", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.count("FAILED") == 1


def test_h5_files_of_two_bags_do_not_mix(tmp_path):
    for seed in (0, 1):
        own_bag(seed, f"{seed}.svs").save(tmp_path / str(seed) / "s.zarr")
        source = tmp_path / str(seed)
        run("--bags", source, "--output-format", "h5", "--output-path", source)
    shutil.copy(tmp_path / "1" / "x5" / "s.h5", tmp_path / "0" / "x5" / "s.h5")
    (tmp_path / "0" / "s.zarr").rename(tmp_path / "away")
    result = run("--bags", tmp_path / "0", "--output-path", tmp_path / "out")
    assert_failed(result, "5x and 10x differ in the provenance")


# --- what is there ---------------------------------------------------------------------------------


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name != "tiacf.log"
    }


@pytest.mark.parametrize("output_format", ["bag", "h5", "pt"])
def test_the_same_content_is_skipped_and_other_content_kept(tmp_path, output_format):
    trident_slide(tmp_path / "in")
    out = tmp_path / "out"
    arguments = ("--bags", tmp_path / "in", "--output-path", out, "--output-format", output_format)
    assert run(*arguments).exit_code == 0
    before = state(out)
    again = run(*arguments)
    assert "1 of 1 slides converted (1 finished before)" in again.output
    assert state(out) == before
    edit(tmp_path / "in", "10x", "features", features(len(positions()["10x"]), 99))
    assert_failed(run(*arguments), "exists with other content", "give --overwrite")
    assert state(out) == before
    replaced = run(*arguments, "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    assert "finished before" not in replaced.output
    changed = {name for name, content in state(out).items() if before.get(name) != content}
    if output_format != "bag":  # only the scale that changed
        assert {name.split("/")[0] for name in changed} == {"x10"}
    assert changed
    assert "(1 finished before)" in run(*arguments).output


@pytest.mark.parametrize("kind", ["extracted bag", "folder", "h5", "pt"])
def test_what_convert_did_not_write_is_never_replaced(tmp_path, kind):
    source, out = tmp_path / "in", tmp_path / "out"
    trident_slide(source)
    output_format = kind if kind in ("h5", "pt") else "bag"
    if kind == "extracted bag":
        own_bag().save(out / "s.zarr")
    elif kind == "folder":
        (out / "s.zarr").mkdir(parents=True)
    elif kind == "h5":
        trident_slide(out, seed=3)
    else:
        pt_slide(out)
    before = state(out)
    result = run(
        "--bags", source, "--output-path", out, "--output-format", output_format, "--overwrite"
    )
    assert_failed(result, "exists and was not", "move it away")
    assert state(out) == before


@pytest.mark.parametrize("output_format", ["bag", "h5", "pt"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, output_format, existing):
    bag = own_bag()
    source, out = tmp_path / "s.zarr", tmp_path / "out"
    bag.save(source)
    trident_slide(tmp_path / "in")
    slides = find_slide_files({s: tmp_path / "in" / f for s, f in FOLDERS.items()})
    if existing:
        list(convert(slides, out, output_format=output_format))
        edit(tmp_path / "in", "20x", "features", features(N20, 7))
    before = state(out)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "bag": "zarr.Group.create_array",
        "h5": "h5py.Group.create_dataset",
        "pt": "torch.save",
    }[output_format]
    monkeypatch.setattr(target, full)
    with pytest.raises(OutputError, match=r"out: the output folder cannot be written \(No space"):
        list(convert(slides, out, output_format=output_format, overwrite=True))
    monkeypatch.undo()
    assert state(out) == before
    assert not list(out.rglob(".*"))
    (outcome,) = convert(slides, out, output_format=output_format, overwrite=True)
    assert outcome.status == "ok"


@pytest.mark.slow
@pytest.mark.process
def test_a_full_disk_ends_the_command_in_one_line(tmp_path):
    own_bag().save(tmp_path / "s.zarr")
    code = (
        "import resource, signal\nfrom tiacrossfusion.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "for kind in ('h5', 'pt'):\n"
        "    try:\n"
        "        main(['convert', '--bags', 's.zarr', '--output-format', kind, '--output-path', kind])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 2
    assert all("the output folder cannot be written (File too large)" in line for line in errors)
    for kind in ("h5", "pt"):
        files = [path.name for path in (tmp_path / kind).rglob("*") if path.is_file()]
        assert files == ["tiacf.log"]
