"""`tiacf predict` on simulated and real slides: what it writes, resumes, refuses and repeats."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from command_line import assert_failed, assert_usage

from tiacrossfusion.cli import main

FILES = ["{}.geojson", "{}_10x.geojson", "{}_5x.geojson", "{}_attention.png", "{}_survival.png"]


def predict(source: Path, out: Path, *options: str) -> Result:
    arguments = ["predict", "--img-input", str(source), "--output-path", str(out), *options]
    return CliRunner().invoke(main, arguments)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def visible(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def contents(out: Path) -> dict[str, bytes]:
    """All result files, the table without its column of seconds."""
    files = {name: (out / name).read_bytes() for name in visible(out) if name != "tiacf.log"}
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in table(out)]
    return files | {"predictions.csv": json.dumps(rows).encode()}


@pytest.fixture(scope="module")
def predicted(simulated, tmp_path_factory) -> Path:
    """Results for the two simulated slides."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    result = predict(simulated, out)
    assert result.exit_code == 0, result.output
    assert "2 of 2 slides done" in result.output
    assert "clinical use" in result.output
    return out


def test_every_slide_gets_its_files_and_its_row(predicted):
    expected = [pattern.format(name) for name in ("low", "high") for pattern in FILES]
    assert visible(predicted) == sorted([*expected, "predictions.csv", "report.html", "tiacf.log"])
    rows = {row["slide"]: row for row in table(predicted)}
    assert set(rows) == {"low.svs", "high.svs"}
    for row in rows.values():
        survival = [float(row[f"survival_{k}"]) for k in range(1, 5)]
        edges = [float(row[f"bin_edge_{k}"]) for k in range(1, 5)]
        assert survival == sorted(survival, reverse=True)
        assert edges == sorted(edges)
        assert float(row["risk"]) == pytest.approx(-sum(survival), abs=1e-6)
        assert 0 <= float(row["percentile"]) <= 100
        assert row["risk_group"] in ("low", "high")
        assert row["median_reached"] == ("true" if row["median_survival"] else "false")
        assert row["time_unit"] == "months"
        assert row["status"] == "ok"
        assert row["model"] == "nested-demo"
        assert "not for clinical use" in row["notice"].lower()
        assert int(row["patches_20x"]) > int(row["patches_10x"]) > int(row["patches_5x"]) > 0
        assert float(row["seconds"]) > 0
    assert float(rows["high.svs"]["risk"]) > float(rows["low.svs"]["risk"])


def test_geojson_holds_the_tiles_with_attention_of_all_scales(predicted):
    row = next(row for row in table(predicted) if row["slide"] == "low.svs")
    for suffix, scale in (("", "20x"), ("_10x", "10x"), ("_5x", "5x")):
        document = json.loads((predicted / f"low{suffix}.geojson").read_text())
        kinds = [f["properties"]["objectType"] for f in document["features"]]
        assert kinds.count("tile") == int(row[f"patches_{scale}"])
        assert kinds.count("annotation") == len(kinds) - kinds.count("tile")
        tile = next(f for f in document["features"] if f["properties"]["objectType"] == "tile")
        if scale == "20x":
            scores = {"Attribution total", "Attribution 20x", "Attention 20x"}
            assert scores <= set(tile["properties"]["measurements"])
            assert "annotation" in kinds


@pytest.mark.process
def test_geojson_passes_the_rules_of_qupath(predicted, shared):
    checker = shared / "tools" / "check_geojson.py"
    for path in predicted.glob("*.geojson"):
        subprocess.run([sys.executable, str(checker), str(path)], check=True, capture_output=True)


def test_pictures_are_pictures(predicted):
    for path in predicted.glob("*.png"):
        image = cv2.imread(str(path))
        assert image is not None
        assert min(image.shape[:2]) > 300
        assert image.std() > 5


@pytest.mark.slow
def test_the_result_depends_on_neither_batch_size_nor_workers(simulated, predicted, tmp_path):
    result = predict(simulated, tmp_path / "out", "--batch-size", "5", "--num-workers", "0")
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "out") == contents(predicted)


@pytest.mark.slow
def test_finished_slides_are_skipped_until_overwritten(simulated, predicted, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(predicted, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.geojson")}
    result = predict(simulated, out)
    assert result.exit_code == 0
    assert result.output.count("skipped") == 2
    assert before == {path.name: path.stat().st_mtime_ns for path in out.glob("*.geojson")}
    (out / "low_5x.geojson").unlink()
    result = predict(simulated, out)
    assert result.output.count("skipped") == 1, "a missing file is made again"
    assert contents(out) == contents(predicted)
    result = predict(simulated / "low.svs", out, "--overwrite")
    assert "skipped" not in result.output
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.geojson")}
    assert after["low.geojson"] != before["low.geojson"]
    assert after["high.geojson"] == before["high.geojson"]
    assert len(table(out)) == 2


def test_the_report_shows_every_slide_also_those_that_fail(simulated, blank, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(simulated / "low.svs", slides / "<b>low & 'quoted'.svs")
    shutil.copy(blank, slides / "blank.svs")
    result = predict(slides, tmp_path / "out", "--gzip", "--no-attribution")
    assert result.exit_code == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;low &amp; &#39;quoted&#39;.svs" in page
    assert "<b>low" not in page
    assert "no tissue found" in page
    assert "What each scale adds to the risk" not in page
    with gzip.open(tmp_path / "out" / "<b>low & 'quoted'.geojson.gz", "rt") as file:
        tiles = json.load(file)["features"]
    assert not any("Attribution" in m for t in tiles for m in t["properties"]["measurements"])
    rows = {row["slide"]: row for row in table(tmp_path / "out")}
    assert rows["<b>low & 'quoted'.svs"]["contribution_20x"] == ""


def test_a_page_of_someone_else_is_not_replaced(simulated, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("<html>of someone else</html>")
    assert_failed(predict(simulated / "low.svs", out), "report.html", "not written by tiacf")
    assert (out / "report.html").read_text() == "<html>of someone else</html>"


def test_a_result_of_another_model_is_not_replaced_unasked(simulated, predicted, tmp_path):
    from tiacrossfusion.models.files import shipped_bundles

    out, model = tmp_path / "out", tmp_path / "other"
    shutil.copytree(predicted, out)
    shutil.copytree(shipped_bundles()["nested-demo"], model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"name": "other"}))
    before = contents(out)
    result = predict(simulated / "low.svs", out, "--model", str(model))
    assert_failed(result, "low.svs", "another model", "--overwrite")
    remarks = {row["slide"]: row["message"] for row in table(out)}
    assert remarks["low.svs"].startswith("the last attempt failed: ")
    assert "another model" in remarks["low.svs"]
    assert remarks["high.svs"] == ""
    # The page has the card of the model that was asked for.
    told = {"predictions.csv": b"", "report.html": b""}
    assert contents(out) | told == before | told
    result = predict(simulated / "low.svs", out, "--model", str(model), "--overwrite")
    assert result.exit_code == 0
    assert sorted(row["model"] for row in table(out)) == ["nested-demo", "other"]


def test_other_peoples_files_are_left_alone(simulated, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "low.geojson").write_text("annotations of a pathologist")
    (out / "notes.txt").write_text("keep")
    for options in ([], ["--overwrite"]):
        result = predict(simulated / "low.svs", out, *options)
        assert_failed(result, "low.geojson", "not written by tiacf")
        assert (out / "low.geojson").read_text() == "annotations of a pathologist"
        assert (out / "notes.txt").read_text() == "keep"


def test_other_peoples_table_is_left_alone(simulated, tmp_path):
    (tmp_path / "predictions.csv").write_text("mine")
    assert_failed(predict(simulated, tmp_path, "--overwrite"), "predictions.csv", "not written")
    assert (tmp_path / "predictions.csv").read_text() == "mine"


@pytest.mark.slow
def test_names_leave_room_for_each_others_files(simulated, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a_5x.svs").write_text("not a slide yet")
    shutil.copy(simulated / "low.svs", tmp_path / "in" / "a.svs")
    assert predict(tmp_path / "in", tmp_path / "out").exit_code == 1
    shutil.copy(simulated / "high.svs", tmp_path / "in" / "a_5x.svs")
    assert predict(tmp_path / "in", tmp_path / "out").exit_code == 0
    assert len({row["output"] for row in table(tmp_path / "out")}) == 2


def test_one_name_goes_to_one_slide_when_runs_overlap(tmp_path):
    from tiacrossfusion.runs.record import Record, names_for
    from tiacrossfusion.runs.results_folder import ResultsFolder

    def claim(folder: ResultsFolder, source: str) -> Record:
        return folder.claim(source, ("s", *names_for("s", source)), str)

    folders = [ResultsFolder(tmp_path), ResultsFolder(tmp_path)]
    names = [claim(f, f"/{n}/s.svs").name for n, f in enumerate(folders)]
    assert names[0] == "s"
    assert names[1].startswith("s-")
    assert claim(folders[0], "/1/s.svs").name == names[1]


def test_symlinked_slides_have_masks_of_their_own_name(simulated, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "case 1.svs").symlink_to(simulated / "low.svs")
    (tmp_path / "in" / "._case 1.svs").write_text("what macOS leaves behind")
    cv2.imwrite(str(tmp_path / "case 1.png"), np.full((150, 180), 255, np.uint8))
    result = predict(tmp_path / "in", tmp_path / "out", "--masks", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "case 1.geojson").exists()


@pytest.mark.slow
def test_two_links_to_one_slide_are_one_slide(simulated, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("one.svs", "two.svs"):
        (tmp_path / "in" / name).symlink_to(simulated / "low.svs")
    result = predict(tmp_path / "in", tmp_path / "out")
    assert "paths to slides that are listed already: 1" in result.output
    assert [row["slide"] for row in table(tmp_path / "out")] == ["one.svs"]


def test_a_failed_second_attempt_keeps_the_result_and_says_so(simulated, tmp_path):
    shutil.copy(simulated / "low.svs", tmp_path / "low.svs")
    assert predict(tmp_path / "low.svs", tmp_path / "out").exit_code == 0
    before = (tmp_path / "out" / "low.geojson").read_bytes()
    (tmp_path / "low.svs").write_text("damaged")
    result = predict(tmp_path / "low.svs", tmp_path / "out", "--overwrite")
    assert_failed(result, "low.svs")
    (row,) = table(tmp_path / "out")
    assert row["status"] == "ok"
    assert row["message"].startswith("the last attempt failed")
    assert (tmp_path / "out" / "low.geojson").read_bytes() == before


def test_a_slide_that_was_replaced_has_a_remark_until_it_is_back(simulated, tmp_path):
    slide, out = tmp_path / "a.svs", tmp_path / "out"
    shutil.copy2(simulated / "low.svs", slide)
    assert predict(slide, out, "--mpp", "1.0").exit_code == 0
    (before,) = table(out)
    assert "enlarged" in before["message"]
    shutil.copy2(simulated / "high.svs", slide)
    for _ in range(2):
        result = predict(slide, out, "--mpp", "1.0")
        assert_failed(result, "a.svs", "another slide file", "--overwrite")
        (row,) = table(out)
        assert row["message"].startswith("the last attempt failed: ")
        assert "another slide file" in row["message"]
        assert row["message"].endswith(before["message"])
        assert row | {"message": ""} == before | {"message": ""}
        assert "another slide file" in (out / "report.html").read_text(encoding="utf-8")
    shutil.copy2(simulated / "low.svs", slide)
    result = predict(slide, out, "--mpp", "1.0")
    assert result.exit_code == 0, result.output
    assert "finished before, skipped" in result.output
    assert table(out) == [before]
    assert "another slide file" not in (out / "report.html").read_text(encoding="utf-8")


def test_a_damaged_record_is_named(simulated, tmp_path):
    assert predict(simulated / "low.svs", tmp_path).exit_code == 0
    (tmp_path / ".tiacf" / "low.json").write_text("{")
    assert_failed(predict(simulated / "low.svs", tmp_path), "low.json", "damaged")


def test_a_log_that_cannot_be_written_is_named(simulated, tmp_path):
    (tmp_path / "tiacf.log").mkdir()
    assert_failed(predict(simulated / "low.svs", tmp_path), "tiacf.log", "cannot be written")


def test_a_coarse_scan_is_remarked_on(simulated, tmp_path):
    result = predict(simulated / "low.svs", tmp_path / "out", "--mpp", "1.0")
    assert result.exit_code == 0, result.output
    (row,) = table(tmp_path / "out")
    assert "enlarged 2 times" in row["message"]
    assert "enlarged 2 times" in result.output
    assert "taken as 1 microns per pixel while the file says 0.5" in row["message"]
    assert row["mpp"] == "1"


def test_a_tiny_slide_is_predicted(tmp_path):
    from tiacrossfusion.simulation.parameters import TissueParameters
    from tiacrossfusion.simulation.slide import render_slide

    path = tmp_path / "tiny.svs"
    render_slide(path, TissueParameters(0.5, 0.5, 0.5), size=(700, 600), mpp=0.5, seed=3)
    result = predict(path, tmp_path / "out")
    assert result.exit_code == 0, result.output
    (row,) = table(tmp_path / "out")
    assert row["patches_5x"] == "1"


@pytest.mark.slow
def test_slides_of_one_stem_do_not_overwrite_each_other(simulated, tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, source in zip(folders, ("low.svs", "high.svs"), strict=True):
        folder.mkdir()
        shutil.copy(simulated / source, folder / "slide.svs")
    for _ in range(2):  # the second round finds both finished
        results = [predict(folder, tmp_path / "out") for folder in folders]
        assert [result.exit_code for result in results] == [0, 0]
    assert results[0].output.count("skipped") == results[1].output.count("skipped") == 1
    rows = table(tmp_path / "out")
    assert len({row["output"] for row in rows}) == len({row["risk"] for row in rows}) == 2
    assert len(list((tmp_path / "out").glob("*_5x.geojson"))) == 2


def test_results_inside_the_folder_of_slides(simulated, tmp_path):
    shutil.copy(simulated / "low.svs", tmp_path / "low.svs")
    for options in ([], ["--overwrite"]):
        assert predict(tmp_path, tmp_path, *options).exit_code == 0
    assert (tmp_path / "low.svs").exists()
    assert (tmp_path / "low.geojson").exists()


def test_an_interrupted_slide_leaves_nothing_half_written(simulated, tmp_path, monkeypatch):
    from tiacrossfusion.outputs import files as outputs

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "survival_figure", interrupt)
        result = predict(simulated / "low.svs", tmp_path / "out")
    assert result.exit_code == 130
    assert visible(tmp_path / "out") == ["tiacf.log"]
    assert [path.name for path in (tmp_path / "out" / ".tiacf").glob("*.*")] == ["low.json"]
    assert predict(simulated / "low.svs", tmp_path / "out").exit_code == 0


@pytest.mark.process
def test_files_of_a_killed_run_are_swept_away(simulated, tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    host = os.uname().nodename
    left = tmp_path / "out" / ".tiacf" / f"staging-{host}-{int(dead.stdout)}-abcdef01"
    alive = tmp_path / "out" / ".tiacf" / f"staging-{host}-{os.getpid()}-abcdef01"
    left.mkdir(parents=True)
    alive.mkdir()
    assert predict(simulated / "low.svs", tmp_path / "out").exit_code == 0
    assert not left.exists()
    assert alive.exists()


def test_bad_slides_are_named_and_the_others_go_on(simulated, blank, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(simulated / "low.svs", slides / "good slide, (1).svs")
    shutil.copy(blank, slides / "blank.svs")
    (slides / "text.svs").write_text("not a slide")
    (slides / "empty.svs").touch()
    content = (simulated / "high.svs").read_bytes()
    (slides / "truncated.svs").write_bytes(content[: len(content) // 2])
    (slides / "link.svs").symlink_to(slides / "absent.svs")
    result = predict(slides, tmp_path / "out")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "1 of 6 slides done" in result.output
    rows = {row["slide"]: row for row in table(tmp_path / "out")}
    for name, word in (
        ("blank.svs", "no tissue"),
        ("text.svs", "not a slide"),
        ("empty.svs", "empty"),
        ("truncated.svs", "damaged"),
        ("link.svs", "a link to a file that is not there"),
    ):
        assert rows[name]["status"] == "failed"
        assert word in rows[name]["message"]
        assert "\n" not in rows[name]["message"]
        assert str(slides / name) in result.output
    assert rows["good slide, (1).svs"]["status"] == "ok"
    assert not list((tmp_path / "out").glob("blank*"))
    log = (tmp_path / "out" / "tiacf.log").read_text()
    assert "Traceback" in log, "the log tells more than the console"


def test_masks_restrict_the_patches(simulated, predicted, tmp_path):
    image = np.zeros((150, 180), np.uint8)
    image[:75] = 255
    cv2.imwrite(str(tmp_path / "low.png"), image)
    result = predict(simulated / "low.svs", tmp_path / "out", "--masks", str(tmp_path))
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out" / "low.geojson").read_text())
    tops = [f["geometry"]["coordinates"][0][0][1] for f in document["features"]]
    assert max(tops) < 800
    result = predict(simulated, tmp_path / "out2", "--masks", str(tmp_path))
    assert_failed(result, "no mask for high.svs")
    assert len(list((tmp_path / "out2").glob("*_5x.geojson"))) == 1


@pytest.mark.parametrize("output_type", ["zarr", "annotationstore"])
def test_other_output_types(simulated, predicted, tmp_path, output_type):
    out = tmp_path / "out"
    result = predict(simulated / "low.svs", out, "--output-type", output_type)
    assert result.exit_code == 0, result.output
    row = next(row for row in table(predicted) if row["slide"] == "low.svs")
    if output_type == "zarr":
        import zarr

        group = zarr.open_group(out / "low.zarr", mode="r")
        assert group.attrs["risk"] == pytest.approx(float(row["risk"]), abs=1e-6)
        assert group["attention/20x"].shape == (int(row["patches_20x"]),)
        assert group["bounds/5x"].shape == (int(row["patches_5x"]), 4)
        assert group["survival"].shape == (4,)
        assert "clinical use" in group.attrs["notice"]
    else:
        from tiacrossfusion.outputs.annotation_store import open_annotation_store

        store = open_annotation_store(out / "low.db")
        tiles = [a for a in store.values() if a.properties["type"] == "Tile"]
        assert len(tiles) == int(row["patches_20x"])
    assert not list(out.glob("*.geojson"))


def test_unwritable_output_gets_one_line(simulated, tmp_path):
    (tmp_path / "file").touch()
    assert_usage(predict(simulated, tmp_path / "file"), "is a file", "--output-path")
    assert_failed(predict(simulated, tmp_path / "file" / "sub"), "cannot be written")


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), sqlite3.OperationalError("No space left on device")],
)
def test_a_full_disk_ends_the_run_in_one_line(simulated, tmp_path, monkeypatch, error):
    from tiacrossfusion.outputs.geojson_files import QuPathWriter

    def no_space(*args, **kwargs):
        raise error

    monkeypatch.setattr(QuPathWriter, "write", no_space)
    result = predict(simulated, tmp_path / "out")
    assert_failed(result, "No space left on device", "--output-path")
    assert visible(tmp_path / "out") == ["tiacf.log"]


def test_a_bundle_with_unknowns_leaves_columns_empty_and_says_why(simulated, tmp_path):
    from tiacrossfusion.models.bundle import load_bundle, save_bundle

    demo = load_bundle("crossfusion-demo")
    config = demo.config.model_copy(update={"time_bins": None, "risk_reference": None})
    save_bundle(tmp_path / "bundle", config, demo.network)
    result = predict(simulated / "low.svs", tmp_path / "out", "--model", str(tmp_path / "bundle"))
    assert result.exit_code == 0, result.output
    (row,) = table(tmp_path / "out")
    for column in ("percentile", "risk_group", "median_survival", "median_reached", "time_unit"):
        assert row[column] == ""
    assert "no time bins" in row["message"]
    assert "no training risks" in row["message"]
    assert float(row["survival_4"]) > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CMU-1-Small-Region.svs", []),
        ("tcga-cr-7395-01a-01-ts1.svs", ["--power", "40"]),
    ],
)
def test_real_slides(real_slides, tmp_path, name, options):
    result = predict(real_slides / name, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    (row,) = table(tmp_path / "out")
    assert row["status"] == "ok"
    assert int(row["patches_20x"]) >= 36


def test_real_slides_that_must_be_refused(real_slides, tmp_path):
    result = predict(real_slides / "wsi_dicom_cmu1_small_region", tmp_path / "out")
    assert_failed(result, "TIAToolbox's DICOM reader")
    result = predict(real_slides / "test3-DAPI-2-387.ndpi", tmp_path / "out")
    assert_failed(result, "not a brightfield slide", "--masks")
    result = predict(real_slides / "tcga-cr-7395-01a-01-ts1.svs", tmp_path / "out")
    assert_failed(result, "--mpp", "--power")
    assert [row["status"] for row in table(tmp_path / "out")] == ["failed"] * 3
