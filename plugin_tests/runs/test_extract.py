"""`tiacf extract`: bags on disk, what is skipped, made again, refused and left alone."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from command_line import assert_failed, assert_usage

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cli import main
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.io.atomic import OutputError
from tiacrossfusion.runs.bags_folder import BagsFolder, record_names
from tiacrossfusion.runs.extraction import extract as extract_slides
from tiacrossfusion.runs.extraction import plan_extraction
from tiacrossfusion.runs.extraction_task import ExtractionOptions
from tiacrossfusion.runs.processes import process_here
from tiacrossfusion.runs.record import Record, source_of
from tiacrossfusion.slides.options import ReadOptions, Scale


def extract(source: Path, bags: Path, *options: str) -> Result:
    arguments = ["extract", "--img-input", str(source), "--output-path", str(bags), *options]
    return CliRunner().invoke(main, arguments)


def table(bags: Path) -> dict[str, dict[str, str]]:
    with (bags / "extraction.csv").open(newline="", encoding="utf-8") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def visible(bags: Path) -> list[str]:
    return sorted(path.name for path in bags.iterdir() if not path.name.startswith("."))


class MeanColour:
    """An encoder whose features can be checked by hand: the mean of R, G and B, and a constant."""

    precision = "float32"

    def __init__(self, constant: float = 0.0) -> None:
        self.constant = constant
        self.images = 0
        self.spec = EncoderSpec(
            name=f"mean-colour-{constant}", width=4, mean=(0, 0, 0), std=(1, 1, 1), input_size=256
        )

    def encode(self, images: np.ndarray) -> np.ndarray:
        self.images += len(images)
        colours = images.mean(axis=(1, 2)) / 255  # (B, 3)
        constant = np.full((len(images), 1), self.constant)
        return np.hstack([colours, constant]).astype(np.float16)

    def encode_stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return map(self.encode, batches)


@pytest.fixture(scope="module")
def drawn(small_slide, tmp_path_factory) -> Path:
    """Folder with two tiny slides of 0.5 mpp."""
    from tiacrossfusion.simulation.parameters import TissueParameters
    from tiacrossfusion.simulation.slide import render_slide

    folder = tmp_path_factory.mktemp("drawn")
    shutil.copy(small_slide, folder / "first.svs")
    tissue = TissueParameters(0.5, 0.5, 0.5)
    render_slide(folder / "second.svs", tissue, size=(1000, 800), mpp=0.5, seed=1)
    return folder


@pytest.fixture(scope="module")
def bags_of_drawn(drawn, tmp_path_factory) -> Path:
    """Their bags."""
    bags = tmp_path_factory.mktemp("extracted") / "bags"
    run(sorted(drawn.iterdir()), bags)
    return bags


@pytest.fixture
def extracted(bags_of_drawn, tmp_path) -> Path:
    """A copy of these bags."""
    return Path(shutil.copytree(bags_of_drawn, tmp_path / "extracted"))


@pytest.fixture
def slides(drawn, tmp_path) -> list[Path]:
    """The two slides in a folder of their own."""
    folder = tmp_path / "slides"
    folder.mkdir()
    return [Path(shutil.copy2(drawn / name, folder)) for name in ("first.svs", "second.svs")]


def run(slides: list[Path], bags: Path, encoder: MeanColour | None = None, **options):
    where = {name: options.pop(name) for name in ("masks", "shard") if name in options}
    read = ReadOptions(Scale(options.pop("mpp", None)), num_workers=0)
    how = ExtractionOptions(read, **options)
    return extract_slides(slides, bags, encoder or MeanColour(), how, show_progress=False, **where)


def claim(folder: BagsFolder, slide: Path) -> Record:
    return folder.claim(source_of(slide), record_names(slide), str)


def test_every_slide_gets_its_bag_and_its_row(slides, tmp_path, demo_bundle):
    bags = tmp_path / "bags"
    result = extract(slides[0].parent, bags)
    assert result.exit_code == 0, result.output
    assert "2 of 2 slides done" in result.output
    assert f"tiacf train --bags {bags} --table" in result.output
    assert visible(bags) == ["extraction.csv", "first.zarr", "second.zarr", "tiacf.log"]
    for slide in slides:
        bag, row = FeatureBag.load(bags / f"{slide.stem}.zarr"), table(bags)[slide.name]
        demo_bundle.check_bag(bag)
        assert bag.provenance.slide == slide.name
        assert bag.provenance.slide_size == slide.stat().st_size
        assert bag.provenance.mask == "otsu"
        counts = {scale: int(row[f"patches_{scale}"]) for scale in ("5x", "10x", "20x")}
        assert bag.counts() == counts
        assert counts["20x"] > counts["10x"] > counts["5x"] > 0
        assert (row["status"], row["message"], row["bag"]) == ("ok", "", f"{slide.stem}.zarr")
        assert row["path"] == str(slide)
        assert float(row["seconds"]) > 0


def test_features_are_those_of_the_patches(slides, tmp_path):
    """Mean colours of the 20x patches, read again with OpenSlide from their bounds."""
    import openslide

    (_, low) = run(slides, tmp_path / "bags")
    patches = FeatureBag.load(low.output).scales["20x"]
    with openslide.OpenSlide(slides[1]) as slide:  # at 0.5 mpp a 20x patch is read as it is
        for features, (x0, y0, x1, y1) in zip(
            patches.features[:20], patches.bounds[:20].tolist(), strict=True
        ):
            if x1 > slide.dimensions[0] or y1 > slide.dimensions[1]:
                continue
            region = np.asarray(slide.read_region((x0, y0), 0, (x1 - x0, y1 - y0)))[..., :3]
            np.testing.assert_allclose(
                features[:3].astype(float), region.mean(axis=(0, 1)) / 255, atol=2e-3
            )


def test_finished_bags_are_skipped_until_overwritten(slides, tmp_path):
    bags, encoder = tmp_path / "bags", MeanColour()
    first = run(slides, bags, encoder)
    rows, images = table(bags), encoder.images
    again = run(slides, bags, encoder)
    assert [outcome.status for outcome in again] == ["skipped", "skipped"]
    assert [outcome.output for outcome in again] == [outcome.output for outcome in first]
    assert encoder.images == images
    assert table(bags) == rows, "with the seconds that it took then"
    (outcome,) = run(slides[1:], bags, encoder, overwrite=True)
    assert outcome.status == "ok"
    assert encoder.images > images
    assert set(table(bags)) == {"first.svs", "second.svs"}


def change_the_slide(slides: list[Path], tmp_path: Path) -> dict:
    with slides[1].open("ab") as file:
        file.write(b"\0")
    return {}


def give_a_mask(slides: list[Path], tmp_path: Path) -> dict:
    mask = np.zeros((80, 100), np.uint8)
    mask[:60] = 255
    cv2.imwrite(str(tmp_path / "second.png"), mask)
    return {"masks": [None, tmp_path]}


@pytest.mark.parametrize(
    ("change", "what", "n_changed"),
    [
        (change_the_slide, "slide file", 1),
        (give_a_mask, "mask", 1),
        (lambda *_: {"mpp": 1.0}, "scale", 2),
        (lambda *_: {"encoder": MeanColour(1.0)}, "encoder", 2),
    ],
    ids=["slide", "mask", "scale", "encoder"],
)
def test_what_changed_is_extracted_again(slides, tmp_path, change, what, n_changed):
    bags = tmp_path / "bags"
    before = [FeatureBag.load(outcome.output) for outcome in run(slides, bags)]
    outcomes = run(slides, bags, **change(slides, tmp_path))
    assert [outcome.status for outcome in outcomes].count("ok") == n_changed
    assert outcomes[1].status == "ok"
    assert f"made again, since {what} changed" in outcomes[1].message
    assert FeatureBag.load(outcomes[1].output).provenance != before[1].provenance
    assert table(bags)["second.svs"]["message"] == outcomes[1].message


def test_bad_slides_are_named_and_the_others_go_on(slides, blank, tmp_path):
    folder, bags = slides[0].parent, tmp_path / "bags"
    shutil.copy(blank, folder / "blank.svs")
    (folder / "text.svs").write_text("not a slide")
    result = extract(folder, bags)
    assert result.exit_code == 1
    assert "2 of 4 slides done" in result.output
    assert "Traceback" not in result.output
    rows = table(bags)
    for name, word in (("blank.svs", "no tissue"), ("text.svs", "not a slide")):
        assert rows[name]["status"] == "failed"
        assert rows[name]["bag"] == ""
        assert word in rows[name]["message"]
        assert word in result.output
    assert "Traceback" in (bags / "tiacf.log").read_text()
    assert [name for name in visible(bags) if name.endswith(".zarr")] == [
        "first.zarr",
        "second.zarr",
    ]


def test_a_slide_that_fails_later_keeps_its_bag_and_says_so(slides, tmp_path):
    bags = tmp_path / "bags"
    run(slides, bags)
    content = slides[1].read_bytes()
    slides[1].write_text("damaged")
    outcome = run(slides, bags)[1]
    assert outcome.status == "failed"
    row = table(bags)["second.svs"]
    assert (row["status"], row["bag"]) == ("failed", "second.zarr")
    assert row["message"].endswith("the bag of an earlier extraction is still there")
    FeatureBag.load(bags / "second.zarr")
    slides[1].write_bytes(content)
    assert run(slides, bags)[1].status == "skipped", "the bag is that of the mended file"
    assert table(bags)["second.svs"]["status"] == "ok"


def test_a_time_stamp_alone_and_another_place_change_nothing(slides, tmp_path):
    bags = tmp_path / "bags"
    run(slides, bags)
    os.utime(slides[0], (1, 1))
    moved = tmp_path / "elsewhere"
    slides[0].parent.rename(moved)
    (tmp_path / "link").symlink_to(moved)
    ways = [moved / "x" / ".." / slides[0].name, tmp_path / "link" / slides[0].name]
    (moved / "x").mkdir()
    for folder in (moved, tmp_path / "link"):
        again = [folder / slide.name for slide in slides]
        assert [outcome.status for outcome in run(again, bags)] == ["skipped", "skipped"]
    assert [outcome.status for outcome in run(ways, bags)] == ["skipped"], "two ways to one slide"
    rows = table(bags)
    assert len(rows) == 2
    assert {row["path"] for row in rows.values()} == {str(moved / slide.name) for slide in slides}


def test_a_list_names_slides_with_their_scale_and_mask(slides, tmp_path):
    cv2.imwrite(
        str(tmp_path / "part.png"), np.pad(np.full((40, 50), 255, np.uint8), ((0, 40), (0, 50)))
    )
    rows = [f"{slides[0]},0.4,", f"{slides[1]},,part.png"]
    (tmp_path / "list.csv").write_text("slide,mpp,mask\n" + "\n".join(rows) + "\n")
    result = extract(tmp_path / "list.csv", tmp_path / "bags")
    assert result.exit_code == 0, result.output
    whole = {
        outcome.source.name: FeatureBag.load(outcome.output)
        for outcome in run(slides, tmp_path / "whole")
    }
    first, second = (FeatureBag.load(tmp_path / "bags" / f"{s.stem}.zarr") for s in slides)
    assert first.provenance.mpp == (0.4, 0.4)
    assert second.provenance.mpp == whole["second.svs"].provenance.mpp
    assert 0 < len(second.scales["20x"]) < len(whole["second.svs"].scales["20x"])

    (tmp_path / "mpp.csv").write_text("slide,mpp\nfirst,0.4\nsecond.svs,0.45\n")
    result = extract(slides[0].parent, tmp_path / "scaled", "--mpp", str(tmp_path / "mpp.csv"))
    assert result.exit_code == 0, result.output
    scales = [
        FeatureBag.load(tmp_path / "scaled" / f"{s.stem}.zarr").provenance.mpp[0] for s in slides
    ]
    assert scales == [0.4, 0.45]
    (tmp_path / "mpp.csv").write_text("slide,mpp\nfirst,0.4\n")
    result = extract(slides[0].parent, tmp_path / "none", "--mpp", str(tmp_path / "mpp.csv"))
    assert result.exit_code == 2
    assert "no row for second.svs" in result.output


def test_folders_of_masks_and_results_among_the_slides_hold_no_slides(slides, tmp_path):
    folder = slides[0].parent
    for slide in slides:
        for name in ("masks", "out"):
            (folder / name).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name / f"{slide.stem}.tif"), np.full((80, 100), 255, np.uint8))
    result = extract(folder, folder / "out", "--masks", str(folder / "masks"))
    assert result.exit_code == 0, result.output
    assert "2 of 2 slides done" in result.output


def test_what_a_shell_makes_of_a_pattern_is_taken(slides, tmp_path):
    paths = [str(slide) for slide in slides]
    arguments = ["extract", "--img-input", *paths, "--output-path", str(tmp_path / "bags")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "2 of 2 slides done" in result.output
    arguments = ["extract", *paths, "--output-path", str(tmp_path / "bags")]
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_subfolders_are_searched_and_what_is_passed_over_is_counted(slides, tmp_path):
    for number, slide in enumerate(slides):
        folder = tmp_path / "gdc" / f"uuid-{number}"
        (folder / "logs").mkdir(parents=True)
        shutil.copy(slide, folder / slide.name.upper())
        (folder / "logs" / "x.parcel").touch()
    (tmp_path / "gdc" / "stray.dcm").touch()
    (tmp_path / "gdc" / "loop").symlink_to(tmp_path / "gdc")
    result = extract(tmp_path / "gdc", tmp_path / "bags")
    assert result.exit_code == 0, result.output
    assert "2 of 2 slides done" in result.output
    assert "passed over in the folders: 2 .parcel, 1 .dcm" in result.output


def test_slides_of_one_stem_get_their_full_names(slides, tmp_path):
    (tmp_path / "in").mkdir()
    one = Path(shutil.copy(slides[0], tmp_path / "in" / "a.svs"))
    two = Path(shutil.copy(slides[1], tmp_path / "in" / "a.tif"))
    names = [outcome.output.name for outcome in run([one, two], tmp_path / "together")]
    assert names == ["a.svs.zarr", "a.tif.zarr"]
    (first,) = run([one], tmp_path / "apart")
    (second,) = run([two], tmp_path / "apart")
    assert [first.output.name, second.output.name] == ["a.zarr", "a.tif.zarr"]
    outcomes = run([one, two], tmp_path / "apart")
    assert [outcome.output for outcome in outcomes] == [first.output, second.output]
    assert [outcome.status for outcome in outcomes] == ["skipped", "skipped"]
    assert FeatureBag.load(first.output).provenance.slide == "a.svs"


def test_a_namesake_from_elsewhere_does_not_replace_a_bag(slides, tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, slide in zip(folders, slides, strict=True):
        folder.mkdir()
        shutil.copy(slide, folder / "slide.svs")
    bags = tmp_path / "bags"
    (first,) = run([folders[0] / "slide.svs"], bags)
    features = FeatureBag.load(first.output).scales["20x"].features
    for overwrite in (False, True):
        (second,) = run([folders[1] / "slide.svs"], bags, overwrite=overwrite)
        assert second.status == "failed"
        assert "was not extracted from" in second.message
    assert (FeatureBag.load(first.output).scales["20x"].features == features).all()


def test_moved_slides_keep_their_bags(slides, tmp_path):
    bags = tmp_path / "bags"
    run(slides, bags)
    moved = tmp_path / "moved"
    slides[0].parent.rename(moved)
    outcomes = run([moved / slide.name for slide in slides], bags)
    assert [outcome.status for outcome in outcomes] == ["skipped", "skipped"]
    assert [row["path"] for row in table(bags).values()] == [
        str(moved / slide.name) for slide in slides
    ]


def test_bags_are_known_without_the_table(slides, tmp_path):
    bags = tmp_path / "bags"
    run(slides, bags)
    (bags / "extraction.csv").unlink()
    assert [outcome.status for outcome in run(slides, bags)] == ["skipped", "skipped"]
    assert [row["bag"] for row in table(bags).values()] == ["first.zarr", "second.zarr"]


def test_a_damaged_bag_is_made_again(slides, tmp_path):
    bags = tmp_path / "bags"
    run(slides, bags)
    shutil.rmtree(bags / "second.zarr" / "10x")
    assert [outcome.status for outcome in run(slides, bags)] == ["skipped", "ok"]
    FeatureBag.load(bags / "second.zarr")


def test_other_peoples_files_are_left_alone(slides, tmp_path):
    bags = tmp_path / "bags"
    (bags / "second.zarr").mkdir(parents=True)
    (bags / "second.zarr" / "mine.txt").write_text("keep")
    for overwrite in (False, True):
        outcomes = run(slides, bags, overwrite=overwrite)
        assert [outcome.status for outcome in outcomes] == ["ok", "failed"]
        assert "second.zarr: exists and was not extracted from" in outcomes[1].message
    assert (bags / "second.zarr" / "mine.txt").read_text() == "keep"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "extraction.csv").write_text("tooth,pain\n")
    assert_failed(
        extract(slides[0], tmp_path / "theirs"), "extraction.csv", "not written by tiacf extract"
    )
    assert (tmp_path / "theirs" / "extraction.csv").read_text() == "tooth,pain\n"


def test_an_interrupted_run_keeps_what_is_finished(slides, tmp_path, monkeypatch):
    from tiacrossfusion.runs import extraction_task

    bags, whole = tmp_path / "bags", extraction_task.extract_bag

    def interrupt(slide, *arguments, **options):
        if slide.name == "second.svs":
            raise KeyboardInterrupt
        return whole(slide, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(extraction_task, "extract_bag", interrupt)
        assert extract(slides[0].parent, bags).exit_code == 130
    assert visible(bags) == ["extraction.csv", "first.zarr", "tiacf.log"]
    result = extract(slides[0].parent, bags)
    assert result.exit_code == 0
    assert "2 of 2 slides done (1 finished before)" in result.output


def test_a_full_disk_ends_the_run_in_one_line(slides, tmp_path, monkeypatch):
    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeatureBag, "save", no_space)
    with pytest.raises(OutputError, match=r"bags.*No space left on device.*--output-path"):
        run(slides, tmp_path / "bags")
    (tmp_path / "file").touch()
    assert_usage(extract(slides[0], tmp_path / "file"), "is a file", "--output-path")
    assert_failed(extract(slides[0], tmp_path / "file" / "sub"), "cannot be written")


def test_a_coarse_scan_is_remarked_on(slides, tmp_path):
    (outcome,) = run(slides[1:], tmp_path / "bags", mpp=1.0)
    assert outcome.status == "ok"
    assert "enlarged 2 times" in outcome.message
    assert "while the file says 0.5" in table(tmp_path / "bags")["second.svs"]["message"]


def test_what_failed_is_tried_again_when_asked_or_changed(slides, tmp_path):
    bags, content = tmp_path / "bags", slides[1].read_bytes()
    slides[1].write_text("damaged")
    result = extract(slides[0].parent, bags)
    assert_failed(result, "second.svs: not a slide")
    result = extract(slides[0].parent, bags)
    assert_failed(result, "second.svs: not a slide", "failed before", "--retry-failed")
    assert "1 of 2 slides done (1 finished before)" in result.output
    assert "failed before" not in table(bags)["second.svs"]["message"]
    result = extract(slides[0].parent, bags, "--retry-failed")
    assert_failed(result, "second.svs: not a slide")
    assert "failed before" not in result.output
    slides[1].write_bytes(content)
    assert extract(slides[0].parent, bags).exit_code == 0
    assert table(bags)["second.svs"]["status"] == "ok"


def test_a_link_that_comes_to_life_is_tried_again(slides, tmp_path):
    link = tmp_path / "link.svs"
    link.symlink_to(tmp_path / "absent.svs")
    for _ in range(2):
        (outcome,) = run([link], tmp_path / "bags")
        assert outcome.status == "failed"
        assert "a link to a file that is not there" in outcome.message
    shutil.copy(slides[0], tmp_path / "absent.svs")
    (outcome,) = run([link], tmp_path / "bags")
    assert outcome.status == "ok"


def test_shards_make_what_one_run_makes(slides, tmp_path):
    shutil.copy(slides[0], slides[0].with_name("third.svs"))
    shutil.copy(slides[0], slides[0].with_name("third.tif"))
    folder = slides[0].parent
    assert extract(folder, tmp_path / "whole").exit_code == 0
    for shard in ("2/3", "1/3", "3/3"):
        result = extract(folder, tmp_path / "parts", "--shard", shard)
        assert result.exit_code == 0, result.output
        assert f"{2 if shard == '1/3' else 1} of " in result.output
    names = ["first.zarr", "second.zarr", "third.svs.zarr", "third.tif.zarr"]
    for bags in (tmp_path / "whole", tmp_path / "parts"):
        assert [name for name in visible(bags) if name.endswith(".zarr")] == names
        assert list(table(bags)) == ["first.svs", "second.svs", "third.svs", "third.tif"]
    result = extract(folder, tmp_path / "parts", "--shard", "7/9")
    assert result.exit_code == 0
    assert "0 of 0 slides done" in result.output


@pytest.mark.parametrize("shard", ["0/4", "5/4", "x", "1/0", "-1/4", "1/4/2", "1.0/4", ""])
def test_shards_that_there_are_not(slides, tmp_path, shard):
    result = extract(slides[0].parent, tmp_path / "bags", "--shard", shard)
    assert_usage(result, f"--shard {shard}", "I/N")
    assert not (tmp_path / "bags").exists()


def test_a_dry_run_says_what_a_run_does_and_writes_nothing(slides, blank, tmp_path):
    bags, folder = tmp_path / "bags", slides[0].parent
    shutil.copy(blank, folder / "blank.svs")
    (folder / "text.svs").write_text("not a slide")
    plans = {
        plan.slide.name: plan
        for plan in plan_extraction(sorted(folder.glob("*")), bags, MeanColour())
    }
    assert not bags.exists()
    assert [plan.status for _, plan in sorted(plans.items())] == [
        "fail",
        "extract",
        "extract",
        "fail",
    ]
    assert "no tissue" in plans["blank.svs"].message
    assert "not a slide" in plans["text.svs"].message
    result = extract(folder, bags, "--dry-run")
    assert result.exit_code == 1, result.output
    assert "2 to extract" in result.output
    assert "2 would fail; nothing was written" in result.output
    assert not bags.exists()
    for outcome in run(slides, bags):
        plan = plans[outcome.source.name]
        assert plan.patches == {s: outcome.row[f"patches_{s}"] for s in ("5x", "10x", "20x")}
    before = {path: path.stat().st_mtime_ns for path in [bags, *bags.rglob("*")]}
    assert [p.status for p in plan_extraction(slides, bags, MeanColour())] == ["skip", "skip"]
    other = list(plan_extraction(slides, bags, MeanColour(1.0)))
    assert [plan.message for plan in other] == ["made again, since encoder changed"] * 2
    assert before == {path: path.stat().st_mtime_ns for path in [bags, *bags.rglob("*")]}


def test_the_estimate_of_a_bag_is_about_its_size(simulated, tmp_path):
    from tiacrossfusion.models.source import ModelSource

    source = ModelSource("stain-texture")
    (plan,) = plan_extraction([simulated / "high.svs"], tmp_path / "bags", source)
    (outcome,) = extract_slides([simulated / "high.svs"], tmp_path / "bags", source)
    arrays = outcome.row["bytes"] - 8000  # what a store takes beside its arrays
    assert arrays < plan.size < 2 * arrays + 10000


def status(bags: Path) -> Result:
    return CliRunner().invoke(main, ["status", str(bags)])


def test_status_tells_how_far_it_is(slides, tmp_path):
    bags = tmp_path / "bags"
    (slides[0].parent / "text.svs").write_text("not a slide")
    extract(slides[0].parent, bags)
    result = status(bags)
    assert result.exit_code == 1, result.output
    rows = table(bags)
    patches = sum(
        int(rows[name][f"patches_{scale}"])
        for name in ("first.svs", "second.svs")
        for scale in ("5x", "10x", "20x")
    )
    assert f"done: 2 slides, {patches} patches" in result.output
    assert "failed: 1" in result.output
    assert "text.svs: not a slide" in result.output
    (bags / ".tiacf" / "bags" / "first.json").unlink()
    assert "bags without a record: 1" in status(bags).output
    shutil.rmtree(bags / "second.zarr")
    assert "interrupted, to be made: 1\n  second.svs" in status(bags).output
    assert_usage(status(tmp_path / "absent"), "absent: no such folder")
    assert_usage(status(slides[0].parent), "holds no bags")


def test_a_bag_with_20x_alone_is_counted(slides, extracted):
    """One that another program has made smaller, with and without a record."""
    bag = FeatureBag.load(extracted / "first.zarr")
    FeatureBag({"20x": bag.scales["20x"]}, bag.provenance).save(extracted / "first.zarr")
    patches = len(bag.scales["20x"])
    (extracted / ".tiacf" / "bags" / "first.json").unlink()
    assert "bags without a record: 1" in status(extracted).output
    plan, _ = plan_extraction(slides, extracted, MeanColour())
    assert (plan.status, plan.patches) == ("skip", {"20x": patches})
    outcome, other = run(slides, extracted)
    assert outcome.status == "skipped"
    assert [outcome.row[f"patches_{scale}"] for scale in ("5x", "10x", "20x")] == [0, 0, patches]
    others = sum(other.row[f"patches_{scale}"] for scale in ("5x", "10x", "20x"))
    assert f"done: 2 slides, {patches + others} patches" in status(extracted).output
    assert [again.status for again in run(slides, extracted)] == ["skipped", "skipped"]


@pytest.mark.process
def test_status_while_it_goes_on_and_after_a_kill(slides, tmp_path, dead_process):
    bags = tmp_path / "bags"
    run(slides, bags)
    folder = BagsFolder(bags)
    record = folder.find(str(slides[0]))
    record.status = "new"
    with folder.making(record, "run"):
        before = sorted(bags.rglob("*"))
        result = status(bags)
        assert result.exit_code == 0, result.output
        assert f"being made: 1\n  first.svs: by process {process_here()}" in result.output
        assert "done: 1 slides" in result.output
        assert sorted(bags.rglob("*")) == before
    record.begun = {"by": dead_process, "run": "run", "died": 0}
    folder.write(record)
    left = folder.records_path / f"staging-{dead_process}-0123abcd"
    left.mkdir()
    (folder.records_path / f"staging-{dead_process}-0123abce.part").touch()
    result = status(bags)
    assert "interrupted, to be made: 1\n  first.svs" in result.output
    assert "left by killed processes: 2" in result.output
    assert left.exists(), "it only looks"
    assert [outcome.status for outcome in run(slides, bags)] == ["skipped", "skipped"]
    assert not list(folder.records_path.glob("staging-*"))
    assert status(bags).output.startswith("done: 2 slides")


@pytest.mark.skipif(os.name != "posix", reason="rights of another kind")
def test_status_of_a_folder_that_may_only_be_read(slides, tmp_path):
    bags = tmp_path / "bags"
    run(slides, bags)
    folders = [bags, *(path for path in bags.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        result = status(bags)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert result.exit_code == 0, result.output


@pytest.fixture
def dead_process() -> str:
    """Name of a process of this machine that has ended."""
    code = "from tiacrossfusion.runs.processes import process_here; print(process_here())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_tables_of_two_runs_that_end_at_once_have_all_rows(slides, tmp_path, monkeypatch):
    bags = tmp_path / "bags"
    run(slides[:1], bags)
    slow, replace_text = BagsFolder(bags), BagsFolder.replace_text

    def held_up(folder, path, text):
        if path.name == "extraction.csv" and folder is slow:
            monkeypatch.undo()
            run(slides[1:], bags)  # the other run ends between the look and the table
        replace_text(folder, path, text)

    monkeypatch.setattr(BagsFolder, "replace_text", held_up)
    slow.write_table()
    assert list(table(bags)) == ["first.svs", "second.svs"]


def test_records_are_read_once(tmp_path, monkeypatch):
    """A look at the records of a large cohort reads only those that changed."""
    folder = BagsFolder(tmp_path)
    for number in range(200):
        assert folder.add(Record(f"s{number}", f"/slides/s{number}.svs"))
    assert len(folder.records()) == 200
    read, look = [], BagsFolder._read
    monkeypatch.setattr(
        BagsFolder, "_read", lambda self, name: read.append(name) or look(self, name)
    )
    row = {"slide": "s7.svs", "path": "/slides/s7.svs", "message": "damaged"}
    folder.write(Record("s7", "/slides/s7.svs", status="failed", row=row))
    assert [record.name for record in folder.records() if record.status == "failed"] == ["s7"]
    assert read == ["s7"]


def test_one_name_goes_to_one_slide_when_runs_overlap(tmp_path):
    folders = [BagsFolder(tmp_path), BagsFolder(tmp_path)]
    names = [claim(f, Path(f"/{n}/s.svs")).name for n, f in enumerate(folders)]
    assert names[0] == "s"
    assert names[1].startswith("s.svs-")
    assert claim(folders[0], Path("/1/s.svs")).name == names[1]


def test_a_damaged_record_is_named(slides, tmp_path):
    run(slides, tmp_path / "bags")
    (tmp_path / "bags" / ".tiacf" / "bags" / "first.json").write_text("{")
    for command in (
        lambda: extract(slides[0], tmp_path / "bags"),
        lambda: status(tmp_path / "bags"),
    ):
        assert_failed(command(), "first.json", "damaged")


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"row": {"path": ...}}, "path"),
        ({"row": {"path": 3}}, "path"),
        ({"row": {"slide": ...}}, "slide"),
        ({"row": {"message": ...}}, "message"),
        ({"row": {"patches_5x": ...}}, "patches_5x"),
        ({"row": {"patches_20x": -1}}, "patches_20x"),
        ({"row": {"dropped_10x": "x"}}, "dropped_10x"),
        ({"row": {"bytes": 10**400}}, "bytes"),
        ({"row": {"message": ...}, "status": "failed"}, "message"),
        ({"begun": {"run": "x"}}, "by"),
        ({"begun": {"by": "x-1", "run": "x", "died": "1"}}, "died"),
    ],
)
def test_odd_records_are_damaged(slides, extracted, values, place):
    record = extracted / ".tiacf" / "bags" / "first.json"
    content = json.loads(record.read_text())
    row = {k: v for k, v in (content["row"] | values.get("row", {})).items() if v is not ...}
    record.write_text(json.dumps(content | values | {"row": row}))
    for command in (lambda: extract(slides[0].parent, extracted), lambda: status(extracted)):
        assert_failed(command(), str(record), "damaged", place, "remove it")


def test_a_number_that_no_process_has_is_a_dead_one(slides, extracted):
    record = extracted / ".tiacf" / "bags" / "first.json"
    process = f"{process_here().rpartition('-')[0]}-{10**19}"
    begun = {"by": process, "run": "x", "died": 0}
    record.write_text(
        json.dumps(json.loads(record.read_text()) | {"status": "new", "begun": begun})
    )
    left = record.with_name(f"staging-{process}-0123abcd")
    left.mkdir()
    result = status(extracted)
    assert result.exit_code == 0, result.output
    assert "interrupted, to be made: 1\n  first.svs" in result.output
    BagsFolder(extracted)
    assert not left.exists()


@pytest.mark.process
def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom tiacrossfusion.cli import main\n"
        "try:\n    main(['extract', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'timm', 'cv2', 'pandas', 'pydantic', 'tiatoolbox.models'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_slides_that_take_each_other_s_names_get_one_each(tmp_path):
    """A slide may be called what another, whose name was taken, gets to be called."""
    slide = tmp_path / "two" / "s.svs"
    short = hashlib.sha256(str(slide).encode()).hexdigest()[:8]
    folder = BagsFolder(tmp_path / "bags")
    slides = (tmp_path / "one" / f"s.svs-{short}.svs", tmp_path / "one" / "s.svs", slide)
    assert len({claim(folder, each).name for each in slides}) == 3
    assert claim(folder, slide).source == str(slide)
