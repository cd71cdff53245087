"""`tiacf audit` on feature bags."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import assert_failed, assert_usage, tiacf
from small_training import SETTINGS

from tiacrossfusion import train
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.simulation.bags import simulate_bags


@pytest.fixture(scope="module")
def cohort(made_once) -> Path:
    """A trained mean pooling, its bags, and two hospitals that are no different."""

    def make(folder: Path) -> None:
        simulate_bags(folder, 30, 5, scenario="sum", side=4, encoder_width=16)
        table = pd.read_csv(folder / "cohort.csv")
        table["hospital"] = np.where(np.arange(len(table)) % 2, "A", "B")
        table.to_csv(folder / "cohort.csv", index=False)
        train(
            folder / "cohort.csv",
            folder / "bags",
            folder / "run",
            config=SETTINGS,
            models=("mean-pool",),
        )

    return made_once("audit", make)


def run(cohort: Path, out: Path, *more: object):
    return tiacf(
        *("audit", "--model", cohort / "run" / "mean-pool" / "ensemble"),
        *("--bags", cohort / "bags", "--output-path", out, *more),
    )


def test_adversaries_stand_beside_chance(cohort, tmp_path):
    result = run(cohort, tmp_path / "out", "--strengths", "0.1,0.5")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "effects.csv")
    assert table.adversary.tolist() == [*["universal"] * 2, *["generator"] * 2, *["sparse"] * 3]
    assert (table["size"] > table.size_random).all()
    strong = table[table.adversary == "universal"].set_index("strength")["size"]
    assert strong[0.5] > strong[0.1]
    assert (table.size_low <= table["size"]).all()
    assert (table["size"] <= table.size_high).all()
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["slides"] == content["fitted_on"] == 15
    page = (tmp_path / "out" / "report.html").read_text()
    assert "is the risk stable?" in page
    assert "http" not in page.replace("http-equiv", "")
    directions = pd.read_csv(tmp_path / "out" / "directions.csv")
    assert directions.name.str.startswith("component").sum() == 5
    assert directions.name.str.startswith("random").sum() == 20


def test_hospitals_are_compared(cohort, tmp_path):
    result = run(
        *(cohort, tmp_path / "out", "--strengths", "0.25"),
        *("--table", cohort / "cohort.csv", "--fold-by", "hospital"),
        *("--transfer", cohort / "run" / "mean-pool" / "fold-1" / "bundle"),
    )
    assert result.exit_code == 0, result.output
    assert "The site is told from the features" in result.output
    assert "Risks of sites at equal follow-up" in result.output
    sites = pd.read_csv(tmp_path / "out" / "sites.csv", index_col="site")
    assert set(sites.index) == {"A", "B"}
    effects = pd.read_csv(tmp_path / "out" / "effects.csv")
    assert (effects.c_change_low <= effects.c_change).all()
    transfer = pd.read_csv(tmp_path / "out" / "transfer.csv")
    assert (transfer.times_random > 1).all()
    assert np.allclose(transfer.times_random, transfer["size"] / transfer.size_random, rtol=1e-4)
    names = set(pd.read_csv(tmp_path / "out" / "directions.csv").name)
    assert {"site A", "site B"} <= names


def test_the_same_seed_gives_the_same_figures(cohort, tmp_path):
    for name in "ab":
        run(cohort, tmp_path / name, "--strengths", "0.25")
    first, second = ((tmp_path / name / "effects.csv").read_bytes() for name in "ab")
    assert first == second


def test_patches_that_carry_most_are_patches_of_the_bag(cohort, tmp_path):
    """Also where a random part of the bag was audited."""
    run(cohort, tmp_path / "out", "--strengths", "0.25", "--tokens", "100")
    patches = pd.read_csv(tmp_path / "out" / "patches.csv")
    assert len(patches) > 0
    for row in patches.itertuples():
        bag = FeatureBag.load(cohort / "bags" / f"{row.slide}.zarr")
        bounds = bag.scales[row.scale].bounds
        assert ((bounds == [row.x0, row.y0, row.x1, row.y1]).all(axis=1)).sum() == 1


def test_a_bag_that_is_damaged_is_left_out(cohort, tmp_path):
    shutil.copytree(cohort / "bags", tmp_path / "bags")
    damaged = sorted((tmp_path / "bags").iterdir())[0]
    shutil.rmtree(damaged)
    damaged.mkdir()
    (damaged / "zarr.json").write_text("{}")
    result = run(
        *(cohort, tmp_path / "out", "--strengths", "0.25", "--bags", tmp_path / "bags"),
    )
    assert result.exit_code == 0, result.output
    assert "left out" in result.output
    assert damaged.name in result.output


class TestRefused:
    @pytest.mark.parametrize("strengths", ["0", "-0.1", "3.5", "nan", "", "much"])
    def test_strengths_that_cannot_be(self, cohort, tmp_path, strengths):
        assert_usage(run(cohort, tmp_path / "out", "--strengths", strengths), "--strengths")
        assert not (tmp_path / "out").exists()

    def test_sites_without_a_table(self, cohort, tmp_path):
        assert_usage(run(cohort, tmp_path / "out", "--fold-by", "hospital"), "--table")

    def test_a_model_without_moments(self, cohort, tmp_path):
        result = run(cohort, tmp_path / "out", "--model", "crossfusion-demo")
        assert result.exit_code != 0
        assert "moments" in result.output or "encoder" in result.output

    def test_one_site(self, cohort, tmp_path):
        table = pd.read_csv(cohort / "cohort.csv").assign(hospital="A")
        table.to_csv(tmp_path / "one.csv", index=False)
        more = ("--table", tmp_path / "one.csv", "--fold-by", "hospital", "--strengths", "0.25")
        result = run(cohort, tmp_path / "out", *more)
        assert result.exit_code == 0, result.output
        assert "1 site" in result.output
        assert not (tmp_path / "out" / "sites.csv").exists()
        assert (tmp_path / "out" / "effects.csv").exists()

    def test_too_few_bags(self, cohort, tmp_path):
        (tmp_path / "bags").mkdir()
        for path in sorted((cohort / "bags").iterdir())[:4]:
            shutil.copytree(path, tmp_path / "bags" / path.name)
        result = run(cohort, tmp_path / "out", "--bags", tmp_path / "bags")
        assert_failed(result, "4 bags", "10 or more")
