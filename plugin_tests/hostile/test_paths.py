"""Paths that cannot be followed: each option that takes one says so in one line, and nothing is begun."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from command_line import assert_usage, tiacf

from tiacrossfusion.cohorts.patients import read_patients
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.slides.slide import open_slide
from tiacrossfusion.training.config import read_settings

#: Why a path cannot be followed, and words of the line on it.
WHY = {
    "nowhere": "no such file or folder",
    "long": "too long",
    "locked": "may not be entered (permission denied)",
}


@pytest.fixture(scope="module")
def place(simulated) -> Iterator[Path]:
    """A folder with slides, a cohort and a folder that nobody may enter; others may come here."""
    folder = Path(tempfile.mkdtemp())
    (folder / "in").mkdir()
    shutil.copy(next(simulated.glob("*.svs")), folder / "in" / "slide.svs")
    simulate_bags(folder / "cohort", 6, 1, scenario="fine", encoder_width=4, side=1)
    (folder / "locked" / "there").mkdir(parents=True)
    folder.chmod(0o777)
    (folder / "locked").chmod(0)
    yield folder
    (folder / "locked").chmod(0o777)
    shutil.rmtree(folder)


#: Commands that are given a path.
TAKING: dict[str, Callable[[Path, str], list[object]]] = {
    "--img-input": lambda place, path: ["predict", "--img-input", path],
    "--bags": lambda place, path: ["predict", "--bags", path],
    "--model": lambda place, path: ["predict", "--img-input", place / "in", "--model", path],
    "--masks": lambda place, path: ["predict", "--img-input", place / "in", "--masks", path],
    "--encoder-weights": lambda place, path: [
        *("extract", "--img-input", place / "in", "--encoder", "timm:resnet18"),
        *("--encoder-weights", f"{path}.pt"),
    ],
    "--x5": lambda place, path: [
        *("convert", "--x5", path, "--x10", place / "in", "--x20", place / "in"),
        *("--encoder", "e"),
    ],
    "--predictions": lambda place, path: ["evaluate", "--predictions", path],
    "--truth": lambda place, path: [
        *("evaluate", "--faithfulness", "--bags", place / "cohort" / "bags", "--truth", path),
        *("--model", "crossfusion-demo"),
    ],
    "--splits": lambda place, path: [
        *("train", "--bags", place / "cohort" / "bags", "--table", place / "cohort" / "cohort.csv"),
        *("--splits", path, "--time-unit", "months"),
    ],
    "CHECKPOINT": lambda place, path: ["import-checkpoint", path, "--encoder", "stain-texture"],
}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may enter every folder: be somebody else."""
    try:
        if os.geteuid() == 0:
            os.seteuid(65534)
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.mark.parametrize("option", TAKING)
def test_a_path_that_cannot_be_followed_is_named(place, option):
    for (
        why,
        words,
    ) in WHY.items():  # the first brings all imports, for which root's rights are needed
        path = {"nowhere": "nowhere", "long": "x" * 300}.get(why, str(place / "locked/there"))
        if option == "--model" and why != "locked":
            words = "unknown model"  # it may be a name
        arguments = [*TAKING[option](place, path), "--output-path", place / "out"]
        with as_nobody() if why == "locked" else nullcontext():
            done = tiacf(*arguments)
        assert_usage(done, path, words)
        assert not (place / "out").exists()


@pytest.mark.parametrize(
    "command", ["predict", "extract", "train", "import-checkpoint", "simulate"]
)
def test_an_output_folder_that_may_not_be_entered(place, command):
    folder = place / "locked"
    arguments = {
        "predict": ["--bags", place / "cohort" / "bags"],
        "extract": ["--img-input", place / "in"],
        "train": [
            *("--bags", place / "cohort" / "bags", "--table", place / "cohort" / "cohort.csv"),
            *("--time-unit", "months"),
        ],
        "import-checkpoint": [place / "cohort" / "cohort.csv", "--encoder", "stain-texture"],
        "simulate": [],
    }[command]
    tiacf(command, "--help")  # brings the imports, for which root's rights are needed
    with as_nobody():
        done = tiacf(command, *arguments, "--output-path", folder)
    assert_usage(done, f"{folder}: may not be entered", "--output-path")


def test_bags_and_models_in_a_folder_that_may_not_be_entered(place):
    folder = place / "locked"
    load_bundle("crossfusion-demo")
    with as_nobody():
        with pytest.raises(TiacfError, match=r"locked: no readable config\.json"):
            load_bundle(folder)
        done = tiacf("status", folder)
    assert done.exit_code == 1
    assert "locked" in done.output
    assert "--output-path" not in done.output


@pytest.mark.parametrize("name", ["p.csv", "c.yaml"])
def test_a_pipe_is_no_table_and_no_settings(tmp_path, name):
    os.mkfifo(tmp_path / name)
    signal.alarm(20)  # instead of a hang
    try:
        with pytest.raises(TiacfError, match=rf"{name}: .*a pipe or a device"):
            read_settings(tmp_path / name) if name == "c.yaml" else read_patients(tmp_path / name)
    finally:
        signal.alarm(0)


def test_a_link_to_a_pipe_is_no_slide(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "slide.svs").symlink_to(tmp_path / "pipe")
    signal.alarm(20)  # instead of a hang
    try:
        with pytest.raises(TiacfError, match="a pipe or a device is no slide"):
            open_slide(tmp_path / "slide.svs")
    finally:
        signal.alarm(0)
