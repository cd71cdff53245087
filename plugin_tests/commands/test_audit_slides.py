"""`tiacf audit` on slides, and predictions of a model that it has taught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from command_line import assert_usage, tiacf

from tiacrossfusion.audit.nuisance import NUISANCES
from tiacrossfusion.models.files import find_bundle
from tiacrossfusion.models.nuisance_changes import NuisanceChanges
from tiacrossfusion.simulation.slides import simulate_slides


@pytest.fixture(scope="module")
def slides(made_once) -> Path:
    """Three small simulated slides, and a file that is not a slide."""

    def make(folder: Path) -> None:
        simulate_slides(folder, 3, 5, scenario="sum", size=(2600, 2600))
        (folder / "slides" / "broken.svs").write_bytes(b"no slide")

    return made_once("audited_slides", make) / "slides"


@pytest.fixture(scope="module")
def audited(slides, made_once) -> Path:
    """An audit of the slides, which taught a copy of the demonstration model."""

    def make(folder: Path) -> None:
        shutil.copytree(find_bundle("nested-demo"), folder / "model")
        result = run(slides, folder / "audit", folder / "model", "--update-model")
        assert "its predictions now have risk_nuisance_sd" in result.output, result.output
        (folder / "said.txt").write_text(result.output)

    return made_once("audited", make)


def run(slides: Path, out: Path, model: object = "nested-demo", *more: object):
    return tiacf(
        *("audit", "--model", model, "--img-input", slides, "--output-path", out),
        *("--families", "3", *more),
    )


def test_every_nuisance_has_its_row_beside_chance(audited):
    table = pd.read_csv(audited / "audit" / "nuisances.csv", index_col="nuisance")
    assert list(table.index) == [nuisance.name for nuisance in NUISANCES]
    assert (table.slides == 3).all()
    assert (table.size_low <= table["size"]).all()
    assert table["size"]["grid turned by 90 degrees"] < 1e-4  # the network reads the true grid
    assert table["size"]["patches turned by 90 degrees"] < 0.1
    assert table["size"]["stain of another slide, Macenko"] > 0.01
    page = (audited / "audit" / "report.html").read_text()
    assert "Slides under nuisances" in page
    assert "Adversaries" not in page


def test_a_slide_that_fails_is_said_and_the_others_go_on(audited):
    said = (audited / "said.txt").read_text()
    assert "broken.svs" in said
    assert "1 failed" in said
    table = pd.read_csv(audited / "audit" / "nuisance_slides.csv")
    assert sorted(table.status) == ["failed", "ok", "ok", "ok"]


def test_finished_slides_are_not_read_again(audited, slides, tmp_path):
    shutil.copytree(audited / "audit", tmp_path / "audit")
    before = (tmp_path / "audit" / "nuisances.csv").read_bytes()
    result = run(slides, tmp_path / "audit", audited / "model")
    assert result.output.count("finished before, skipped") == 3
    assert (tmp_path / "audit" / "nuisances.csv").read_bytes() == before


def test_changes_of_features_are_kept_for_training(audited):
    found = NuisanceChanges.load(audited / "audit" / "nuisance.safetensors")
    assert len(found.names) == 3 * len(NUISANCES)
    of_grid = [i for i, name in enumerate(found.names) if name == "grid turned by 90 degrees"]
    assert float(found.changes[of_grid].abs().max()) < 1e-3
    assert float(found.changes.abs().max()) > 0


def test_predictions_say_how_far_nuisances_move_them(audited, slides, tmp_path):
    for model, name in ((audited / "model", "taught"), ("nested-demo", "plain")):
        result = tiacf(
            *("predict", "--model", model, "--img-input", slides / "SIM-0001.svs"),
            *("--output-path", tmp_path / name),
        )
        assert result.exit_code == 0, result.output
    plain, taught = (pd.read_csv(tmp_path / n / "predictions.csv") for n in ("plain", "taught"))
    assert "risk_nuisance_sd" not in plain
    assert taught.risk_nuisance_sd[0] > 0
    assert taught.risk[0] == plain.risk[0]
    config = json.loads((audited / "model" / "config.json").read_text())
    near = abs(taught.risk[0] - config["risk_reference"]["cutoff"])
    uncertain = bool(near < 1.96 * taught.risk_nuisance_sd[0])
    assert bool(taught.risk_group_uncertain[0]) is uncertain
    assert ("uncertain" in taught.message.fillna("")[0]) is uncertain
    head = json.loads((tmp_path / "taught" / "SIM-0001.geojson").read_text())["tiacrossfusion"]
    assert head["risk_group_uncertain"] is uncertain
    assert "Under nuisances" in (tmp_path / "taught" / "report.html").read_text()


class TestRefused:
    def test_neither_slides_nor_bags(self, tmp_path):
        assert_usage(
            tiacf("audit", "--model", "nested-demo", "--output-path", tmp_path), "--img-input"
        )

    @pytest.mark.parametrize("option", ["--families", "--most"])
    def test_counts_that_cannot_be(self, slides, tmp_path, option):
        assert_usage(run(slides, tmp_path / "out", "nested-demo", option, "0"), option)
        assert not (tmp_path / "out").exists()

    def test_options_of_bags(self, slides, tmp_path):
        assert_usage(run(slides, tmp_path / "out", "nested-demo", "--tokens", "500"), "--tokens")

    def test_a_shipped_model_is_not_updated(self, slides, tmp_path):
        result = run(slides, tmp_path / "out", "nested-demo", "--update-model")
        assert_usage(result, "--update-model")

    def test_no_slide_that_can_be_read(self, slides, tmp_path):
        result = run(slides / "broken.svs", tmp_path / "out")
        assert result.exit_code == 1
        assert "no slide could be read" in result.output
