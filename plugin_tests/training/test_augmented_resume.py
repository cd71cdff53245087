"""Networks that are trained against nuisances: killed and resumed, and slides that are passed twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.evaluation.prediction_files import read_predictions
from tiacrossfusion.models.nuisance_changes import NuisanceChanges
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.training.augmenting import Augmentation
from tiacrossfusion.training.config import make_config
from tiacrossfusion.training.module import SurvivalTraining
from tiacrossfusion.training.plan import read_cohort
from tiacrossfusion.training.run import TrainingRun

WIDTH, EPOCHS = 6, 4
MODEL = "mean-pool+stain+shift+adversarial"


@pytest.fixture(scope="module")
def cohort(made_once) -> Path:
    """40 patients of two hospitals with two slides each, of different numbers of patches."""

    def make(folder: Path) -> None:
        simulate_bags(
            folder, 40, 3, scenario="sum", slides_per_patient=2, encoder_width=WIDTH, side=2
        )
        table = pd.read_csv(folder / "cohort.csv")
        table["hospital"] = np.where(table.patient.rank(method="dense") % 2, "A", "B")
        table.to_csv(folder / "cohort.csv", index=False)
        for number, path in enumerate(sorted((folder / "bags").iterdir())):
            bag = FeatureBag.load(path)
            fine = bag.scales["20x"]
            kept = slice(number % 3, None)
            moved = fine.features[kept] + np.float16(2 * (number // 2 % 2))
            cut = type(fine)(moved, fine.bounds[kept], fine.grid[kept])
            FeatureBag({**bag.scales, "20x": cut}, bag.provenance).save(path)
        changes = torch.randn(3, 3, WIDTH, generator=torch.Generator().manual_seed(0))
        NuisanceChanges(changes, ("a", "b", "c"), ("s",) * 3, bag.provenance.encoder).save(
            folder / "nuisance.safetensors"
        )

    return made_once("augmented_resume", make)


def run_in(folder: Path, cohort: Path) -> TrainingRun:
    config = make_config(
        {
            "time_unit": "months",
            "models": [MODEL],
            "columns": {"site": "hospital"},
            "network": {"embed_dim": 8, "num_bins": 3},
            "fitting": {"epochs": EPOCHS, "patience": EPOCHS, "patients_per_step": 8},
            "protocol": {"protocol": "holdout"},
            "augmenting": {"nuisance": str(cohort / "nuisance.safetensors")},
        },
        "test",
    )
    return TrainingRun(folder, read_cohort(cohort / "cohort.csv", cohort / "bags", config), config)


def risks_in(folder: Path) -> np.ndarray:
    return read_predictions(folder / MODEL / "fold-0")[0].risks


def test_a_killed_run_goes_on_to_the_same_result(tmp_path, cohort, monkeypatch):
    run_in(tmp_path / "whole", cohort).fit(MODEL)
    begin = SurvivalTraining.on_train_epoch_start

    def killed(self):
        if self.current_epoch == EPOCHS // 2:
            raise KeyboardInterrupt
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(SurvivalTraining, "on_train_epoch_start", killed)
        with pytest.raises(KeyboardInterrupt):
            run_in(tmp_path / "killed", cohort).fit(MODEL)
    assert (tmp_path / "killed" / MODEL / "fold-0" / "last.ckpt").exists()
    run_in(tmp_path / "killed", cohort).fit(MODEL)
    assert risks_in(tmp_path / "killed") == pytest.approx(risks_in(tmp_path / "whole"), abs=1e-5)


def test_both_passes_of_a_slide_have_the_same_change(tmp_path, cohort, monkeypatch):
    """Else the gradient of the second would be of another loss."""
    seen: dict[int, list[torch.Tensor]] = {}
    add = Augmentation.add

    def watched(self, change, tokens, network):
        moved = add(self, change, tokens, network)
        if network.training:
            seen.setdefault(id(change), []).append(moved.features["20x"])
            kept.append(change)
        return moved

    kept: list[object] = []  # so that no other change takes the id of one that is gone
    monkeypatch.setattr(Augmentation, "add", watched)
    run_in(tmp_path, cohort).fit(MODEL)
    twice = [values for values in seen.values() if len(values) > 1]
    assert len(twice) > EPOCHS
    assert all(torch.equal(*values) for values in twice)
    differ = {values[0].flatten()[:4].numpy().tobytes() for values in twice}
    assert len(differ) == len(twice)  # drawn anew for each pass of training
