"""What a model says of slides that it knows, of slides unlike those, and of its own worth."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tiacrossfusion import train
from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.slide import predict_stored
from tiacrossfusion.models.bundle import ModelBundle, load_bundle
from tiacrossfusion.simulation.bags import simulate_bags

SETTINGS = {
    "time_unit": "months",
    "models": ("mean-pool",),
    "network": {"embed_dim": 8, "num_bins": 2},
    "fitting": {"epochs": 1, "warm_up": 0, "patients_per_step": 8},
    "protocol": {"folds": 2},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(folder, 40, 5, scenario="fine", encoder_width=4, side=1)
    return folder


def run(cohort: Path, out: Path, said: list[str] | None = None, **changes: object):
    say = None if said is None else said.append
    config = {**SETTINGS, **changes}
    return train(cohort / "cohort.csv", cohort / "bags", out, config=config, say=say)


@pytest.fixture(scope="module")
def bundle(cohort, tmp_path_factory) -> ModelBundle:
    trained = run(cohort, tmp_path_factory.mktemp("run") / "run")
    return load_bundle(trained.bundles["mean-pool"])


def message(bag: FeatureBag, bundle: ModelBundle) -> str:
    return predict_stored(bag, bundle, attribution=False).message


def shifted(bag: FeatureBag, by: float) -> FeatureBag:
    scales = {
        scale: ScaleFeatures((found.features + by).astype(np.float16), found.bounds, found.grid)
        for scale, found in bag.scales.items()
    }
    return FeatureBag(scales, bag.provenance)


def test_slides_of_the_training_and_slides_unlike_them_are_told(cohort, bundle, tmp_path):
    known = FeatureBag.load(sorted((cohort / "bags").glob("*.zarr"))[3])
    assert "mean-pool-ensemble was trained on this slide" in message(known, bundle)
    simulate_bags(tmp_path / "new", 20, 6, scenario="fine", encoder_width=4, side=1)
    new = [FeatureBag.load(path) for path in sorted((tmp_path / "new" / "bags").glob("*.zarr"))]
    said = [message(bag, bundle) for bag in new]
    assert not any("was trained on this slide" in text for text in said)
    assert sum("unlike the slides of the training" in text for text in said) <= 3
    assert "unlike the slides of the training" in message(shifted(new[0], 3.0), bundle)


def test_a_fold_knows_its_own_training_slides_only(cohort, tmp_path):
    run(cohort, tmp_path / "run")
    splits = pd.read_csv(tmp_path / "run" / "splits.csv", dtype=str)
    fold = load_bundle(tmp_path / "run" / "mean-pool" / "fold-0" / "bundle")
    own = splits[splits.fold == "0"]
    parts = own.set_index("patient").iloc[:, -1]
    told = {
        patient: "was trained on this slide"
        in message(FeatureBag.load(cohort / "bags" / f"{patient}.zarr"), fold)
        for patient in parts.index
    }
    assert {patient for patient, known in told.items() if not known} == set(
        parts.index[parts == "test"]
    )


def test_a_model_no_better_than_chance_says_so_everywhere(tmp_path):
    simulate_bags(tmp_path, 40, 7, scenario="fine", encoder_width=4, side=1, strength=0.0)
    trained = run(tmp_path, tmp_path / "run")
    (evaluation,) = trained.evaluations.values()
    assert evaluation.pooled.harrell_c.low <= 0.5
    assert any("No better than chance" in note for note in evaluation.notes)
    assert pd.read_csv(trained.table).remark.tolist() == ["no better than chance"]
    card = load_bundle(trained.bundles["mean-pool"]).config.card
    assert "no better than chance" in card.performance


def test_few_events_are_said(cohort, tmp_path):
    said: list[str] = []
    models = {"models": ("clinical",), "columns": {"covariates": ("fine_burden", "extra")}}
    table = pd.read_csv(cohort / "cohort.csv").assign(extra=lambda t: t.index * 1.0)
    shutil.copytree(cohort / "bags", tmp_path / "bags")
    table.to_csv(tmp_path / "cohort.csv", index=False)
    run(tmp_path, tmp_path / "run", said, **models)
    assert any("events among the training patients for 2 covariates" in line for line in said)
    run(tmp_path, tmp_path / "five", said, **models, protocol={"folds": 5})
    assert any("fewer than 10 events among the test patients of fold 0" in line for line in said)


def test_one_slide_under_two_patients_is_refused(cohort, tmp_path):
    table = pd.read_csv(cohort / "cohort.csv")
    shutil.copytree(cohort / "bags", tmp_path / "bags")
    first = table.slide[0]
    shutil.copytree(tmp_path / "bags" / f"{first}.zarr", tmp_path / "bags" / "copy.zarr")
    copy = table.iloc[[0]].assign(slide="copy", patient="other")
    pd.concat([table, copy]).to_csv(tmp_path / "cohort.csv", index=False)
    with pytest.raises(TiacfError, match=f"{first} of {first} and copy of other"):
        run(tmp_path, tmp_path / "run")
    twice = table.iloc[[0]].assign(slide="copy")
    pd.concat([table, twice]).to_csv(tmp_path / "cohort.csv", index=False)
    run(tmp_path, tmp_path / "one")  # of one patient
