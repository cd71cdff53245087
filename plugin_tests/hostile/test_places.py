"""Where results go: full disks, odd folders, damaged records, and many slides in one run."""

from __future__ import annotations

import csv
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from command_line import assert_failed, assert_usage, tiacf

from tiacrossfusion.cli import main

NO_SPACE = "No space left on device"


@pytest.fixture(scope="module")
def slides(small_slide, tmp_path_factory) -> Path:
    """Three small slides."""
    folder = tmp_path_factory.mktemp("slides")
    for name in ("a.svs", "b.svs", "c.svs"):
        shutil.copy(small_slide, folder / name)
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Bags, a table and settings of a small training run."""
    from tiacrossfusion.simulation.bags import simulate_bags

    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(folder, 40, 3, scenario="fine", censored_share=0.3, encoder_width=4, side=1)
    (folder / "small.yaml").write_text(
        "network: {embed_dim: 8, num_bins: 2}\n"
        "fitting: {epochs: 2, warm_up: 0, patients_per_step: 8}\n"
        "protocol: {folds: 2}\n"
    )
    return folder


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory) -> Path:
    """A finished training run."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert tiacf(*training(cohort), "--output-path", out).exit_code == 0
    return out


@pytest.fixture(scope="module")
def predicted(slides, tmp_path_factory) -> Path:
    """Predictions of the slides."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    assert tiacf("predict", "--img-input", slides, "--output-path", out).exit_code == 0
    return out


@pytest.fixture(scope="module")
def extracted(slides, tmp_path_factory) -> Path:
    """Bags of the slides."""
    out = tmp_path_factory.mktemp("extracted") / "out"
    assert tiacf("extract", "--img-input", slides, "--output-path", out).exit_code == 0
    return out


def training(cohort: Path) -> list[object]:
    return [
        *("train", "--bags", cohort / "bags", "--table", cohort / "cohort.csv"),
        *("--config", cohort / "small.yaml", "--time-unit", "months", "--model", "mean-pool"),
        *("--accelerator", "cpu"),
    ]


# --- full disks ------------------------------------------------------------------------------------


class Disk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, kilobytes: int) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted: {done.stderr.strip()}")

    def make_room(self) -> None:
        command = ["mount", "-o", "remount,size=256m", str(self.path)]
        subprocess.run(command, check=True)

    def used(self) -> int:
        """Kilobytes that are taken."""
        state = os.statvfs(self.path)
        return (state.f_blocks - state.f_bfree) * state.f_frsize // 1024

    def unmount(self, *, lazily: bool = False) -> None:
        """Unmount it; fails where a file is still open."""
        subprocess.run(["umount", *(["-l"] if lazily else []), str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    """A disk, not yet mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    disk = Disk(path)
    yield disk
    while path.is_mount():
        disk.unmount(lazily=True)


def half_written(out: Path) -> list[str]:
    """What is no whole file of a result."""
    return [
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.name.endswith((".part", ".partial", ".old")) or path.name.startswith("staging-")
    ]


def contents(out: Path) -> dict[str, str]:
    """Hashes of all files but the log, tables without their times and paths."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or path.name == "tiacf.log" or ".tiacf" in path.parts:
            continue
        content = path.read_bytes()
        if path.name in ("predictions.csv", "extraction.csv"):
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row | {"seconds": ""} for row in csv.DictReader(file)]
            content = json.dumps(rows).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def commands(slides: Path, cohort: Path, trained: Path, checkpoint: Path) -> dict[str, list]:
    """A short run of each command that writes."""
    pixels = ["--img-input", slides]
    bags = ["--bags", cohort / "bags"]
    return {
        "predict": ["predict", *pixels, "--no-attribution"],
        "annotation store": [
            *("predict", "--img-input", slides / "a.svs", "--no-attribution"),
            *("--output-type", "annotationstore"),
        ],
        "extract": ["extract", *pixels],
        "train": training(cohort),
        "evaluate": ["evaluate", "--predictions", trained / "mean-pool", "--draws", "100"],
        "convert to h5": ["convert", *bags, "--output-format", "h5"],
        "convert to pt": ["convert", *bags, "--output-format", "pt"],
        "simulate bags": ["simulate", "--patients", "5", "--width", "4", "--side", "2"],
        "simulate slides": [
            *("simulate", "--slides", "--patients", "3", "--slide-size", "400"),
            *("--processes", "1"),
        ],
        "import": ["import-checkpoint", checkpoint, "--encoder", "stain-texture"],
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint as the authors release them."""
    from tiacrossfusion.encoders.loading import load_encoder
    from tiacrossfusion.networks.crossfusion import CrossFusion
    from tiacrossfusion.networks.official import released_names

    network = CrossFusion(load_encoder("stain-texture").spec.width, 32, 4)
    state, names = network.state_dict(), released_names(network)
    path = tmp_path_factory.mktemp("checkpoint") / "released.pt"
    torch.save({theirs: state[ours] for theirs, ours in names.items()}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "shares"),
    [
        ("predict", (0.0, 0.6)),
        ("annotation store", (0.7,)),
        ("extract", (0.0, 0.6, 0.97)),
        ("train", (0.0, 0.05, 0.15, 0.6)),
        ("evaluate", (0.5,)),
        ("convert to h5", (0.5,)),
        ("convert to pt", (0.5,)),
        ("simulate bags", (0.0, 0.5)),
        ("simulate slides", (0.0, 0.6)),
        ("import", (0.5,)),
    ],
)
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on(
    slides, cohort, trained, checkpoint, disk, command, shares
):
    arguments = commands(slides, cohort, trained, checkpoint)[command]
    out = disk.path / "out"
    disk.mount(256 * 1024)
    assert tiacf(*arguments, "--output-path", out).exit_code == 0
    unbroken, needed = contents(out), disk.used()
    disk.unmount()
    for share in shares:
        disk.mount(max(4, int(share * needed)))
        result = tiacf(*arguments, "--output-path", out)
        assert_failed(result, str(out))
        assert any(reason in result.output for reason in (NO_SPACE, "database or disk is full"))
        assert any(word in result.output for word in ("free space", "make room"))
        assert "Logging error" not in result.output
        assert half_written(disk.path) == []
        finished = result.output.count("ok      ")
        assert (finished == 0) <= (share < 0.5 or not command.startswith(("pred", "extr", "conv")))
        disk.make_room()
        again = tiacf(*arguments, "--output-path", out)
        assert again.exit_code == 0, again.output
        if finished and command in ("predict", "extract"):
            assert f"({finished} finished before)" in again.output
        assert contents(out) == unbroken
        disk.unmount()  # nothing has been left open


def test_a_full_disk_raises_in_python(slides, disk):
    from tiacrossfusion import SurvivalPredictor
    from tiacrossfusion.errors import TiacfError

    disk.mount(4)
    with pytest.raises(TiacfError, match=rf"{disk.path}.*{NO_SPACE}.*free space"):
        SurvivalPredictor().run(
            images=[slides / "a.svs"], save_dir=disk.path / "out", output_type="zarr"
        )
    assert half_written(disk.path) == []


def test_a_log_that_meets_a_full_disk_costs_no_result(slides, tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiacf.log").symlink_to(full)
    result = tiacf("extract", "--img-input", slides, "--output-path", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    notes = [line for line in result.output.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    assert f"tiacf.log: cannot be written ({NO_SPACE})" in notes[0]
    assert len(list((tmp_path / "out").glob("*.zarr"))) == 3


@pytest.mark.parametrize(
    "command",
    ["predict", "extract", "train", "evaluate", "convert to h5", "simulate bags", "import"],
)
def test_a_disk_that_may_only_be_read(slides, cohort, trained, checkpoint, disk, command):
    arguments = commands(slides, cohort, trained, checkpoint)[command]
    disk.mount(1024)
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    result = tiacf(*arguments, "--output-path", disk.path / "out")
    assert_failed(result, str(disk.path / "out"), "Read-only file system")


# --- odd folders -----------------------------------------------------------------------------------


def inside_the_input(folder: Path, slide: Path) -> tuple[Path, Path]:
    shutil.copy(slide, folder)
    return folder, folder / "out"


def same_as_the_input(folder: Path, slide: Path) -> tuple[Path, Path]:
    shutil.copy(slide, folder)
    return folder, folder


def around_the_input(folder: Path, slide: Path) -> tuple[Path, Path]:
    (folder / "slides").mkdir()
    shutil.copy(slide, folder / "slides")
    return folder / "slides", folder


def odd_name(folder: Path, slide: Path) -> tuple[Path, Path]:
    return slide, folder / "a b,'q\"\u00fc\u6f22\n<x>&%s{}"


def leading_dash(folder: Path, slide: Path) -> tuple[Path, Path]:
    os.chdir(folder)
    return slide, Path("-out")


def no_utf8(folder: Path, slide: Path) -> tuple[Path, Path]:
    place = Path(os.fsdecode(os.fsencode(folder) + b"/l\xe4n"))
    place.mkdir()
    shutil.copy(slide, place)
    return place, place / "out"


def link(folder: Path, slide: Path) -> tuple[Path, Path]:
    (folder / "real").mkdir()
    (folder / "link").symlink_to(folder / "real")
    return slide, folder / "link"


ODD = (
    inside_the_input,
    same_as_the_input,
    around_the_input,
    odd_name,
    leading_dash,
    no_utf8,
    link,
)


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_odd_folders_serve(slides, tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # and back at the end
    source, out = make(tmp_path, slides / "a.svs")
    for before in ("", " (1 finished before)"):
        result = tiacf("extract", "--img-input", source, "--output-path", out)
        assert result.exit_code == 0, result.output
        assert f"1 of 1 slides done{before}:" in result.output
    assert (out / "a.zarr").is_dir()


def a_file(folder: Path) -> tuple[Path, str]:
    (folder / "file").touch()
    return folder / "file", "is a file"


def a_broken_link(folder: Path) -> tuple[Path, str]:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link", "a link to a folder that is not there"


def a_long_name(folder: Path) -> tuple[Path, str]:
    return folder / ("x" * 300), "File name too long"


def a_long_path(folder: Path) -> tuple[Path, str]:
    return folder.joinpath(*["y" * 200] * 30), "File name too long"


@pytest.mark.parametrize(
    "make", [a_file, a_broken_link, a_long_name, a_long_path], ids=lambda make: make.__name__
)
@pytest.mark.parametrize("command", ["predict", "extract", "train", "simulate bags", "import"])
def test_folders_that_cannot_be(slides, cohort, trained, checkpoint, tmp_path, command, make):
    arguments = commands(slides, cohort, trained, checkpoint)[command]
    out, reason = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert_usage(tiacf(*arguments, "--output-path", out), str(out), reason, "--output-path")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_current_folder_that_has_been_removed(slides, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = tiacf("predict", "--img-input", slides, "--output-path", tmp_path / "out")
    assert_usage(result, "folder that you are in has been removed", "change to another")


@pytest.mark.parametrize("command", ["predict", "extract"])
def test_one_slide_of_an_impossible_name_costs_itself(slides, tmp_path, command):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in (b"good.svs", b"b\xffd.svs", b"n" * 251 + b".svs"):
        shutil.copy(slides / "a.svs", os.path.join(os.fsencode(source), name))  # noqa: PTH118
    result = tiacf(command, "--img-input", source, "--output-path", out)
    assert_failed(result, r"b\udcffd.svs", "no UTF-8 text", "rename it")
    assert "2 of 3 slides done" in result.output
    assert r"b\udcffd.svs" in next(out.glob("*.csv")).read_text(encoding="utf-8")
    assert len([path for path in out.iterdir() if path.name.startswith("nnn")]) >= 1
    assert half_written(out) == []
    assert "2 finished before" in tiacf(command, "--img-input", source, "--output-path", out).output


# --- what lies in the folder -----------------------------------------------------------------------


def edit(**values: object) -> Callable[[Path], object]:
    """Change fields of a record."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    "cut": lambda path: path.write_text('{"name":'),
    "empty": lambda path: path.write_text(""),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\0"),
    "list": lambda path: path.write_text("[]"),
    "types": edit(source=[], files=7),
    "nulls": edit(row=None, files=None),
    "another name": edit(name="../a"),
    "folder": made_a_folder,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_one_line(slides, predicted, extracted, tmp_path, damage):
    for command, made, records in (
        ("predict", predicted, ".tiacf"),
        ("extract", extracted, ".tiacf/bags"),
    ):
        out = tmp_path / command
        shutil.copytree(made, out)
        record = out / records / "a.json"
        damage(record)
        result = tiacf(command, "--img-input", slides, "--output-path", out)
        assert_failed(result, str(record), "damaged", "remove it")
    assert_failed(tiacf("status", tmp_path / "extract"), str(record), "damaged")


def left_by_a_dead_process(out: Path) -> None:
    (record,) = out.rglob(".tiacf/**/a.json")
    host = json.dumps("elsewhere-999999")
    edit(status="new", begun={"by": json.loads(host), "run": "x", "died": 1})(record)


def of_a_later_version(out: Path) -> None:
    (record,) = out.rglob(".tiacf/**/a.json")
    edit(colour="green", status="archived")(record)


def of_the_future(out: Path) -> None:
    for path in out.rglob("*"):
        os.utime(path, (4e9, 4e9))


@pytest.mark.parametrize(
    "change", [left_by_a_dead_process, of_a_later_version, of_the_future], ids=lambda c: c.__name__
)
def test_records_that_are_odd_are_gone_on_from(slides, extracted, tmp_path, change):
    out = tmp_path / "out"
    shutil.copytree(extracted, out)
    change(out)
    result = tiacf("extract", "--img-input", slides, "--output-path", out)
    assert result.exit_code == 0, result.output
    assert "3 of 3 slides done (3 finished before)" in result.output
    assert tiacf("status", out).exit_code == 0


@pytest.mark.parametrize("name", ["predictions.csv", "report.html", "tiacf.log", ".tiacf"])
def test_what_is_in_the_way_is_named(slides, predicted, tmp_path, name):
    out = tmp_path / "out"
    shutil.copytree(predicted, out)
    if name == ".tiacf":
        shutil.rmtree(out / name)
        (out / "predictions.csv").unlink()
        (out / name).touch()
    else:
        made_a_folder(out / name)
    result = tiacf("predict", "--img-input", slides, "--output-path", out)
    assert_failed(result, str(out / name), "move it away")


def test_a_damaged_part_of_the_report_is_named_and_made_again(slides, predicted, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(predicted, out)
    part = out / ".tiacf" / "report" / "a.json"
    part.write_text("{")
    arguments = ["predict", "--img-input", slides, "--output-path", out]
    assert_failed(tiacf(*arguments), str(part), "remove it")
    part.unlink()
    result = tiacf(*arguments)
    assert result.exit_code == 0, result.output
    assert "(2 finished before)" in result.output


def test_commands_share_a_folder_or_say_that_they_do_not(
    slides, cohort, predicted, extracted, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(extracted, out)
    bags = contents(out)
    assert_failed(tiacf(*training(cohort), "--output-path", out), str(out), "no training run")
    result = tiacf(
        *("predict", "--img-input", slides / "a.svs", "--no-attribution", "--output-path", out)
    )
    assert result.exit_code == 0, result.output
    assert bags.items() <= contents(out).items()
    shutil.copytree(predicted, tmp_path / "predicted")
    results = contents(tmp_path / "predicted")
    for arguments in (
        ["extract", "--img-input", slides],
        ["simulate", "--patients", 2, "--width", 4, "--side", 1],
    ):
        done = tiacf(*arguments, "--output-path", tmp_path / "predicted")
        assert done.exit_code == 0, done.output
    assert results.items() <= contents(tmp_path / "predicted").items()


# --- consoles and homes ----------------------------------------------------------------------------


def test_a_console_of_few_letters_shows_names_as_it_can(slides, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(slides / "a.svs", source / "Gr\u00f6\u00dfe \u6f22\u5b57.svs")
    (source / "b\u00e4d.svs").write_text("no slide")
    arguments = ["extract", "--img-input", str(source), "--output-path", str(tmp_path / "out")]
    result = CliRunner(charset="ascii").invoke(main, arguments)
    assert_failed(result, r"b\xe4d.svs")
    assert r"ok      Gr\xf6\xdfe \u6f22\u5b57.svs" in result.output


@pytest.mark.process
def test_a_console_that_cannot_be_written_is_one_line(extracted):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    command = [sys.executable, "-m", "tiacrossfusion", "status", str(extracted)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert NO_SPACE in line
    assert "send it elsewhere" in line


@pytest.mark.process
def test_a_pipe_that_is_closed_is_no_traceback(extracted):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tiacrossfusion", "status", str(extracted)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
@pytest.mark.process
def test_neither_home_nor_caches_nor_standard_error_are_needed(slides, tmp_path):
    nowhere = "/proc/nowhere"
    names = ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME", "TMPDIR")
    command = [sys.executable, "-m", "tiacrossfusion", "extract"]
    command += ["--img-input", str(slides / "a.svs"), "--output-path", str(tmp_path / "out")]
    line = " ".join(f"'{word}'" for word in command)
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {line} 2>&-"],
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **dict.fromkeys(names, nowhere)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 of 1 slides done" in done.stdout


# --- many slides -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_slides_leave_neither_files_nor_objects_behind(slides, tmp_path, monkeypatch):
    from tiacrossfusion.io.progress import Progress

    source = tmp_path / "in"
    source.mkdir()
    for number in range(9):
        shutil.copy(slides / "a.svs", source / f"slide-{number:02d}.svs")
    (source / "slide-05.svs").write_bytes((slides / "a.svs").read_bytes()[:20_000])
    kinds = {"FeatureBag", "Slide", "SlideResult", "TiffFile", "OpenSlide", "Figure", "Axes"}
    seen: list[tuple[int, int, int]] = []
    slide_done = Progress.slide_done

    def look(progress: Progress, line: str | None = None) -> None:
        slide_done(progress, line)
        gc.collect()
        objects = gc.get_objects()
        ours = sum(type(thing).__name__ in kinds for thing in objects)
        seen.append((len(os.listdir("/proc/self/fd")), ours, len(objects)))  # noqa: PTH208

    monkeypatch.setattr(Progress, "slide_done", look)
    result = tiacf(
        *("predict", "--img-input", source, "--output-path", tmp_path / "out"), "--no-attribution"
    )
    assert_failed(result, "slide-05.svs")
    assert "8 of 9 slides done" in result.output
    files, ours, objects = zip(*seen, strict=True)
    assert len(seen) == 9
    assert len(set(files[2:])) == 1
    assert len(set(ours[2:])) == 1
    # Of each slide its record, row and outcome are kept.
    assert (objects[-1] - objects[3]) / 5 < 200
