"""Networks of a user's own are trained, judged and kept like the built-in ones."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import FAILED, assert_failed, assert_usage, tiacf
from torch import Tensor, nn

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.evaluation.api import evaluate_predictions
from tiacrossfusion.evaluation.prediction_files import read_predictions
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.registry import NETWORKS
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.training.api import train

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_network.py"
WIDTH = 4


class Fine(nn.Module):
    """A plain module that reads 20x alone."""

    def __init__(self, encoder_width: int, num_bins: int, hidden: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(encoder_width, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_bins)

    def forward(self, x20: Tensor) -> Tensor:
        return self.head(self.layers(x20.float()).mean(dim=1))


class Clinical(nn.Module):
    """A plain module that cannot do without covariates, and knows how far tokens lie apart."""

    def __init__(self, encoder_width: int, num_bins: int, num_covariates: int) -> None:
        super().__init__()
        self.head = nn.Linear(num_covariates + 1, num_bins)

    def forward(self, x5: Tensor, grid5: Tensor, covariates: Tensor) -> Tensor:
        assert grid5.dtype == torch.int64
        assert grid5.shape == (*x5.shape[:2], 2)
        spread = grid5.float().std(dim=1, correction=0).mean(dim=1, keepdim=True)  # (B, 1)
        return self.head(torch.cat([spread, covariates], dim=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """60 patients of two slides each, with a covariate that the prognosis was planted by."""
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder,
        60,
        1,
        scenario="fine",
        strength=2.0,
        censored_share=0.3,
        slides_per_patient=2,
        encoder_width=WIDTH,
        side=2,
        auc=0.95,
    )
    return folder


@pytest.fixture
def own(monkeypatch) -> None:
    """The networks above and the example's are registered."""
    spec = importlib.util.spec_from_file_location("own_network", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_network", module)
    monkeypatch.setattr(NETWORKS, "_registered", {})
    spec.loader.exec_module(module)
    NETWORKS.register("fine")(Fine)
    NETWORKS.register("with-covariates")(Clinical)


def settings(**changes):
    return {
        "time_unit": "months",
        "columns": {"covariates": ["fine_burden"]},
        "network": {"embed_dim": 8, "num_bins": 3},
        "fitting": {"epochs": 3, "warm_up": 0, "patients_per_step": 4, "learning_rate": 0.05},
        "protocol": {"folds": 2},
    } | changes


def run(folder: Path, out: Path, *models: str, **changes):
    return train(
        folder / "cohort.csv", folder / "bags", out, config=settings(**changes), models=models
    )


def test_plain_modules_positions_and_covariates_through_training(own, folder, tmp_path):
    trained = run(folder, tmp_path / "run", "fine", "with-covariates", "placed-pool", "clinical")
    assert list(trained.evaluations) == [
        "fine",
        "with-covariates",
        "placed-pool",
        "clinical",
    ]
    assert list(pd.read_csv(trained.table).model) == list(trained.evaluations)
    # The prognosis was planted by the covariate, which the network is given.
    assert trained.evaluations["clinical"].pooled.harrell_c.value > 0.7
    judged = evaluate_predictions(
        tmp_path / "run" / "with-covariates", against=tmp_path / "run" / "fine", draws=100
    )
    assert judged.model == "with-covariates"
    assert judged.evaluation.pooled.harrell_c.value == pytest.approx(
        trained.evaluations["with-covariates"].pooled.harrell_c.value
    )
    assert judged.comparison.difference.value == pytest.approx(
        judged.comparison.first.value - judged.comparison.second.value
    )
    assert load_bundle(trained.bundles["fine"]).config.architecture.sizes == {"hidden": 4}


def test_the_bundle_standardises_the_covariates_as_training_did(own, folder, tmp_path):
    for loss in ("nll", "cox"):
        out = tmp_path / loss
        fitting = settings()["fitting"] | {"loss": loss}
        trained = run(folder, out, "placed-pool", fitting=fitting)
        bundle = load_bundle(out / "placed-pool" / "fold-1" / "bundle")
        assert bundle.config.architecture.covariates == ("fine_burden",)
        assert bundle.config.architecture.sizes["num_covariates"] == 1
        fold = read_predictions(out / "placed-pool" / "fold-1")[0]
        table = pd.read_csv(folder / "cohort.csv")
        rows = table[table.patient == fold.patients[0]]
        training = table.drop_duplicates("patient").set_index("patient").fine_burden
        splits = pd.read_csv(out / "splits.csv")
        chosen = splits.patient[(splits.fold == 1) & (splits.part == "train")]
        mean = training[chosen].mean()
        assert bundle.network.covariate_mean.item() == pytest.approx(mean, abs=1e-5)
        hazards = []
        for row in rows.itertuples():
            bag = FeatureBag.load(folder / "bags" / f"{row.slide}.zarr")
            tokens = SlideTokens.from_bag(bag)
            given = replace(tokens, covariates=torch.tensor([[row.fine_burden]]).float())
            with torch.inference_mode():
                hazards.append(call_network(bundle.network, given).hazards[0].double().numpy())
            with pytest.raises(TiacfError, match="no covariates, which the network needs"):
                predict_bag(bag, bundle)
        survival = np.cumprod(1 - np.mean(hazards, axis=0))
        assert fold.survival[0] == pytest.approx(survival, abs=1e-6)
        ensemble = load_bundle(trained.bundles["placed-pool"])
        with pytest.raises(TiacfError, match="no covariates, which the network needs"):
            predict_bag(bag, ensemble)


def test_a_network_that_takes_no_covariates_is_the_same_with_and_without(own, folder, tmp_path):
    changes = {"protocol": {"protocol": "holdout"}}
    beside = run(folder, tmp_path / "with", "fine", **changes)
    assert list(beside.evaluations) == ["fine", "clinical"]  # the clinic stands beside it
    assert (tmp_path / "with" / "fine" / "added_value.json").is_file()
    trained = run(folder, tmp_path / "without", "fine", columns={}, **changes)
    one, two = (
        (tmp_path / name / "fine" / "out_of_fold.csv").read_bytes() for name in ("with", "without")
    )
    assert one == two
    assert trained.bundles["fine"] == tmp_path / "without" / "fine" / "fold-0" / "bundle"


def test_what_is_lacking_is_one_line_before_any_training(own, folder, tmp_path):
    table = pd.read_csv(folder / "cohort.csv")
    table["stage"] = np.where(table.fine_burden > 0.5, "II", "I")
    table["stage"] = table.groupby("patient").stage.transform("first")
    (tmp_path / "text").mkdir()
    table.to_csv(tmp_path / "text" / "cohort.csv", index=False)
    (tmp_path / "text" / "bags").symlink_to(folder / "bags")
    for place, columns, error in (
        (folder, {}, "with-covariates needs covariates; name columns with --covariates"),
        (
            tmp_path / "text",
            {"covariates": ["fine_burden", "stage"]},
            "with-covariates takes numbers, and the covariate stage is text; write it as numbers",
        ),
    ):
        with pytest.raises(UsageError, match=error):
            run(place, tmp_path / "run", "fine", "with-covariates", columns=columns)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"network.sizes: no network takes hiden; remove it"):
        run(
            folder,
            tmp_path / "run",
            "fine",
            columns={},
            network=settings()["network"] | {"sizes": {"hiden": 3}},
        )


def test_bags_without_positions_are_named_with_the_network(own, folder, tmp_path):
    bags = tmp_path / "bags"
    for number, store in enumerate(sorted((folder / "bags").glob("*.zarr"))):
        bag = FeatureBag.load(store)
        if number < 2:
            scales = {name: replace(scale, grid=None) for name, scale in bag.scales.items()}
            made = bag.provenance.model_copy(update={"imported": "h5"})
            bag = FeatureBag(scales, made)
        bag.save(bags / store.name)
    out = tmp_path / "run"
    line = "placed-pool needs grid20, and 2 of 120 bags have no positions at 20x, such as SIM-0001"
    with pytest.raises(TiacfError, match=line) as refusal:
        train(
            folder / "cohort.csv",
            bags,
            out,
            config=settings(columns={}),
            models=["fine", "placed-pool"],
        )
    assert "; extract the slides" in str(refusal.value)
    assert not (out / "fine").exists()
    run_on_some = settings(protocol={"protocol": "holdout"}, columns={})
    train(folder / "cohort.csv", bags, tmp_path / "fine", config=run_on_some, models=["fine"])


def test_bags_of_one_scale_serve_a_network_of_that_scale(own, folder, tmp_path):
    bags = tmp_path / "bags"
    for store in (folder / "bags").glob("*.zarr"):
        bag = FeatureBag.load(store)
        FeatureBag({"20x": bag.scales["20x"]}, bag.provenance).save(bags / store.name)
    config = settings(protocol={"protocol": "holdout"}, columns={})
    trained = train(folder / "cohort.csv", bags, tmp_path / "run", config=config, models=["fine"])
    whole = run(folder, tmp_path / "whole", "fine", columns={}, protocol={"protocol": "holdout"})
    one, two = (done.evaluations["fine"].pooled.harrell_c for done in (trained, whole))
    assert one == two
    with pytest.raises(
        TiacfError, match="mean-pool needs x5, and 120 of 120 bags have no features"
    ):
        train(folder / "cohort.csv", bags, tmp_path / "3", config=config, models=["mean-pool"])


def test_the_example_is_trained_from_the_command_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(NETWORKS, "_registered", {})
    done = tiacf(
        *("train", "--bags", folder / "bags", "--table", folder / "cohort.csv"),
        *("--time-unit", "months", "--output-path", tmp_path / "run", "--protocol", "holdout"),
        *("--plugin", EXAMPLE, "--model", "placed-pool", "--epochs", 1, "--embed-dim", 8),
        *("--num-bins", 2),
    )
    assert done.exit_code == 0, done.output
    assert "placed-pool: 12 patients" in done.output
    assert load_bundle(tmp_path / "run/placed-pool/fold-0/bundle").config.architecture.package


def test_prediction_reads_covariates_from_the_table_of_patients(own, folder, tmp_path):
    run(folder, tmp_path / "run", "placed-pool")
    place = tmp_path / "run" / "placed-pool" / "fold-1"
    fold = read_predictions(place)[0]
    cohort = pd.read_csv(folder / "cohort.csv")
    rows = cohort[cohort.patient == fold.patients[0]]
    for slide in rows.slide:
        shutil.copytree(folder / "bags" / f"{slide}.zarr", tmp_path / "bags" / f"{slide}.zarr")
    arguments = ["predict", "--bags", tmp_path / "bags", "--model", place / "bundle"]
    table, out = tmp_path / "patients.csv", tmp_path / "out"
    arguments += ["--output-path", out, "--patients", table]

    assert_usage(tiacf(*arguments[:-2]), "covariates fine_burden", "--patients")
    rows.drop(columns="fine_burden").to_csv(table, index=False)
    assert_failed(tiacf(*arguments), "no column 'fine_burden'")
    rows.assign(fine_burden="high").to_csv(table, index=False)
    assert_failed(tiacf(*arguments), "fine_burden of slide", "'high'", "needs a number")
    assert not (out / "predictions.csv").exists()

    rows.to_csv(table, index=False)
    result = tiacf(*arguments)
    assert result.exit_code == 0, result.output
    predicted = pd.read_csv(out / "patients.csv").iloc[0]
    survival = [predicted[f"survival_{k}"] for k in (1, 2, 3)]
    assert fold.survival[0] == pytest.approx(survival, abs=1e-6)

    rows.assign(fine_burden=rows.fine_burden + 1).to_csv(table, index=False)
    result = tiacf(*arguments)
    assert result.exit_code == FAILED
    assert result.output.count("made with another covariates; give --overwrite") == len(rows)
