"""Choosing settings: inside the training part, recorded, resumed."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.evaluation.prediction_files import read_predictions
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.training.api import train
from tiacrossfusion.training.space import Dimension, Tuning, read_space

CONFIG = {
    "time_unit": "months",
    "models": ["mean-pool"],
    "network": {"embed_dim": 8, "num_bins": 2},
    "fitting": {"epochs": 2, "warm_up": 1, "patients_per_step": 8},
    "protocol": {"protocol": "holdout"},
}
SPACE = {
    "learning_rate": Dimension(low=1e-3, high=3e-2, log=True),
    "dropout": Dimension(low=0, high=0.4),
}
TUNING = Tuning(trials=3, inner_folds=2, space=SPACE)
TRIALS = "tuning/fold-0/trials.csv"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder,
        50,
        1,
        scenario="fine",
        strength=2.0,
        censored_share=0.2,
        encoder_width=6,
        side=2,
        auc=0.95,
    )
    return folder


def tuned(cohort, output, *, table="cohort.csv", say=None, **changes):
    return train(
        cohort / table,
        cohort / "bags",
        output,
        config=CONFIG,
        **({"tuning": TUNING, "say": say} | changes),
    )


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "tuned"
    tuned(cohort, output)
    return output


@pytest.mark.slow
def test_trials_are_recorded_and_the_first_is_the_recipe(finished):
    trials = pd.read_csv(finished / TRIALS)
    assert list(trials["trial"]) == [1, 2, 3]
    assert trials["inner_c"].between(0, 1).all()
    assert trials["params_learning_rate"].between(1e-3, 3e-2).all()
    assert trials["params_learning_rate"].nunique() == 3
    assert len(read_predictions(finished / "mean-pool")[0].patients) == 10


@pytest.mark.slow
def test_a_killed_search_goes_on_as_if_nothing_had_happened(cohort, finished, tmp_path):
    def stop(line: str) -> None:
        if "trial 2 of 3" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(cohort, tmp_path / "run", say=stop)
    assert not (tmp_path / "run" / "mean-pool" / "out_of_fold.csv").exists()
    tuned(cohort, tmp_path / "run")
    assert (tmp_path / "run" / TRIALS).read_text() == (finished / TRIALS).read_text()
    with pytest.raises(TiacfError, match="choice of settings"):
        tuned(cohort, tmp_path / "run", tuning=None)


@pytest.mark.slow
def test_the_follow_up_of_test_patients_changes_no_trial(cohort, finished, tmp_path):
    """The division into folds follows the order of times, which stays as it is."""
    test = read_predictions(finished / "mean-pool")[0].patients
    table = pd.read_csv(cohort / "cohort.csv")
    order, rows = table["time"].rank(method="first"), table["patient"].isin(test)
    moved = table["time"].sort_values().to_numpy()
    gaps = [0.999 * moved[int(rank) - 1] for rank in order[rows]]
    table.loc[rows, "time"] = gaps
    if (table["time"].rank(method="first") != order).any():
        pytest.fail("the change was to keep the order")
    table.to_csv(cohort / "moved.csv", index=False)
    tuned(cohort, tmp_path / "run", table="moved.csv")
    assert (tmp_path / "run" / TRIALS).read_text() == (finished / TRIALS).read_text()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"embed_dim": [8, 16]}, "embed_dim cannot be tuned"),
        ({"dropout": {"low": 0.5, "high": 0.1}}, "low is not below high"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "begins above 0"),
        ({"dropout": {"low": 0}}, "give low and high, or choices"),
        ({"dropout": {"low": 0, "high": 1, "step": 2}}, "step"),
        ({}, "names no setting"),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(tmp_path, space, words):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    with pytest.raises(UsageError, match=words) as caught:
        read_space(tmp_path / "space.yaml")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_tuned_is_refused(cohort, tmp_path):
    for models, words in ((["coxnet"], "by itself"), (["mean-pool", "abmil"], "one network")):
        with pytest.raises(UsageError, match=words):
            tuned(cohort, tmp_path / "run", models=models)
