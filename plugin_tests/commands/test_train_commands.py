"""`tiacf train` and `tiacf evaluate` as a user calls them."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from command_line import assert_failed, assert_usage, tiacf
from safetensors.torch import load_file, save_file

from tiacrossfusion.simulation.bags import simulate_bags


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder,
        45,
        3,
        scenario="fine",
        strength=2.0,
        censored_share=0.3,
        slides_per_patient=1,
        encoder_width=4,
        side=1,
        auc=0.95,
    )
    (folder / "small.yaml").write_text(
        "network: {embed_dim: 8, num_bins: 2}\n"
        "fitting: {epochs: 1, warm_up: 0, patients_per_step: 8}\n"
        "protocol: {folds: 3}\n"
    )
    return folder


def train(cohort, output, *more, table="cohort.csv", bags="bags"):
    options = ["--bags", cohort / bags, "--table", cohort / table, "--output-path", output]
    return tiacf("train", *options, "--config", cohort / "small.yaml", *more)


@pytest.mark.slow
def test_train_then_evaluate_two_models(cohort, tmp_path):
    models = ["--model", "mean-pool", "--model", "clinical", "--covariates", "fine_burden"]
    done = train(cohort, tmp_path / "run", "--time-unit", "weeks", *models)
    assert done.exit_code == 0, done.output
    assert "mean-pool: 45 patients, " in done.output
    assert "Harrell's C" in done.output
    assert "95 % interval" in done.output
    assert "tiacf predict --model" in done.output
    run = tmp_path / "run"
    assert set(pd.read_csv(run / "mean-pool" / "out_of_fold.csv").time_unit) == {"weeks"}
    arguments = ["--predictions", run / "clinical", "--against", run / "mean-pool"]
    judged = tiacf("evaluate", *arguments, "--draws", 200, "--output-path", tmp_path / "report")
    assert judged.exit_code == 0, judged.output
    assert "C less that of" in judged.output
    comparison = json.loads((tmp_path / "report" / "comparison.json").read_text())
    assert comparison["draws"] == 200
    assert (
        comparison["difference"]["low"]
        <= comparison["difference"]["value"]
        <= comparison["difference"]["high"]
    )
    assert (tmp_path / "report" / "kaplan_meier.png").exists()


def test_names_are_drawn_as_they_are(cohort, tmp_path):
    """A "$" begins no formula, and half of a character is written out."""
    table = b"\xff $x_1$.csv".decode(errors="surrogateescape")
    shutil.copy(cohort / "cohort.csv", tmp_path / table)
    more = ["--model", "clinical", "--covariates", "fine_burden", "--time-unit", r"$\foo$"]
    done = train(cohort, tmp_path / "run", *more, table=tmp_path / table)
    assert done.exit_code == 0, done.output
    odd = tmp_path / b"\xff $y_1$".decode(errors="surrogateescape")
    (tmp_path / "run" / "clinical").rename(odd)
    out = ["--draws", 100, "--output-path", tmp_path / "report"]
    done = tiacf("evaluate", "--predictions", odd, *out)
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_other_bags_are_not_taken_for_those_a_run_was_begun_with(cohort, tmp_path):
    run = tmp_path / "run"
    more = ["--time-unit", "months", "--covariates", "fine_burden", "--folds", "2"]
    more += ["--model", "clinical"]
    assert train(cohort, run, *more).exit_code == 0
    more += ["--model", "mean-pool"]
    assert train(cohort, run, *more).exit_code == 0
    simulate_bags(tmp_path / "other", 45, 4, scenario="fine", encoder_width=4, side=1)
    bags = tmp_path / "other" / "bags"
    done = train(cohort, run, *more, bags=bags)
    assert_failed(done, f"{run}: holds a run on bags with other features", "the same bags to go on")
    shutil.copytree(cohort / "bags", tmp_path / "moved")
    assert train(cohort, run, *more, bags=tmp_path / "moved").exit_code == 0


@pytest.mark.slow
def test_the_ensemble_is_of_the_folds_that_are_there(cohort, tmp_path):
    run = tmp_path / "run"
    more = ["--time-unit", "months", "--folds", "2", "--model", "mean-pool"]
    assert train(cohort, run, *more).exit_code == 0
    ensemble = run / "mean-pool" / "ensemble" / "model.safetensors"
    before = ensemble.read_bytes()
    shutil.rmtree(run / "mean-pool" / "fold-1")
    other = load_file(ensemble)  # as of another fold 1
    save_file({name: tensor + 1 for name, tensor in other.items()}, ensemble)
    assert train(cohort, run, *more).exit_code == 0
    assert ensemble.read_bytes() == before


def test_options_come_before_the_file(cohort, tmp_path):
    more = ["--time-unit", "months", "--model", "mean-pool", "--protocol", "holdout", "--seed", "7"]
    done = train(cohort, tmp_path / "run", *more)
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (config["protocol"]["protocol"], config["seed"]) == ("holdout", 7)
    assert config["network"]["embed_dim"] == 8
    assert config["protocol"]["folds"] == 3


def _spoiled(cohort, name, change):
    table = pd.read_csv(cohort / "cohort.csv")
    path = cohort / f"{name}.csv"
    change(table).to_csv(path, index=False)
    return path.name


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.assign(time=t.time.mask(t.index < 4)), "4 of 45 rows"),
        (lambda t: t.assign(time=t.time.where(t.index > 2, -1.0)), "3 of 45 rows"),
        (lambda t: t.assign(event=0), "none of the 45 patients has an event"),
        (
            lambda t: t.assign(slide=t.slide.where(t.index > 1, "ghost-" + t.slide)),
            "2 of 45 slides",
        ),
        (lambda t: pd.concat([t, t.head(3)]), "3 of 48 rows repeat a slide"),
        (lambda t: t.drop(columns="patient"), "no column 'patient' (--patient-column"),
    ],
)
def test_a_table_at_fault_is_one_line_before_training(cohort, tmp_path, change, line, request):
    table = _spoiled(cohort, f"bad{abs(hash(line))}", change)
    more = ["--time-unit", "months", "--model", "clinical", "--covariates", "fine_burden"]
    done = train(cohort, tmp_path / "run", *more, table=table)
    refused = assert_usage if "--patient-column" in line else assert_failed
    refused(done, line)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_used_is_left_out_on_demand_and_counted(cohort, tmp_path):
    table = _spoiled(
        cohort, "holes", lambda t: t.assign(time=t.time.where(t.index > 1, 0.0)).iloc[:-1]
    )
    more = ["--time-unit", "months", "--model", "mean-pool", "--drop-unusable"]
    done = train(cohort, tmp_path / "run", *more, "--protocol", "holdout", table=table)
    assert done.exit_code == 0, done.output
    assert "left out, time zero or negative: 2 rows (2 patients lost)" in done.output
    assert "3 bags belong to no slide of the table" in done.output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "--output-path", "x"], "--table is missing"),
        (["train", "--table", "none.csv", "--output-path", "x"], "--time-unit is missing"),
        (
            ["train", "--table", "none.csv", "--output-path", "x", "--time-unit", "days"],
            "none.csv: no such file",
        ),
        (["evaluate", "--output-path", "x"], "--predictions is missing"),
        (["evaluate", "--predictions", "nowhere", "--output-path", "x"], "nowhere"),
        (["evaluate", "--predictions", ".", "--draws", "0", "--output-path", "x"], "--draws 0"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert_usage(tiacf(*arguments), line)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("size", "line"), [("6", "embed_dim 6 does not split into 4 heads"), ("5", "embed_dim 5")]
)
def test_a_network_that_cannot_be_built_is_refused_before_another_is_trained(
    cohort, tmp_path, size, line
):
    more = ["--time-unit", "months", "--model", "mean-pool", "--model", "crossfusion"]
    assert_usage(train(cohort, tmp_path / "run", *more, "--embed-dim", size), line)
    assert not (tmp_path / "run").exists()


def test_bags_that_are_not_there(cohort, tmp_path):
    (cohort / "empty").mkdir(exist_ok=True)
    for bags, line in (
        ("empty", "holds no bag"),
        ("nowhere", "no such file or folder; check --bags"),
    ):
        done = train(cohort, tmp_path / "run", "--time-unit", "months", bags=bags)
        assert_usage(done, line)
