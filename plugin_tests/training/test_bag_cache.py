"""Cohorts that do not fit into memory: uncompressed features on disk, or bags that are read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.training import api
from tiacrossfusion.training.bag_cache import BagCache
from tiacrossfusion.training.bags import CohortBags

SETTINGS = {
    "time_unit": "months",
    "models": ["mean-pool"],
    "protocol": {"protocol": "holdout"},
    "network": {"embed_dim": 4, "num_bins": 2},
    "fitting": {"epochs": 1, "least_steps": 1},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(folder, 40, 1, scenario="product", encoder_width=4, side=1)
    return folder


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiacrossfusion.training.bags._IN_MEMORY", 1000)


def train(cohort: Path, out: Path, **options: object) -> list[str]:
    said: list[str] = []
    api.train(
        cohort / "cohort.csv", cohort / "bags", out, config=SETTINGS, say=said.append, **options
    )
    return said


def predictions(out: Path) -> bytes:
    return (out / "mean-pool" / "out_of_fold.csv").read_bytes()


@pytest.mark.usefixtures("small_memory")
def test_a_cache_changes_no_figure_is_shared_and_removed(cohort, tmp_path, monkeypatch):
    train(cohort, tmp_path / "one")
    assert not (tmp_path / "one" / ".features").exists()
    train(cohort, tmp_path / "two", cache=tmp_path / "kept")
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "kept").iterdir()}
    assert len(files) == 40 * 6
    train(cohort, tmp_path / "three", cache=tmp_path / "kept")
    assert files == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "kept").iterdir()}
    monkeypatch.undo()
    train(cohort, tmp_path / "memory")
    for name in ("two", "three", "memory"):
        assert predictions(tmp_path / name) == predictions(tmp_path / "one")


@pytest.mark.usefixtures("small_memory")
def test_the_cache_is_read_and_not_the_bags(cohort, tmp_path, monkeypatch):
    sources = {p.stem: p for p in sorted((cohort / "bags").glob("*.zarr"))[:5]}
    again = CohortBags(sources, show_progress=False)
    cached = CohortBags(sources, cache=BagCache(tmp_path / "cache"), show_progress=False)
    expected = [tokens for (tokens,) in again.read([slide] for slide in sources)]
    monkeypatch.setattr(FeatureBag, "load", None)
    for (tokens,), same in zip(cached.read([slide] for slide in sources), expected, strict=True):
        for name, value in same.inputs().items():
            np.testing.assert_array_equal(tokens.inputs()[name], value)
    assert cached.sha256 == again.sha256


@pytest.mark.usefixtures("small_memory")
def test_a_file_that_was_cut_short_is_written_again(cohort, tmp_path):
    sources = {p.stem: p for p in sorted((cohort / "bags").glob("*.zarr"))[:5]}
    CohortBags(sources, cache=BagCache(tmp_path), show_progress=False)
    victim = sorted(tmp_path.glob("*-x20x.npy"))[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-10])
    CohortBags(sources, cache=BagCache(tmp_path), show_progress=False)
    assert victim.read_bytes() == whole


@pytest.mark.usefixtures("small_memory")
def test_without_room_the_bags_are_read_as_before_and_it_is_said(cohort, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("tiacrossfusion.training.bag_cache.shutil.disk_usage", lambda _: usage)
    said = train(cohort, tmp_path / "run")
    (line,) = (line for line in said if "no cache of the features" in line)
    assert "GiB free" in line
    assert "\n" not in line
    monkeypatch.undo()
    train(cohort, tmp_path / "memory")
    assert predictions(tmp_path / "run") == predictions(tmp_path / "memory")


@pytest.mark.usefixtures("small_memory")
def test_a_folder_that_cannot_be_written_is_one_line(cohort, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TiacfError, match="file") as caught:
        train(cohort, tmp_path / "run", cache=tmp_path / "file")
    assert "\n" not in str(caught.value)
