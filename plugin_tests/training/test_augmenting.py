"""Training against sites, nuisances and a generator, beside plain training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import assert_failed, assert_usage, tiacf
from small_training import SETTINGS

from tiacrossfusion import train
from tiacrossfusion.audit.directions import mean_features
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.models.nuisance_changes import NuisanceChanges
from tiacrossfusion.networks.perturbed import Audited, risks
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.slides.spec import SCALES

WIDTH = 16


@pytest.fixture(scope="module")
def cohort(made_once) -> Path:
    """Bags of two hospitals, to one of which the patients come who die early; its features are moved."""

    def make(folder: Path) -> None:
        simulate_bags(folder, 60, 5, scenario="sum", side=4, encoder_width=WIDTH)
        table = pd.read_csv(folder / "cohort.csv")
        far = (table.time < table.time.median()).to_numpy()
        table["hospital"] = np.where(far, "B", "A")
        table["lone"] = "A"
        table.to_csv(folder / "cohort.csv", index=False)
        vector = 0.5 * np.random.default_rng(0).standard_normal(WIDTH)
        for name in table.slide[far]:
            path = folder / "bags" / f"{Path(name).stem}.zarr"
            bag = FeatureBag.load(path)
            scales = {
                s: type(t)((t.features + vector).astype(np.float16), t.bounds, t.grid)
                for s, t in bag.scales.items()
            }
            shutil.rmtree(path)
            FeatureBag(scales, bag.provenance).save(path)
        encoder = bag.provenance.encoder
        changes = torch.from_numpy(np.tile(vector, (1, len(SCALES), 1))).float()
        NuisanceChanges(changes, ("stain",), ("slide",), encoder).save(
            folder / "nuisance.safetensors"
        )
        narrow = encoder.model_copy(update={"name": "another"})
        NuisanceChanges(changes, ("stain",), ("slide",), narrow).save(folder / "other.safetensors")

    return made_once("augmented", make)


@pytest.fixture(scope="module")
def trained(cohort, made_once) -> Path:
    """Mean pooling trained plainly and in three other ways on the same folds."""

    def make(folder: Path) -> None:
        against = {
            "augment": ["stain", "shift"],
            "adversarial": True,
            "nuisance": str(cohort / "nuisance.safetensors"),
        }
        config = SETTINGS | {
            "columns": {"site": "hospital"},
            "augmenting": against,
            "fitting": {"epochs": 40, "patience": 40, "learning_rate": 0.02},
        }
        train(
            cohort / "cohort.csv",
            cohort / "bags",
            folder / "run",
            config=config,
            models=("mean-pool",),
        )

    return made_once("augmented_run", make) / "run"


def of_site(cohort: Path, bundle: Path) -> float:
    """Return how far the direction between the hospitals moves the risk, in SDs of the risks."""
    model = load_bundle(bundle)
    audited = Audited.of(model.network, model.config.name)
    table = pd.read_csv(cohort / "cohort.csv")
    slides = [
        SlideTokens.from_bag(FeatureBag.load(cohort / "bags" / f"{Path(name).stem}.zarr"))
        for name in table.slide
    ]
    means = mean_features(audited, slides)
    far = (table.hospital == "B").to_numpy()
    direction = means[far].mean(axis=0) - means[~far].mean(axis=0)
    delta = {s: torch.from_numpy(d).float() for s, d in zip(audited.scales, direction, strict=True)}
    before = risks(audited, slides)
    return float((risks(audited, slides, delta) - before).abs().mean() / before.std())


def test_each_is_beside_plain_training_on_the_same_folds(trained):
    table = pd.read_csv(trained / "models.csv", index_col="model")
    assert list(table.index) == [
        "mean-pool",
        *(f"mean-pool+{part}" for part in ("stain", "shift", "adversarial")),
    ]
    for name in table.index[1:]:
        row = table.loc[name]
        assert row.this_minus_plain_low <= row.this_minus_plain <= row.this_minus_plain_high
    plain, other = (
        pd.read_csv(trained / name / "out_of_fold.csv") for name in ("mean-pool", "mean-pool+shift")
    )
    assert plain.patient.tolist() == other.patient.tolist()
    assert plain.fold.tolist() == other.fold.tolist()
    assert not np.allclose(plain.risk, other.risk)


@pytest.mark.parametrize("part", ["shift", "stain"])
def test_the_risk_leans_less_on_what_it_was_trained_against(cohort, trained, part):
    plain = of_site(cohort, trained / "mean-pool" / "ensemble")
    against = of_site(cohort, trained / f"mean-pool+{part}" / "ensemble")
    assert against < 0.7 * plain


def test_the_bundle_is_one_like_any_other(cohort, trained, tmp_path):
    result = tiacf(
        *("predict", "--model", trained / "mean-pool+adversarial" / "ensemble"),
        *("--bags", cohort / "bags", "--output-path", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "out" / "predictions.csv").risk.notna().all()


def run(cohort: Path, out: Path, *more: object):
    return tiacf(
        *("train", "--bags", cohort / "bags", "--table", cohort / "cohort.csv"),
        *(
            "--time-unit",
            "months",
            "--model",
            "mean-pool",
            "--folds",
            "2",
            "--output-path",
            out,
            *more,
        ),
    )


class TestRefused:
    def test_shift_without_sites(self, cohort, tmp_path):
        result = run(cohort, tmp_path / "out", "--augment", "shift")
        assert result.exit_code != 0
        assert "--site" in result.output

    def test_one_site(self, cohort, tmp_path):
        result = run(cohort, tmp_path / "out", "--augment", "shift", "--site", "lone")
        assert_failed(result, "--augment shift", "1 of 1 sites")

    def test_stain_without_a_file(self, cohort, tmp_path):
        result = run(cohort, tmp_path / "out", "--augment", "stain")
        assert result.exit_code != 0
        assert "--nuisance" in result.output

    def test_a_file_of_other_features(self, cohort, tmp_path):
        more = ("--augment", "stain", "--nuisance", cohort / "other.safetensors")
        assert_failed(run(cohort, tmp_path / "out", *more), "encoder")

    def test_a_damaged_file(self, cohort, tmp_path):
        (tmp_path / "bad.safetensors").write_bytes(b"nothing")
        more = ("--augment", "stain", "--nuisance", tmp_path / "bad.safetensors")
        assert_failed(run(cohort, tmp_path / "out", *more), "bad.safetensors", "damaged")

    def test_an_unknown_one(self, cohort, tmp_path):
        assert_usage(run(cohort, tmp_path / "out", "--augment", "colour"), "--augment colour")
