"""Commands killed at some moment and started again give what an unbroken run gives."""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from moments import run_until_killed
from safetensors.torch import load_file

from tiacrossfusion.cli import main
from tiacrossfusion.evaluation.prediction_files import read_predictions

pytestmark = pytest.mark.process

SLIDES = ("a.svs", "b.svs", "c.svs", "d.svs")


@pytest.fixture(scope="module")
def slides(small_slide, tmp_path_factory) -> Path:
    """Four small slides."""
    folder = tmp_path_factory.mktemp("slides")
    for name in SLIDES:
        shutil.copy(small_slide, folder / name)
    return folder


@pytest.fixture(scope="module")
def processes():
    """Starts processes from one that has imported what takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "tiacrossfusion.cli",  # first: it keeps the toolbox from printing its log
            "tiacrossfusion.runs.extraction",
            "tiacrossfusion.runs.prediction",
            "tiacrossfusion.encoders.encoder",
            "tiacrossfusion.training.bundles",
            "tiacrossfusion.training.run",
            "tiatoolbox.wsicore.wsireader",
            "tiatoolbox.tools.tissuemask",
        ]
    )
    return context


def run(arguments: list[str]) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result


def kill(processes, arguments: list[str], folder: Path, there: str, later: int) -> None:
    """Start a command, and kill it some file operations after something is there in a folder."""
    process = processes.Process(target=run_until_killed, args=(arguments, folder, there, later))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the moment did not come"


def contents(out: Path) -> dict[str, str]:
    """Hashes of all files that users see, and tables without their column of seconds."""
    found = {}
    for path in sorted(out.rglob("*")):
        if not path.is_file() or ".tiacf" in path.parts or path.suffix == ".log":
            continue
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                rows = [
                    {k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(file)
                ]
            found[str(path.relative_to(out))] = str(rows)
        else:
            found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# extract -------------------------------------------------------------------------------------------


def extract(slides: Path, bags: Path) -> list[str]:
    return ["extract", "--img-input", str(slides), "--output-path", str(bags)]


@pytest.fixture(scope="module")
def extracted(slides, tmp_path_factory) -> dict[str, str]:
    """What a run gives that is left alone."""
    bags = tmp_path_factory.mktemp("extracted") / "bags"
    run(extract(slides, bags))
    return contents(bags)


@pytest.mark.parametrize(
    ("there", "later"),
    [
        (".tiacf/bags/staging-*-????????", 0),
        (".tiacf/bags/staging-*/.*.part/*/*", 9),
        ("b.zarr", 5),
    ],
    ids=["begun", "writing", "two bags"],
)
def test_a_killed_extraction_is_resumed_to_the_same_bags(
    slides, extracted, processes, tmp_path, there: str, later: int
):
    bags = tmp_path / "bags"
    kill(processes, extract(slides, bags), bags, there, later)
    done = [path.name for path in bags.glob("*.zarr")]
    assert len(done) < len(SLIDES)
    result = run(extract(slides, bags))
    if done:
        assert f"({len(done)} finished before)" in result.output
    assert contents(bags) == extracted
    left = {path.name for path in (bags / ".tiacf" / "bags").iterdir()}
    assert left == {Path(name).stem + ".json" for name in SLIDES}
    assert {path.name for path in bags.iterdir() if path.name[0] == "."} == {".tiacf"}


# predict -------------------------------------------------------------------------------------------


def predict(slides: Path, out: Path) -> list[str]:
    return ["predict", "--img-input", str(slides), "--output-path", str(out)]


@pytest.fixture(scope="module")
def pair(slides, tmp_path_factory) -> Path:
    """Two of the slides."""
    folder = tmp_path_factory.mktemp("pair")
    for name in SLIDES[:2]:
        shutil.copy(slides / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def predicted(pair, tmp_path_factory) -> dict[str, str]:
    """What a run gives that is left alone."""
    out = tmp_path_factory.mktemp("predicted") / "out"  # the folder's name is in the report
    run(predict(pair, out))
    return contents(out)


@pytest.mark.parametrize(
    ("there", "later"),
    [(".tiacf/staging-*-????????", 0), (".tiacf/staging-*/*", 2), ("a.geojson", 20)],
    ids=["begun", "writing", "one slide"],
)
def test_killed_predictions_are_resumed_to_the_same_files(
    pair, predicted, processes, tmp_path, there: str, later: int
):
    out = tmp_path / "out"
    kill(processes, predict(pair, out), out, there, later)
    assert not (out / "report.html").exists()
    run(predict(pair, out))
    assert contents(out) == predicted
    left = {path.name for path in (out / ".tiacf").iterdir()}
    assert left == {"a.json", "b.json", "report"}
    assert {path.name for path in out.iterdir() if path.name[0] == "."} == {".tiacf"}


# train ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Bags and follow-up of 40 patients, and settings of a small run."""
    folder = tmp_path_factory.mktemp("cohort")
    simulate = ["simulate", "--patients", "40", "--width", "6", "--side", "2", "--output-path"]
    run([*simulate, str(folder)])
    (folder / "config.yaml").write_text(
        "network: {embed_dim: 8, num_heads: 2, num_bins: 3}\n"
        "fitting: {epochs: 6, warm_up: 1, patients_per_step: 8, loss: cox}\n"
        "protocol: {folds: 2}\n"
    )
    return folder


def train(cohort: Path, out: Path) -> list[str]:
    arguments = ["train", "--bags", str(cohort / "bags"), "--table", str(cohort / "cohort.csv")]
    arguments += ["--time-unit", "months", "--model", "abmil"]
    return [*arguments, "--config", str(cohort / "config.yaml"), "--output-path", str(out)]


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory) -> Path:
    """What a run gives that is left alone."""
    out = tmp_path_factory.mktemp("trained") / "out"
    run(train(cohort, out))
    return out


@pytest.mark.parametrize(
    ("there", "later"),
    [("fold-0/last.ckpt", 4), ("fold-1", 9), (".report-*/*", 1)],
    ids=["one epoch", "one fold", "report"],
)
def test_a_killed_training_ends_like_an_unbroken_one(
    cohort, trained, processes, tmp_path, there: str, later: int
):
    out = tmp_path / "out"
    kill(processes, train(cohort, out), out / "abmil", there, later)
    assert not (out / "models.csv").exists()
    run(train(cohort, out))
    assert {path.relative_to(out) for path in out.rglob("*")} == {
        path.relative_to(trained) for path in trained.rglob("*")
    }
    for path in out.rglob("model.safetensors"):
        wanted = load_file(trained / path.relative_to(out))
        for key, weights in load_file(path).items():
            assert weights.numpy() == pytest.approx(wanted[key].numpy(), abs=1e-5)
    for fold, wanted in zip(
        read_predictions(out / "abmil"), read_predictions(trained / "abmil"), strict=True
    ):
        assert fold.patients == wanted.patients
        assert fold.risks == pytest.approx(wanted.risks, abs=1e-5)
