"""`tiacf extract` killed at some moment and started again gives what an unbroken run gives."""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiacrossfusion.cli import main

SLIDES = ("a.svs", "b.svs", "c.svs", "d.svs")


def arguments(slides: Path, bags: Path) -> list[str]:
    return ["extract", "--img-input", str(slides), "--output-path", str(bags)]


def contents(bags: Path) -> dict[str, str]:
    """Hashes of all files that users see, and the table without its column of seconds."""
    found = {
        str(path.relative_to(bags)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bags.rglob("*"))
        if path.is_file() and ".tiacf" not in path.parts and path.suffix not in (".log", ".csv")
    }
    with (bags / "extraction.csv").open(newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return found | {"extraction.csv": str(rows)}


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Four small slides."""
    from tiacrossfusion.simulation import TissueParameters, render_slide

    folder = tmp_path_factory.mktemp("slides")
    render_slide(folder / SLIDES[0], TissueParameters(0.5, 0.5, 0.5), size=(1000, 800), mpp=0.5)
    for name in SLIDES[1:]:
        shutil.copy(folder / SLIDES[0], folder / name)
    return folder


@pytest.fixture(scope="module")
def unbroken(slides, tmp_path_factory) -> dict[str, str]:
    """What a run gives that is left alone."""
    bags = tmp_path_factory.mktemp("unbroken")
    assert CliRunner().invoke(main, arguments(slides, bags)).exit_code == 0
    return contents(bags)


@pytest.fixture(scope="module")
def processes():
    """Starts processes from one that has imported what takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "tiacrossfusion.cli",  # first: it keeps the toolbox from printing its log
            "tiacrossfusion.extraction",
            "tiacrossfusion.encoders.encoder",
            "tiatoolbox.wsicore.wsireader",
            "tiatoolbox.tools.tissuemask",
        ]
    )
    return context


def first_slide_begun(bags: Path) -> bool:
    return any('"by"' in p.read_text() for p in (bags / ".tiacf" / "bags").glob("*.json"))


def bag_half_written(bags: Path) -> bool:
    return any((bags / ".tiacf" / "bags").glob("staging-*/.*.part/*/*"))


def two_bags_there(bags: Path) -> bool:
    return len(list(bags.glob("*.zarr"))) >= 2


@pytest.mark.parametrize(
    ("reached", "longest"),
    [(first_slide_begun, 0.5), (bag_half_written, 0.0), (two_bags_there, 0.4)],
    ids=["begun", "writing", "two bags"],
)
def test_a_killed_run_is_resumed_to_the_same_bags(
    slides, unbroken, processes, tmp_path, reached: Callable[[Path], bool], longest: float
):
    bags = tmp_path / "bags"
    code = f"from tiacrossfusion.cli import main; main({arguments(slides, bags)!r})"
    process = processes.Process(target=exec, args=(code, {}))
    process.start()
    deadline = time.monotonic() + 120
    while not reached(bags) and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(random.Random(reached.__name__).uniform(0, longest))
    process.kill()
    process.join()
    assert process.exitcode == -9, "it had ended before"
    done = [path.name for path in bags.glob("*.zarr")]
    assert len(done) < len(SLIDES)
    result = CliRunner().invoke(main, arguments(slides, bags))
    assert result.exit_code == 0, result.output
    if done:
        assert f"({len(done)} finished before)" in result.output
    assert contents(bags) == unbroken
    left = {path.name for path in (bags / ".tiacf" / "bags").iterdir()}
    assert left == {Path(name).stem + ".json" for name in SLIDES}
    assert {path.name for path in bags.iterdir() if path.name[0] == "."} == {".tiacf"}
