"""Ctrl-C, SIGTERM, SIGHUP and the exit codes of the installed command."""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cli import main
from tiacrossfusion.runs import signals as interruption

pytestmark = pytest.mark.process

TIACF = Path(sys.executable).parent / "tiacf"
LINE = f"{interruption.LINE}\n"

#: `tiacf`, to which a signal comes while a library is being imported.
IMPORTING = """
import signal, sys, time

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "tiatoolbox":
            sys.meta_path.remove(self)
            try:
                signal.raise_signal(signal.{signal})
            except KeyboardInterrupt:
                {answer}

sys.meta_path.insert(0, Finder())
from tiacrossfusion.__main__ import main
sys.argv[1:] = ["models"]
main()
"""

#: `tiacf`, which is interrupted while it writes its fourth bag.
WRITING = """
import sys
from pathlib import Path
from moments import at, press_ctrl_c_twice
from tiacrossfusion.__main__ import main

at(Path(sys.argv[-1]), "2.zarr", 20, press_ctrl_c_twice)
main()
"""


def heed_signals() -> None:
    """Undo what shells and `nohup` do for jobs in the background: to pass over Ctrl-C and SIGHUP."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pass_over_hang_ups() -> None:
    """Do what `nohup` does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("number", "answer", "code"),
    [
        ("SIGINT", "raise", 130),
        ("SIGTERM", "raise", 143),
        ("SIGHUP", "raise", 129),
        ("SIGINT", "raise ImportError('initialization failed')", 130),
        ("SIGINT", "time.sleep(600)", 130),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP", "taken for a failed import", "passed over"],
)
def test_a_signal_during_the_imports_gives_one_line(number, answer, code):
    program = IMPORTING.format(signal=number, answer=answer)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        preexec_fn=heed_signals,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", LINE)


def test_a_signal_during_a_destructor_gives_one_line():
    program = (
        "import signal\nfrom tiacrossfusion.runs import signals as interruption\n"
        "class Thing:\n    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\n"
        "interruption.listen()\nThing()\ninterruption.end()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        preexec_fn=heed_signals,
    )
    assert (done.returncode, done.stderr) == (130, LINE)


def test_nohup_is_respected():
    program = IMPORTING.format(signal="SIGHUP", answer="raise")
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        preexec_fn=pass_over_hang_ups,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def slides(small_slide, tmp_path_factory) -> Path:
    """Six small slides."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(6):
        shutil.copy(small_slide, folder / f"{number}.svs")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_the_run_goes_on_later(slides, tmp_path):
    bags = tmp_path / "bags"
    arguments = ["extract", "--img-input", str(slides), "--output-path", str(bags)]
    ended = subprocess.run(
        [sys.executable, "-c", WRITING, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    assert (ended.returncode, ended.stderr) == (130, LINE)
    done = sorted(path.name for path in bags.glob("*.zarr"))
    assert done == ["0.zarr", "1.zarr", "2.zarr"]
    if (bags / "extraction.csv").exists():  # on a busy machine there may be no time left for it
        assert [row["bag"] for row in rows(bags / "extraction.csv")] == done
    assert {path.name for path in bags.iterdir() if path.name[0] == "."} == {".tiacf"}
    first = FeatureBag.load(bags / "0.zarr")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "6 of 6 slides done (3 finished before)" in result.output
    assert not any((bags / ".tiacf" / "bags").glob("staging-*"))
    last = FeatureBag.load(bags / "5.zarr")
    assert (last.scales["20x"].features == first.scales["20x"].features).all()


def test_what_follows_from_ctrl_c_is_not_taken_for_a_bad_slide(slides, tmp_path, monkeypatch):
    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs import extraction, extraction_task

    def fail(*_, **__):
        monkeypatch.setattr(interruption, "_received", [signal.SIGINT])
        raise ImportError("initialization failed")

    monkeypatch.setattr(extraction_task, "extract_bag", fail)
    with pytest.raises(KeyboardInterrupt):
        extraction.extract(
            [slides / "0.svs"], tmp_path, ModelSource("stain-texture"), show_progress=False
        )
    monkeypatch.undo()
    (outcome,) = extraction.extract(
        [slides / "0.svs"], tmp_path, ModelSource("stain-texture"), show_progress=False
    )
    assert outcome.status == "ok"


def test_ctrl_c_ends_training_in_the_middle_of_a_fold(tmp_path, monkeypatch):
    from tiacrossfusion.training.module import SurvivalTraining

    cohort, out = tmp_path / "cohort", tmp_path / "out"
    simulate = ["simulate", "--patients", "30", "--width", "4", "--side", "1"]
    assert CliRunner().invoke(main, [*simulate, "--output-path", str(cohort)]).exit_code == 0
    (tmp_path / "config.yaml").write_text(
        "network: {embed_dim: 8, num_heads: 2, num_bins: 2}\n"
        "fitting: {epochs: 4, warm_up: 1, patients_per_step: 8}\n"
        "protocol: {folds: 2}\n"
    )
    train = ["train", "--bags", str(cohort / "bags"), "--table", str(cohort / "cohort.csv")]
    train += ["--time-unit", "months", "--model", "mean-pool", "--accelerator", "cpu"]
    train += ["--config", str(tmp_path / "config.yaml"), "--output-path", str(out)]
    step, before = SurvivalTraining.training_step, signal.getsignal(signal.SIGINT)

    def interrupt(module, *arguments):
        if module.current_epoch == 2:
            raise KeyboardInterrupt
        return step(module, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SurvivalTraining, "training_step", interrupt)
        result = CliRunner().invoke(main, train)
    assert result.exit_code == 130, result.output
    assert result.stderr == LINE
    assert signal.getsignal(signal.SIGINT) is before
    assert not (out / "mean-pool" / "fold-1").exists()
    assert not list(out.rglob("model.safetensors"))
    assert (out / "mean-pool" / "fold-0" / "last.ckpt").exists()
    result = CliRunner().invoke(main, train)
    assert result.exit_code == 0, result.output
    epochs = [row["epoch"] for row in rows(out / "mean-pool" / "fold-0" / "metrics.csv")]
    assert epochs == ["0", "1", "2", "3"]


#: So many slides that it is interrupted long before the last one, also on a busy machine.
SIMULATE = ["simulate", "--slides", "--slide-size", "2500", "--patients", "99", "--processes", "2"]


def test_ctrl_c_ends_the_processes_that_draw_slides(tmp_path):
    slides = tmp_path / "slides"
    seen: list[Path] = []

    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while not seen and time.monotonic() < deadline:
            seen.extend(slides.glob(".*.part"))
            time.sleep(0.01)
        if seen:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = CliRunner().invoke(main, [*SIMULATE, "--output-path", str(tmp_path)])
    thread.join()
    assert result.exit_code == 130, result.output
    assert seen
    assert not list(slides.glob(".*"))
    assert not multiprocessing.active_children()


def wait_until_two_are_drawn(slides: Path) -> None:
    deadline = time.monotonic() + 120
    while len(list(slides.glob(".*.part"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_process_that_is_told_to_end_begins_no_other_slide(tmp_path):
    slides = tmp_path / "slides"
    told: list[int] = []

    def tell() -> None:
        wait_until_two_are_drawn(slides)
        for process in multiprocessing.active_children()[:1]:
            told.append(process.pid)
            process.terminate()

    thread = threading.Thread(target=tell)
    thread.start()
    result = CliRunner().invoke(main, [*SIMULATE, "--output-path", str(tmp_path)])
    thread.join()
    assert told
    assert result.exit_code == 1, result.output
    assert "was ended from outside" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
    assert not list(slides.glob(".*"))
    assert len(list(slides.iterdir())) < 99


def test_a_closed_terminal_ends_the_processes_that_draw_slides(tmp_path):
    slides = tmp_path / "slides"
    with subprocess.Popen(
        [str(TIACF), *SIMULATE, "--output-path", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,
    ) as process:
        wait_until_two_are_drawn(slides)
        os.killpg(process.pid, signal.SIGHUP)
        _, said = process.communicate()  # which the processes that draw hold open too
    assert (process.returncode, said) == (129, LINE)
    assert not list(slides.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--version"], 0, ""),
        (["status", "damaged"], 1, "damaged/.tiacf/bags/a.json: this record is damaged"),
        (["extract", "--img-input", "absent", "--output-path", "out"], 2, "absent: no such"),
    ],
    ids=["0", "1", "2"],
)
def test_exit_codes_of_the_installed_command(tmp_path, arguments, code, line):
    record = tmp_path / "damaged" / ".tiacf" / "bags" / "a.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    done = subprocess.run([str(TIACF), *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert line in done.stderr
    assert done.stderr.count("\n") == (1 if line else 0)


def test_the_package_can_be_run_as_a_module():
    command = [sys.executable, "-m", "tiacrossfusion", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tiacf ")
