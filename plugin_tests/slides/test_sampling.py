"""Grids nest and cover, patches are at their scale, and every bad slide gets one clear line."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiatoolbox.tools.patchextraction import PatchExtractor
from tiatoolbox.wsicore.wsireader import VirtualWSIReader

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.batches import read_batches
from tiacrossfusion.slides.files import find_slides
from tiacrossfusion.slides.grid import nested_grids
from tiacrossfusion.slides.mask_files import find_mask
from tiacrossfusion.slides.overview import read_whole
from tiacrossfusion.slides.patches import read_patch
from tiacrossfusion.slides.readers.choice import choose_reader
from tiacrossfusion.slides.slide import Slide, open_slide
from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec
from tiacrossfusion.slides.tissue import MIN_CONTRAST, tissue_mask, user_mask

SPEC = SamplingSpec()


def array_slide(width: int, height: int, mpp: tuple[float, float] = (0.5, 0.5)) -> Slide:
    """A slide of known geometry; its pixels are not read."""
    reader = VirtualWSIReader(np.zeros((4, 4, 3), np.uint8))
    return Slide(reader, None, (width, height), mpp, 20.0)


def sampled(path, **scale):
    slide = open_slide(path, **scale)
    return slide, nested_grids(slide, tissue_mask(slide, SPEC), SPEC)


def assert_nested(grids, dimensions) -> None:
    """Children tile their parent to the pixel and every kept cell has its ancestors."""
    for child_scale, parent_scale in (("20x", "10x"), ("10x", "5x")):
        child, parent = grids[child_scale], grids[parent_scale]
        by_cell = {
            tuple(cell): bounds for cell, bounds in zip(parent.grid, parent.bounds, strict=True)
        }
        for cell, (x0, y0, x1, y1) in zip(child.grid, child.bounds, strict=True):
            px0, py0, px1, py1 = by_cell[tuple(cell // 2)]  # KeyError: a cell without its parent
            assert (x0 == px0) if cell[0] % 2 == 0 else (x1 == px1)
            assert (y0 == py0) if cell[1] % 2 == 0 else (y1 == py1)
            assert px0 <= x0 < x1 <= px1
            assert py0 <= y0 < y1 <= py1
        assert {tuple(cell // 2) for cell in child.grid} == set(by_cell)
    for grid in grids.values():
        edges = {}  # each lattice line has one position, whichever cell it is read from
        for (column, row), (x0, y0, x1, y1) in zip(grid.grid, grid.bounds, strict=True):
            for line, position in (
                (("x", column), x0),
                (("x", column + 1), x1),
                (("y", row), y0),
                (("y", row + 1), y1),
            ):
                assert edges.setdefault(line, position) == position
        assert (grid.bounds[:, :2] < dimensions).all()
        order = [(row, column) for column, row in grid.grid]
        assert order == sorted(order)


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
    mpp_x=st.floats(0.1, 1.3),
    mpp_y=st.floats(0.1, 1.3),
)
def test_grids_nest_and_cover_any_slide(width, height, mpp_x, mpp_y):
    slide = array_slide(width, height, (mpp_x, mpp_y))
    grids = nested_grids(slide, None, SPEC)
    assert_nested(grids, (width, height))
    fine = grids["20x"]
    assert fine.bounds[:, :2].min() == 0
    assert fine.bounds[:, 2].max() >= width
    assert fine.bounds[:, 3].max() >= height
    inside = np.minimum(fine.bounds[:, 2:], (width, height)) - fine.bounds[:, :2]
    assert inside.prod(axis=1).sum() == width * height  # no gap, no overlap


def test_odd_mpp_rounds_each_line_once():
    grids = nested_grids(array_slide(13198, 11685, (0.2528, 0.2528)), None, SPEC)
    lines = np.unique(grids["20x"].bounds[:, [0, 2]])
    assert (lines == np.rint(np.arange(len(lines)) * 256 * 0.5 / 0.2528)).all()
    assert set(np.diff(lines)) == {506, 507}


@pytest.mark.parametrize("power", [20.0, 40.0])
def test_power_units_follow_the_microns_per_pixel_whatever_the_lens(power: float):
    slide = Slide(array_slide(1, 1).reader, None, (8192, 8192), (0.25, 0.25), power)
    grids = nested_grids(slide, None, SamplingSpec(units="power"))
    assert set(np.diff(grids["5x"].bounds[:, [0, 2]], axis=1).ravel()) == {2048}


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 120_000),
    height=st.integers(1, 120_000),
    mask_shape=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    mpp=st.floats(0.2, 1.2),
    share=st.sampled_from([0.02, 0.5, 0.95, 1.0]),
    ratio=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_the_same_cells_are_kept_as_by_the_toolbox(
    width, height, mask_shape, mpp, share, ratio, seed
):
    tissue = np.random.default_rng(seed).random(mask_shape) < share
    slide = array_slide(width, height, (mpp, mpp))
    mask = VirtualWSIReader(tissue, info=slide.reader.info, mode="bool")
    spec = SamplingSpec(min_mask_ratio=ratio)
    every = nested_grids(slide, None, spec)["20x"]
    kept = PatchExtractor.filter_coordinates(
        mask, every.bounds, wsi_shape=slide.dimensions, min_mask_ratio=ratio
    )
    found = nested_grids(slide, mask, spec)
    assert found["20x"].bounds.tolist() == every.bounds[kept].tolist()
    assert found["20x"].grid.tolist() == every.grid[kept].tolist()
    assert_nested(found, slide.dimensions)


@pytest.mark.parametrize("method", ["otsu", "morphological"])
@pytest.mark.parametrize("name", ["metaplasia_40x.svs", "CMU-1-Small-Region.svs"])
def test_the_tissue_is_that_of_the_toolbox_less_what_is_as_light_as_glass(
    real_slides, name, method
):
    slide = open_slide(real_slides / name)
    ours = tissue_mask(slide, SamplingSpec(mask_method=method)).img
    theirs = slide.reader.tissue_mask(method, SPEC.mask_mpp, "mpp").img.astype(bool)
    grey = cv2.cvtColor(slide.reader.slide_thumbnail(SPEC.mask_mpp, "mpp"), cv2.COLOR_RGB2GRAY)
    darker = grey <= np.median(grey[~theirs]) - MIN_CONTRAST
    assert (ours == (theirs & darker)).all()


@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("metaplasia_40x.svs", 8.0),  # from level 2, at 0.50 of its width
        ("metaplasia_40x.svs", 3.3),  # from level 1, at 0.31
        ("CMU-1-Small-Region.svs", 8.0),  # from its only level, at 0.06
        ("test3-DAPI-2-387.ndpi", 3.3),
    ],
)
@pytest.mark.parametrize("block", [150, 611])
def test_a_level_read_in_blocks_is_the_thumbnail(real_slides, name, mpp, block):
    slide = open_slide(real_slides / name)
    expected = slide.reader.slide_thumbnail(mpp, "mpp")
    assert (read_whole(slide, mpp)[0] == expected).all()
    in_blocks, _ = read_whole(slide, mpp, block=block)
    assert in_blocks.shape == expected.shape
    assert np.abs(in_blocks.astype(int) - expected).mean() < 0.7


def test_a_large_level_is_not_read_at_once():
    image = np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), np.uint8)
    slide = open_slide(VirtualWSIReader(image, mpp=(0.5, 0.5)))
    sizes = []
    read_rect = slide.reader.read_rect

    def recorded(*, size, **options):
        sizes.append(size)
        return read_rect(size=size, **options)

    slide.reader.read_rect = recorded
    assert read_whole(slide, 4.0, block=200)[0].shape == (138, 162, 3)
    assert len(sizes) == 6 * 7
    assert max(max(size) for size in sizes) <= 216


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("metaplasia_40x.svs", {}),
        ("celiac-disease_20x.svs", {}),
        ("granular-cell-tumor_20x.svs", {}),
        ("CMU-1-Small-Region.svs", {}),
        ("tcga-cr-7395-01a-01-ts1.svs", {"mpp": 0.25}),
        ("tcga-cr-7395-01a-01-ts1.svs", {"power": 40}),
    ],
)
def test_real_slides_give_nested_grids_on_tissue(real_slides, name, scale):
    slide, grids = sampled(real_slides / name, **scale)
    assert_nested(grids, slide.dimensions)
    assert all(len(grids[s]) > 0 for s in SCALES)
    mask = tissue_mask(slide, SPEC)
    image = mask.img
    factor = np.array(image.shape[::-1]) / slide.dimensions
    for x0, y0, x1, y1 in grids["20x"].bounds[::17]:
        (left, top), (right, bottom) = np.array([[x0, y0], [x1, y1]]) * factor
        assert image[int(top) : int(bottom), int(left) : int(right)].mean() > 0.4


def test_a_slide_smaller_than_one_5x_patch_is_sampled(tmp_path):
    from tiacrossfusion.simulation.parameters import TissueParameters
    from tiacrossfusion.simulation.slide import render_slide

    path = tmp_path / "tiny.svs"
    render_slide(path, TissueParameters(0.5, 0.5, 0.5), size=(700, 600), mpp=0.5, seed=3)
    slide, grids = sampled(path)
    assert len(grids["5x"]) == 1
    patch = read_patch(slide, grids["5x"].bounds[0], "5x", SPEC)
    assert patch.shape == (256, 256, 3)
    assert (patch[200:, 200:] == 255).all(), "beyond the slide is white"


def test_patches_show_their_bounds_at_their_scale(real_slides):
    slide, grids = sampled(real_slides / "metaplasia_40x.svs")
    import openslide

    with openslide.OpenSlide(real_slides / "metaplasia_40x.svs") as plain:
        for scale in SCALES:
            x0, y0, x1, y1 = grids[scale].bounds[len(grids[scale]) // 2]
            region = plain.read_region((x0, y0), 0, (x1 - x0, y1 - y0)).convert("RGB")
            expected = cv2.resize(np.array(region), (256, 256), interpolation=cv2.INTER_AREA)
            patch = read_patch(slide, (x0, y0, x1, y1), scale, SPEC)
            assert np.abs(patch.astype(int) - expected).mean() < 8


def test_batches_do_not_depend_on_size_or_workers(simulated):
    slide, grids = sampled(simulated / "low.svs")
    with choose_reader(slide, SPEC) as reader:

        def patches(batch_size, num_workers):
            batches = list(
                read_batches(
                    slide, grids, SPEC, reader, batch_size=batch_size, num_workers=num_workers
                )
            )
            assert all(len(batch.images) == batch_size for batch in batches[:-1])
            return [
                np.concatenate([getattr(batch, part) for batch in batches])
                for part in ("scales", "indices", "images")
            ]

        reference = patches(1, 0)
        assert len(reference[0]) == sum(len(grid) for grid in grids.values())
        for sizes in ((7, 2), (64, 3)):
            for part, same in zip(patches(*sizes), reference, strict=True):
                assert (part == same).all()


def test_readers_and_arrays_serve_as_slides(simulated):
    from tiatoolbox.wsicore.wsireader import WSIReader

    by_path, grids = sampled(simulated / "low.svs")
    reader = WSIReader.open(simulated / "low.svs")
    slide = open_slide(reader)
    assert slide.dimensions == by_path.dimensions
    array = reader.read_rect((0, 0), slide.dimensions)
    virtual = open_slide(VirtualWSIReader(array, mpp=(0.5, 0.5)))
    assert virtual.mpp == (0.5, 0.5)
    first = read_patch(virtual, grids["20x"].bounds[0], "20x", SPEC)
    assert (first == read_patch(by_path, grids["20x"].bounds[0], "20x", SPEC)).all()


def test_a_blank_slide_has_no_patches(blank):
    _, grids = sampled(blank)
    assert [len(grids[scale]) for scale in SCALES] == [0, 0, 0]


def test_fluorescence_is_refused_unless_a_mask_is_given(real_slides):
    slide = open_slide(real_slides / "test3-DAPI-2-387.ndpi")
    with pytest.raises(TiacfError, match=r"not a brightfield slide.*--masks"):
        tissue_mask(slide, SPEC)
    mask, _ = user_mask(slide, np.ones((152, 124), bool), SPEC)
    assert len(nested_grids(slide, mask, SPEC)["20x"]) > 0


def test_masks_as_image_and_geojson_agree(simulated, tmp_path):
    slide = open_slide(simulated / "low.svs")
    width, height = slide.dimensions
    image = np.zeros((height // 10, width // 10), np.uint8)
    image[30:90, 40:120] = 255
    cv2.imwrite(str(tmp_path / "low.png"), image)
    ring = [[400, 300], [1200, 300], [1200, 900], [400, 900], [400, 300]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    document = {"type": "FeatureCollection", "features": [feature]}
    (tmp_path / "low.geojson").write_text(json.dumps(document))
    kept = [
        nested_grids(slide, user_mask(slide, mask, SPEC)[0], SPEC)["20x"].grid.tolist()
        for mask in (tmp_path / "low.png", tmp_path / "low.geojson", image)
    ]
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) > 0


def test_geojson_masks_honour_the_bounds_offset_and_holes(tmp_path):
    outer = [[0, 0], [2048, 0], [2048, 2048], [0, 2048], [0, 0]]
    hole = [[512, 512], [1024, 512], [1024, 1024], [512, 1024], [512, 512]]
    geometry = {"type": "Polygon", "coordinates": [outer, hole]}
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "Feature", "geometry": geometry}))
    plain = array_slide(4096, 4096)
    shifted = Slide(plain.reader, None, plain.dimensions, plain.mpp, 20.0, offset=(1024, 2048))

    def origin_and_cells(slide):
        mask, _ = user_mask(slide, tmp_path / "m.geojson", SPEC)
        grid = nested_grids(slide, mask, SPEC)["20x"].grid
        return grid.min(axis=0).tolist(), len(grid)

    assert origin_and_cells(plain) == ([0, 0], 64 - 4)
    assert origin_and_cells(shifted) == ([4, 8], 64 - 4)


def test_a_bare_geometry_is_a_mask_and_one_elsewhere_is_not(tmp_path):
    slide = array_slide(4096, 4096)
    ring = [[-50, -50], [10**12, -50], [10**12, 10**12], [-50, 10**12], [-50, -50]]
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    assert user_mask(slide, tmp_path / "m.geojson", SPEC)[0].img.all()
    ring = [[x + 5000, y + 5000] for x, y in ring]
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with pytest.raises(TiacfError, match="outside array"):
        user_mask(slide, tmp_path / "m.geojson", SPEC)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((10, 100), bool), "does not have the shape"),
        (np.zeros((150, 180), bool), "empty"),
        (np.ones((3, 3, 3, 3), bool), "shape"),
    ],
)
def test_unfit_mask_arrays_are_refused(simulated, mask, message):
    with pytest.raises(TiacfError, match=message):
        user_mask(open_slide(simulated / "low.svs"), mask, SPEC)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("low.png", b"not a picture", "cannot be read"),
        ("low.geojson", b"{", "not a GeoJSON file"),
        ("low.txt", b"", "not a mask"),
        (None, b"", "no such file"),
    ],
)
def test_unfit_mask_files_are_refused(simulated, tmp_path, name, content, message):
    path = tmp_path / (name or "absent.png")
    if name:
        path.write_bytes(content)
    with pytest.raises(TiacfError, match=message) as caught:
        user_mask(open_slide(simulated / "low.svs"), path, SPEC)
    assert "\n" not in str(caught.value)


def test_masks_are_found_by_stem(tmp_path):
    (tmp_path / "a.png").touch()
    slide = tmp_path / "a.svs"
    assert find_mask(tmp_path, slide) == tmp_path / "a.png"
    assert find_mask(tmp_path / "a.png", slide) == tmp_path / "a.png"
    with pytest.raises(TiacfError, match=r"no mask for b\.svs"):
        find_mask(tmp_path, tmp_path / "b.svs")
    (tmp_path / "a.geojson").touch()
    with pytest.raises(TiacfError, match="several masks"):
        find_mask(tmp_path, slide)
    (tmp_path / "b.svs.geojson").touch()  # as QuPath may name it
    assert find_mask(tmp_path, tmp_path / "b.svs") == tmp_path / "b.svs.geojson"


def test_slides_are_found_in_a_folder(tmp_path, simulated):
    for name in ("b.SVS", "a.ndpi", "notes.txt", "thumb.png"):
        (tmp_path / name).touch()
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "level-0.dcm").touch()
    assert [p.name for p in find_slides(tmp_path).slides] == ["a.ndpi", "b.SVS", "dicom"]
    assert [p.name for p in find_slides(tmp_path, "*.png").slides] == ["dicom", "thumb.png"]
    assert find_slides(tmp_path / "dicom").slides == [tmp_path / "dicom"]
    with pytest.raises(TiacfError, match="no such file"):
        find_slides(tmp_path / "absent")
    with pytest.raises(TiacfError, match=r"--file-types"):
        find_slides(simulated, "*.ndpi")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.svs", b"this is not a slide", "not a slide"),
        ("empty.svs", b"", "is empty"),
        ("slide.xyz", b"0", "not a slide"),
    ],
)
def test_files_that_are_no_slides_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TiacfError, match=message) as caught:
        open_slide(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated_slides_are_refused(simulated, tmp_path, share):
    path = tmp_path / "truncated.svs"
    content = (simulated / "low.svs").read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    def read_all():
        slide, grids = sampled(path)
        with choose_reader(slide, SPEC) as reader:
            return list(read_batches(slide, grids, SPEC, reader, batch_size=8, num_workers=2))

    with pytest.raises(TiacfError, match=r"truncated\.svs"):
        read_all()


def test_an_unknown_scale_gets_its_remedy(real_slides):
    with pytest.raises(TiacfError, match=r"--mpp .*--power"):
        open_slide(real_slides / "tcga-cr-7395-01a-01-ts1.svs")


def test_the_users_scale_overrides_the_files(simulated):
    assert open_slide(simulated / "low.svs", mpp=0.25).mpp == (0.25, 0.25)
    assert open_slide(simulated / "low.svs", power=40).mpp == (0.25, 0.25)
    assert open_slide(simulated / "low.svs").power == 20
    with pytest.raises(TiacfError, match="no plausible scale"):
        open_slide(simulated / "low.svs", mpp=5000)


def test_cells_per_scale():
    assert [CELLS_20X[scale] for scale in SCALES] == [4, 2, 1]
    assert [SPEC.resolution(scale) for scale in SCALES] == [2.0, 1.0, 0.5]
    assert [SamplingSpec(units="power").resolution(s) for s in SCALES] == [5, 10, 20]
