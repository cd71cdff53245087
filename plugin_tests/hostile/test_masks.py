"""Masks as QuPath and other programs write them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.extraction import tissue_grids
from tiacrossfusion.slides.mask_files import find_mask
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.slide import Slide, open_slide
from tiacrossfusion.slides.spec import SamplingSpec

SPEC = SamplingSpec()


@pytest.fixture(scope="module")
def slide(simulated: Path) -> Slide:
    return open_slide(simulated / "low.svs")  # 1800 x 1500 at 0.5 mpp


def area(x0: int, y0: int, x1: int, y1: int, name: str = "", **more: object) -> dict[str, object]:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    kind = {"classification": {"name": name, "color": [200, 0, 0]}} if name else {}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", **kind, **more},
    }


def cells(slide: Slide, path: Path, *classes: str) -> tuple[set[tuple[int, int]], str]:
    read = ReadOptions(mask=path, mask_classes=classes)
    grids, said = tissue_grids(slide, SPEC, read)
    return set(map(tuple, grids["20x"].grid.tolist())), said


def written(path: Path, *features: object) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def block(columns: range, rows: range) -> set[tuple[int, int]]:
    return {(column, row) for column in columns for row in rows}


def test_classes_to_ignore_are_cut_out_wherever_they_lie(slide, tmp_path):
    tissue, fold = area(0, 0, 1024, 1024, "Tumor"), area(256, 256, 512, 768, "Ignore*")
    apart = area(1024, 0, 1536, 512, "Folds*")
    found, said = cells(slide, written(tmp_path / "m.geojson", fold, tissue, apart))
    assert found == block(range(4), range(4)) - block(range(1, 2), range(1, 3))
    assert said == "mask of Tumor, without Folds*, Ignore*"


def test_chosen_classes_are_taken_alone(slide, tmp_path):
    one, two = area(0, 0, 512, 512, "Tumor"), area(512, 512, 1024, 1024, "Stroma")
    path = written(tmp_path / "m.geojson", one, two, area(1024, 0, 1280, 256))
    assert cells(slide, path, "Stroma")[0] == block(range(2, 4), range(2, 4))
    assert (
        cells(slide, path, "Stroma")[1] == "mask of Stroma; not used: areas without a class, Tumor"
    )
    both = block(range(2), range(2)) | block(range(2, 4), range(2, 4))
    assert cells(slide, path)[0] == both | {(4, 0)}
    with pytest.raises(TiacfError, match="no area of the class Necrosis, there are Stroma, Tumor"):
        cells(slide, path, "Necrosis")
    Image.new("L", (180, 150), 1).save(tmp_path / "image.png")
    with pytest.raises(TiacfError, match="an image has no classes; leave --mask-class out"):
        cells(slide, tmp_path / "image.png", "Stroma")
    only = written(tmp_path / "i.geojson", area(0, 0, 512, 512, "Ignore*"))
    with pytest.raises(TiacfError, match="no area in it that is not to be ignored"):
        cells(slide, only)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
def test_files_in_every_coding_with_nan_are_read(slide, tmp_path, coding):
    mask = area(0, 0, 512, 512, "Tumör", measurements=[{"name": "Area", "value": float("nan")}])
    text = json.dumps([mask], ensure_ascii=False)
    assert "NaN" in text
    path = tmp_path / ("m.geojson.gz" if coding == "gzip" else "m.geojson")
    path.write_bytes(gzip.compress(text.encode()) if coding == "gzip" else text.encode(coding))
    assert cells(slide, path) == (block(range(2), range(2)), "mask of Tumör")


def test_our_own_result_is_no_mask(slide, tmp_path):
    tile = area(0, 0, 256, 256, measurements={"Attribution total": 0.5})
    with pytest.raises(TiacfError, match="a result of tiacf, no mask"):
        cells(slide, written(tmp_path / "low.geojson", tile))


def test_label_0_of_an_indexed_image_is_background_whatever_its_colour(slide, tmp_path):
    labels = np.zeros((150, 180), np.uint8)
    labels[:50, :50] = 1
    image = Image.fromarray(labels, "P")
    image.putpalette([255, 255, 255, 0, 0, 0] + [90] * 762)
    image.save(tmp_path / "m.png")
    Image.fromarray(labels).save(tmp_path / "grey.png")
    assert cells(slide, tmp_path / "m.png")[0] == cells(slide, tmp_path / "grey.png")[0]
    assert 0 < len(cells(slide, tmp_path / "m.png")[0]) <= 4


@pytest.mark.parametrize(
    "name", ["a.geojson.gz", "a.svs.geojson", "a_mask.png", "a.JSON", "a.svs_mask.tif"]
)
def test_usual_names_of_masks_are_found(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "ab.png").touch()
    (tmp_path / "a.txt").touch()
    assert find_mask(tmp_path, Path("a.svs")) == tmp_path / name
    with pytest.raises(TiacfError, match=r"no mask for b\.svs"):
        find_mask(tmp_path, Path("b.svs"))
