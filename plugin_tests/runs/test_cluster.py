"""Slides as tasks on a Dask cluster: the same results, workers that die, clusters that do not serve."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from command_line import FAILED, USAGE, assert_refused, assert_usage
from moments import at, kill

from tiacrossfusion.cli import main
from tiacrossfusion.runs.processes import process_here
from tiacrossfusion.runs.record import Record
from tiacrossfusion.runs.records import MAX_DEATHS

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.process


def run(command: str, source: Path, out: Path, *options: str) -> Result:
    arguments = [command, "--img-input", str(source), "--output-path", str(out), *options]
    return CliRunner().invoke(main, arguments)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def contents(folder: Path, pattern: str) -> dict[str, str]:
    """Hashes of all files of the stores or files that match."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    }


@pytest.fixture(scope="module")
def slides(small_slide, tmp_path_factory) -> Path:
    """Four small slides, and a file that is none."""
    folder = tmp_path_factory.mktemp("slides")
    for name in ("a.svs", "b.svs", "c.svs", "d.svs"):
        shutil.copy(small_slide, folder / name)
    (folder / "text.svs").write_text("not a slide")
    return folder


@pytest.fixture(scope="module")
def local(slides, tmp_path_factory) -> Path:
    """Bags made without a cluster."""
    bags = tmp_path_factory.mktemp("local")
    assert run("extract", slides, bags).exit_code == 1
    return bags


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster


def test_bags_are_the_same_and_a_killed_workers_slide_is_finished_by_another(
    slides, local, cluster, tmp_path
):
    bags = tmp_path / "bags"
    with distributed.Client(cluster) as client:
        before = client.run(os.getpid)
        doomed = next(iter(before))
        making = f".tiacf/bags/staging-*-{before[doomed]}-????????"
        client.run(at, bags, making, 0, kill, workers=[doomed])
        result = run("extract", slides, bags, "--cluster", cluster.scheduler_address)
        assert before[doomed] not in client.run(os.getpid).values()
    assert "4 of 5 slides done" in result.output, result.output
    assert result.exit_code == 1
    assert "text.svs: " in result.output
    assert contents(bags, "*.zarr") == contents(local, "*.zarr")
    assert table(bags / "extraction.csv") == table(local / "extraction.csv")
    assert not list((bags / ".tiacf" / "bags").glob("staging-*"))
    again = run("extract", slides, bags, "--cluster", cluster.scheduler_address)
    assert "(4 finished before)" in again.output
    assert "failed before" in again.output


def test_ctrl_c_ends_the_run_and_keeps_finished_slides(slides, cluster, tmp_path, monkeypatch):
    from tiacrossfusion.io.progress import Progress

    more, bags = tmp_path / "slides", tmp_path / "bags"
    more.mkdir()
    for number in range(12):
        shutil.copy(slides / "a.svs", more / f"{number:02d}.svs")
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "slide_done", lambda *_: signal.raise_signal(signal.SIGINT))
        result = run("extract", more, bags, "--cluster", cluster.scheduler_address)
    assert result.exit_code == 130, result.output
    done = [row["bag"] for row in table(bags / "extraction.csv") if row["status"] == "ok"]
    assert 1 <= len(done) < 12
    assert {path.name for path in bags.glob("*.zarr")} >= set(done)
    assert not list((bags / ".tiacf" / "bags").glob("*.run")), "workers would go on"
    result = run("extract", more, bags, "--cluster", cluster.scheduler_address)
    assert "12 of 12 slides done" in result.output
    assert not list((bags / ".tiacf" / "bags").glob("staging-*"))


def test_predictions_are_the_same(slides, cluster, tmp_path):
    for out, options in (("here", []), ("there", ["--cluster", cluster.scheduler_address])):
        result = run("predict", slides / "a.svs", tmp_path / out, *options)
        assert result.exit_code == 0, result.output
    (here,), (there,) = (table(tmp_path / out / "predictions.csv") for out in ("here", "there"))
    assert float(here.pop("risk")) == pytest.approx(float(there.pop("risk")), abs=1e-5)
    rounded = ("survival_", "percentile", "median", "contribution_")  # by the number of threads
    names = [name for name in here if not name.startswith(rounded)]
    assert {name: here[name] for name in names} == {name: there[name] for name in names}
    assert (
        contents(tmp_path / "there", "*.png").keys() == contents(tmp_path / "here", "*.png").keys()
    )


def test_bags_are_predicted_on_workers_and_bad_ones_are_named(local, cluster, tmp_path):
    bags = tmp_path / "bags"
    shutil.copytree(local / "a.zarr", bags / "a.zarr")
    shutil.copytree(local / "b.zarr", bags / "b.zarr")
    shutil.rmtree(bags / "b.zarr" / "5x")
    arguments = ["predict", "--bags", str(bags), "--output-path", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, "--cluster", cluster.scheduler_address])
    assert result.exit_code == 1, result.output
    assert "1 of 2 bags done" in result.output
    assert "b.zarr" in result.output
    log = (tmp_path / "out" / "tiacf.log").read_text(encoding="utf-8")
    assert "Traceback" in log, "what the worker logged"


def test_a_slide_that_keeps_killing_is_given_up(slides, tmp_path):
    from tiacrossfusion.errors import TiacfError
    from tiacrossfusion.runs.bags_folder import BagsFolder

    folder = BagsFolder(tmp_path)
    folder.add(Record("a", str(slides / "a.svs")))
    for died in range(MAX_DEATHS):
        record = folder.find(str(slides / "a.svs"))
        assert record.begun.get("died", -1) == died - 1
        with folder.making(record, "run"):
            record.begun["by"] = f"elsewhere-{died}"
            folder.write(record)  # what a process that was killed leaves
    record = folder.find(str(slides / "a.svs"))
    with pytest.raises(TiacfError, match=r"a\.svs: 3 worker processes died"):
        folder.making(record, "run").__enter__()
    with folder.making(record, "another run") as staging:
        assert staging.is_dir()
        assert process_here() in staging.name
    assert folder.find(str(slides / "a.svs")).begun == {}


def test_clusters_that_do_not_serve_get_one_line(slides, tmp_path, monkeypatch):
    from tiacrossfusion.runs import cluster

    monkeypatch.setattr(cluster, "_CONNECT", 0.5)
    monkeypatch.setattr(cluster, "_FIRST_WORKER", 0.5)
    (tmp_path / "file.json").write_text("{")
    with distributed.LocalCluster(
        n_workers=0, dashboard_address=":0", silence_logs=50, processes=False
    ) as empty:
        for address, words in (
            ("tcp://127.0.0.1:9", "no scheduler answers"),
            ("nowhere", "neither an address"),
            ("strange://host:1", "no scheduler answers"),
            (str(tmp_path / "file.json"), "no scheduler answers"),
            (empty.scheduler_address, "has no workers"),
        ):
            result = run("extract", slides, tmp_path / "bags", "--cluster", address)
            assert_refused(result, words, code=USAGE if address == "nowhere" else FAILED)
    assert not (tmp_path / "bags").exists()


def test_a_scheduler_that_dies_at_once_is_named(slides, cluster, tmp_path, monkeypatch):
    from distributed.comm.core import CommClosedError

    def die(*_, **__):
        raise CommClosedError("in <TCP (closed)>: Stream is closed")

    monkeypatch.setattr(distributed.Client, "get_versions", die)
    address = cluster.scheduler_address
    result = run("extract", slides, tmp_path / "bags", "--cluster", address)
    assert_refused(result, address, "the scheduler is gone", "run the same command", code=FAILED)


def test_other_options_do_not_go_with_a_cluster(slides, tmp_path):
    for option in (["--shard", "1/2"], ["--dry-run"]):
        result = run("extract", slides, tmp_path / "bags", "--cluster", "tcp://a:1", *option)
        assert_usage(result, "leave")


def test_workers_see_the_output_folder_or_say_so(cluster, tmp_path):
    from tiacrossfusion.errors import TiacfError
    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs.cluster import Cluster

    with (
        Cluster(cluster.scheduler_address, ModelSource("stain-texture")) as connected,
        pytest.raises(TiacfError, match=r"worker tcp://.*does not see the output folder"),
    ):
        connected._check_models(tmp_path / "elsewhere" / "lock")


def test_workers_with_other_weights_are_refused(cluster, tmp_path):
    from tiacrossfusion.errors import TiacfError
    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs.cluster import Cluster

    (tmp_path / "lock").touch()
    weights = str(tmp_path / "absent.pth")
    with (
        Cluster(cluster.scheduler_address, ModelSource("timm:resnet18", weights=weights)) as found,
        pytest.raises(TiacfError, match=r"worker tcp://.*absent\.pth"),
    ):
        found._check_models(tmp_path / "lock")


def test_arrays_and_paths_of_a_task_survive_pickling(tmp_path):
    import pickle

    from tiacrossfusion.models.source import ModelSource
    from tiacrossfusion.runs.bags_folder import BagsFolder
    from tiacrossfusion.runs.extraction_task import ExtractionOptions, ExtractionTask
    from tiacrossfusion.slides.options import ReadOptions

    folder = BagsFolder(tmp_path)
    task = ExtractionTask(
        Path("a.svs"),
        lone=True,
        folder=folder,
        model=ModelSource("stain-texture"),
        options=ExtractionOptions(ReadOptions(mask=np.eye(2)), overwrite=True),
        run_name="r",
    )
    back = pickle.loads(pickle.dumps(task))
    assert back.folder.path == folder.path
    assert (back.read.mask == task.read.mask).all()
    assert (back.slide, back.options.overwrite, back.model) == (task.slide, True, task.model)
    assert (back.options.sampling, back.run_name) == (task.options.sampling, task.run_name)
