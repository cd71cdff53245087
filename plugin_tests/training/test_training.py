"""Training through its public doors, on small simulated cohorts."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cohorts.folds import read_folds
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.evaluation.evaluation_files import EVALUATION
from tiacrossfusion.evaluation.prediction_files import DIGESTS, TABLE, read_predictions
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.recipe import Recipe
from tiacrossfusion.networks.registry import COXNETS, NETWORKS, build_network
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.runs.processes import process_here
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.survival import quantile_bins, survival_curve
from tiacrossfusion.training import lock
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.config import make_config, read_settings
from tiacrossfusion.training.lock import LOCK, alone_in
from tiacrossfusion.training.module import SurvivalTraining
from tiacrossfusion.training.patients import patients_of, times_and_events
from tiacrossfusion.training.plan import read_cohort
from tiacrossfusion.training.run import TrainingRun

SMALL = {
    "time_unit": "months",
    "models": ["mean-pool"],
    "network": {"embed_dim": 8, "num_heads": 2, "num_bins": 3},
    "fitting": {"epochs": 2, "warm_up": 1, "patients_per_step": 8, "learning_rate": 1e-3},
    "protocol": {"folds": 3},
}


@pytest.fixture(scope="module")
def cohort_folder(tmp_path_factory):
    """60 patients with 2 slides each, bags of 4 / 16 / 64 tokens."""
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder,
        60,
        1,
        scenario="fine",
        strength=2.0,
        censored_share=0.3,
        slides_per_patient=2,
        encoder_width=6,
        side=2,
        auc=0.95,
    )
    return folder


def settings(**changes):
    merged = {name: dict(part) if isinstance(part, dict) else part for name, part in SMALL.items()}
    for name, change in changes.items():
        merged[name] = (
            merged[name] | change if isinstance(change, dict) and name in merged else change
        )
    return make_config(merged, "test")


@cache
def read_bag(path):
    return FeatureBag.load(path)


def cohort_in(folder, config, *, stored):
    cohort = read_cohort(folder / "cohort.csv", folder / "bags", config)
    bags = {slide: path if stored else read_bag(path) for slide, path in cohort.sources.items()}
    return replace(cohort, sources=bags)


def run_in(folder, cohort_folder, *, stored=False, **changes):
    """A run on bags in memory, which are read once for all tests, or on those on disk."""
    config = settings(**changes)
    return TrainingRun(folder, cohort_in(cohort_folder, config, stored=stored), config)


def module_of(cohort_folder, loss, network=None, *, stored=False, **fitting):
    cohort = cohort_in(cohort_folder, settings(), stored=stored)
    bags = CohortBags(cohort.sources, show_progress=False)
    patients = patients_of(cohort.table, cohort.table.patients.index)
    bins = quantile_bins(*times_and_events(patients), 3, "months")
    network = network or build_network("mean-pool", encoder_width=6, embed_dim=8, num_bins=3)
    recipe = Recipe(loss=loss, **fitting)
    return SurvivalTraining(network, bags, patients, patients, bins, recipe, 0), patients, bags


def first_tokens(tokens, kept):
    """The first tokens of each scale, of which `kept` tells how many of a number."""
    for scale, count in zip(SCALES, tokens.counts(), strict=True):
        tokens = tokens.keep(scale, torch.arange(kept(count)))
    return tokens


class TestProtocols:
    @pytest.mark.slow
    def test_nested_run_gives_models_figures_and_an_ensemble(self, tmp_path, cohort_folder):
        run = run_in(
            tmp_path / "run",
            cohort_folder,
            stored=True,
            models=["mean-pool", "clinical"],
            columns={"covariates": ["fine_burden"]},
        )
        evaluations = run.train()
        assert list(evaluations) == ["mean-pool", "clinical"]
        # Every patient is tested once, by a model that has not seen him.
        predictions = read_predictions(tmp_path / "run" / "mean-pool")
        tested = [patient for fold in predictions for patient in fold.patients]
        assert sorted(tested) == sorted(run.plan.cohort.table.patients.index)
        splits = pd.read_csv(tmp_path / "run" / "splits.csv")
        assert not splits.duplicated(["fold", "patient"]).any()
        # The planted covariate is the best model there is.
        assert evaluations["clinical"].pooled.harrell_c.value > 0.7
        models = pd.read_csv(tmp_path / "run" / "models.csv")
        assert list(models.model) == ["mean-pool", "clinical"]
        pair = models.iloc[1]
        assert pair["difference_low"] <= pair["mean-pool_minus_this"] <= pair["difference_high"]
        for name in ("kaplan_meier", "roc_over_time", "calibration", "learning_curves"):
            assert (tmp_path / "run" / "mean-pool" / f"{name}.png").stat().st_size > 10_000
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert record["config"]["network"]["embed_dim"] == 8
        assert record["recipes"]["mean-pool"]["weight_decay"] == 0.01  # resolved, not given
        assert len(record["table"]["sha256"]) == 64
        assert record["versions"]["torch"]

    @pytest.mark.slow
    def test_a_fold_says_the_same_through_its_bundle(self, tmp_path, cohort_folder):
        run = run_in(tmp_path / "run", cohort_folder, stored=True, fitting={"loss": "cox"})
        run.train()
        fold = read_predictions(tmp_path / "run" / "mean-pool")[1]
        bundle = load_bundle(tmp_path / "run" / "mean-pool" / "fold-1" / "bundle")
        slides = run.plan.cohort.table.slides
        own = slides.slide[slides.patient == fold.patients[0]]
        hazards = [
            predict_bag(FeatureBag.load(run.plan.cohort.sources[slide]), bundle).hazards
            for slide in own
        ]
        assert len(hazards) == 2
        expected = survival_curve(np.mean(hazards, axis=0))
        assert fold.survival[0] == pytest.approx(expected, abs=1e-6)
        reference = bundle.config.risk_reference
        assert fold.high[0] == (fold.risks[0] > reference.cutoff)
        assert fold.bins == bundle.config.time_bins

    @pytest.mark.slow
    def test_the_ensemble_averages_curves_at_common_edges(self, tmp_path, cohort_folder):
        run = run_in(tmp_path / "run", cohort_folder, stored=True)
        run.train()
        ensemble = load_bundle(run.plan.ensemble("mean-pool"))
        folds = [load_bundle(tmp_path / f"run/mean-pool/fold-{k}/bundle") for k in range(3)]
        bag = FeatureBag.load(next(iter(run.plan.cohort.sources.values())))
        edges = ensemble.config.time_bins.edges
        curves = [
            np.interp(
                edges[1:],
                fold.config.time_bins.edges,
                np.concatenate([[1.0], predict_bag(bag, fold).survival]),
            )
            for fold in folds
        ]
        assert predict_bag(bag, ensemble).survival == pytest.approx(
            np.mean(curves, axis=0), abs=1e-5
        )
        tokens = [torch.from_numpy(bag.scales[s].features).float()[None] for s in bag.scales]
        with torch.inference_mode():
            members = ensemble.network(*tokens).member_risk[0].numpy()
        assert members == pytest.approx([-curve.sum() for curve in curves], abs=1e-5)

    @pytest.mark.slow
    def test_official_protocol_calls_itself_optimistic(self, tmp_path, cohort_folder):
        patients = pd.read_csv(cohort_folder / "cohort.csv").patient.unique()
        splits = tmp_path / "splits"
        splits.mkdir()
        for number in range(2):
            val = list(patients[number::2])
            train = [patient for patient in patients if patient not in set(val)]
            pd.DataFrame(
                {"train": pd.Series(train), "val": pd.Series([*val[:-1], "NOBODY"])}
            ).to_csv(splits / f"splits_{number}.csv")
        run = run_in(
            tmp_path / "run",
            cohort_folder,
            protocol={"protocol": "official", "splits": str(splits)},
        )
        assert any("1 ids are not in the table" in line for line in run.plan.messages)
        evaluation = run.train()["mean-pool"]
        assert evaluation.optimistic
        assert any("ptimistic" in note for note in evaluation.notes)

    def test_holdout_is_one_fold_without_an_ensemble(self, tmp_path, cohort_folder):
        run = run_in(tmp_path / "run", cohort_folder, protocol={"protocol": "holdout"})
        evaluation = run.train()["mean-pool"]
        assert evaluation.pooled.patients == 12
        assert not run.plan.ensemble("mean-pool").exists()


class TestResume:
    @pytest.mark.slow
    def test_finished_folds_are_kept_and_models_may_be_added(self, tmp_path, cohort_folder):
        run_in(tmp_path, cohort_folder).train()
        bundle = tmp_path / "mean-pool" / "fold-0" / "bundle" / "model.safetensors"
        before = bundle.stat().st_mtime_ns
        run_in(tmp_path, cohort_folder, models=["mean-pool", "abmil-20x"]).train()
        assert bundle.stat().st_mtime_ns == before
        assert list(pd.read_csv(tmp_path / "models.csv").model) == ["mean-pool", "abmil-20x"]

    def test_a_run_killed_at_its_beginning_begins_again(self, tmp_path, cohort_folder):
        (tmp_path / ".run.json.0a1b2c3d.part").write_text("{")
        folds = run_in(tmp_path, cohort_folder).plan.folds
        (tmp_path / "splits.csv").unlink()  # which is written after run.json
        run_in(tmp_path, cohort_folder)
        assert tuple(read_folds(tmp_path / "splits.csv")) == folds

    @pytest.mark.slow
    def test_what_a_kill_left_is_finished_or_removed(self, tmp_path, cohort_folder):
        run_in(tmp_path, cohort_folder).train()
        whole = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
        model = tmp_path / "mean-pool"
        weights = (model / "ensemble" / "model.safetensors").read_bytes()
        for name in ("config.json", "model.safetensors"):
            (model / "ensemble" / name).unlink()
        (model / "fold-0" / "last.ckpt").touch()
        (model / "fold-1" / "bundle" / ".config.json.0a1b2c3d.part").touch()
        (model / ".report-0a1b2c3d").mkdir()
        (tmp_path / ".models.csv.0a1b2c3d.part").touch()
        run_in(tmp_path, cohort_folder).train()
        assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == whole
        assert (model / "ensemble" / "model.safetensors").read_bytes() == weights

    def test_another_run_in_the_folder_is_refused(self, tmp_path, cohort_folder):
        run_in(tmp_path / "run", cohort_folder)
        with pytest.raises(TiacfError, match=r"another fitting.learning_rate and seed"):
            run_in(tmp_path / "run", cohort_folder, seed=3, fitting={"learning_rate": 0.1})
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "notes.txt").touch()
        with pytest.raises(TiacfError, match="is not empty and holds no training run"):
            run_in(tmp_path / "full", cohort_folder)

    @pytest.mark.slow
    def test_figures_that_were_damaged_are_made_again(self, tmp_path, cohort_folder):
        """Those of the second model are looked at when the first has been judged."""
        models = ["mean-pool", "clinical"]
        changes = {"models": models, "columns": {"covariates": ["fine_burden"]}}
        run_in(tmp_path, cohort_folder, **changes).train()
        whole = (tmp_path / "models.csv").read_bytes()
        for name in (TABLE, DIGESTS, EVALUATION):
            (tmp_path / "clinical" / name).unlink()
            run_in(tmp_path, cohort_folder, **changes).train()
            assert (tmp_path / "models.csv").read_bytes() == whole

    def test_a_fold_that_is_lost_late_is_no_fault_of_the_options(self, tmp_path, cohort_folder):
        run = run_in(tmp_path, cohort_folder)
        run.fit("mean-pool")
        place = tmp_path / "mean-pool" / "fold-1"
        (place / TABLE).unlink()
        with pytest.raises(TiacfError, match=f"remove {place} to have") as error:
            run.judge("mean-pool")
        assert not isinstance(error.value, UsageError)

    @pytest.mark.slow
    def test_same_seed_same_result_other_seed_another(self, tmp_path, cohort_folder):
        risks = []
        for number, seed in enumerate((1, 1, 2)):
            run_in(
                tmp_path / str(number), cohort_folder, seed=seed, protocol={"protocol": "holdout"}
            ).train()
            fold = read_predictions(tmp_path / str(number) / "mean-pool")[0]
            risks.append(dict(zip(fold.patients, fold.risks, strict=True)))
        assert risks[0] == risks[1] != risks[2]


HOLD = """
import sys, time
from pathlib import Path
from tiacrossfusion.training.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("here", flush=True)
    time.sleep(600)
"""


class TestTwoRunsInOneFolder:
    @pytest.mark.process
    def test_the_second_is_refused_until_the_first_is_dead(self, tmp_path, cohort_folder):
        run = run_in(tmp_path, cohort_folder, protocol={"protocol": "holdout"})
        other = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert other.stdout.readline() == "here\n"
            (tmp_path / "mean-pool").mkdir()
            part = tmp_path / "mean-pool" / ".a.part"  # which the other is writing
            part.touch()
            held = sorted(tmp_path.rglob("*"))
            who = rf"process {other.pid} on {re.escape(socket.gethostname())}"
            with pytest.raises(TiacfError, match=rf"another training run \({who}\) .* wait"):
                run.train()
            assert sorted(tmp_path.rglob("*")) == held
        finally:
            other.kill()
            other.communicate()
        assert (tmp_path / LOCK).exists()
        run.train()
        assert (tmp_path / "models.csv").exists()
        assert not part.exists()
        assert not (tmp_path / LOCK).exists()

    def test_a_run_that_fails_leaves_no_lock(self, tmp_path, cohort_folder, monkeypatch):
        run = run_in(tmp_path, cohort_folder)
        monkeypatch.setattr(run, "fit", lambda model: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.train()
        assert not (tmp_path / LOCK).exists()

    def test_a_folder_that_another_run_has_taken_meanwhile(self, tmp_path, cohort_folder):
        run = run_in(tmp_path / "run", cohort_folder)
        shutil.rmtree(tmp_path / "run")
        run_in(tmp_path / "run", cohort_folder, seed=3)
        with pytest.raises(TiacfError, match="another seed"):
            run.train()

    def test_one_process_of_a_run_on_several_devices_locks(self, tmp_path, cohort_folder):
        run = run_in(tmp_path, cohort_folder)
        run.leader = False
        with alone_in(tmp_path):  # the leader
            run.fit = lambda model: None
            assert run.train() == {}

    @pytest.mark.process
    @pytest.mark.parametrize("alive", [True, False])
    def test_without_locks_the_name_in_the_file_decides(self, tmp_path, monkeypatch, alive):
        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", no_locks)
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        number = os.getppid() if alive else ended.pid
        (tmp_path / LOCK).write_text(f"{socket.gethostname()}-{number}")
        if alive:
            with pytest.raises(TiacfError, match=f"process {number} on"), alone_in(tmp_path):
                pass
        else:
            with alone_in(tmp_path):
                assert (tmp_path / LOCK).read_text() == process_here()
        assert (tmp_path / LOCK).exists() == alive

    def test_a_lock_that_is_removed_while_it_is_taken_is_made_again(self, tmp_path, monkeypatch):
        take, locked = lock._lock, []

        def late(file, folder):
            take(file, folder)
            locked.append(file)
            if len(locked) == 1:
                (tmp_path / LOCK).unlink()

        monkeypatch.setattr(lock, "_lock", late)
        with alone_in(tmp_path):
            assert (tmp_path / LOCK).read_text() == process_here()
        assert len(locked) == 2

    def test_a_link_in_its_place_is_not_followed(self, tmp_path):
        (tmp_path / "mine.txt").write_text("keep")
        (tmp_path / LOCK).symlink_to(tmp_path / "mine.txt")
        with pytest.raises(TiacfError, match="cannot be written"), alone_in(tmp_path):
            pass
        assert (tmp_path / "mine.txt").read_text() == "keep"


class TestGradients:
    @pytest.mark.parametrize("loss", ["nll", "cross-entropy"])
    def test_a_step_is_the_gradient_of_the_mean_over_patients(self, cohort_folder, loss):
        module, patients, bags = module_of(cohort_folder, loss, alpha=0.3)
        self.check(module, patients[:5], bags)

    def test_slides_of_different_sizes_give_the_same_gradient_as_one_graph(self, cohort_folder):
        for loss in ("nll", "cox"):
            bins = 1 if loss == "cox" else 3
            network = build_network("mean-pool", encoder_width=6, embed_dim=8, num_bins=bins)
            if loss == "cox":
                network = TrainedNetwork(network, num_bins=3)
            module, patients, bags = module_of(cohort_folder, loss, network)
            for number, slide in enumerate(patients[0].slides + patients[2].slides):
                bags._memory[slide] = first_tokens(
                    bags._memory[slide], lambda count, less=number: count - less
                )
            self.check(module, patients[:5], bags)

    @staticmethod
    def check(module, patients, bags):
        """Compare with one graph over all slides; dropout is drawn from the same numbers."""
        module.network.eval()
        module._trainer = _FloatTrainer()
        for unit in module._units(patients):
            slides = [slide for patient in unit for slide in patient.slides]
            (loaded,) = bags.read([slides])
            module._backward(unit, loaded, weight=len(unit) / len(patients))
        found = [weight.grad.clone() for weight in module.network.parameters()]
        module.network.zero_grad()
        rows = []
        for patient in patients:
            (loaded,) = bags.read([patient.slides])
            each = torch.cat([module._outputs(tokens) for tokens in loaded])
            rows.append(module._average(each, [patient]))
        module._loss(torch.cat(rows), patients).backward()
        for gradient, weight in zip(found, module.network.parameters(), strict=True):
            assert gradient.numpy() == pytest.approx(weight.grad.numpy(), abs=1e-6)

    def test_dropout_is_the_same_in_both_passes_of_a_slide(self, cohort_folder):
        """The second pass of a slide repeats the first: else its gradient would be of another loss."""
        network = build_network("mean-pool", encoder_width=6, embed_dim=8, num_bins=1, dropout=0.5)
        network = TrainedNetwork(network, num_bins=3)
        module, patients, bags = module_of(cohort_folder, "cox", network)
        slide = patients[1].slides[0]
        bags._memory[slide] = first_tokens(bags._memory[slide], lambda count: min(count, 3))
        module.network.train()
        module._trainer = _FloatTrainer()
        seen = []
        original = module._outputs
        module._outputs = lambda *given: seen.append(original(*given)) or seen[-1]
        (loaded,) = bags.read([[slide for patient in patients[:4] for slide in patient.slides]])
        module._backward(patients[:4], loaded, weight=1.0)
        half = len(seen) // 2
        for first, second in zip(seen[:half], seen[half:], strict=True):
            assert torch.equal(first, second)


class _FloatTrainer:
    """What a module asks of its trainer outside a fit."""

    class precision_plugin:  # noqa: N801 - the trainer's name for it
        @staticmethod
        def forward_context():
            import contextlib

            return contextlib.nullcontext()


class TestBags:
    @pytest.mark.slow
    def test_moments_are_those_of_the_tokens(self, cohort_folder):
        _, patients, bags = module_of(cohort_folder, "nll", stored=True)
        slides = [slide for patient in patients[:7] for slide in patient.slides]
        mean, sd = bags.moments(slides)
        stores = [FeatureBag.load(cohort_folder / "bags" / f"{slide}.zarr") for slide in slides]
        for k, scale in enumerate(("5x", "10x", "20x")):
            tokens = np.concatenate([bag.scales[scale].features for bag in stores]).astype(float)
            assert mean[k].numpy() == pytest.approx(tokens.mean(axis=0), abs=1e-5)
            assert sd[k].numpy() == pytest.approx(tokens.std(axis=0), abs=1e-5)

    def test_bags_of_different_encoders_are_refused(self, cohort_folder):
        stores = sorted((cohort_folder / "bags").glob("*.zarr"))[:2]
        one, two = (FeatureBag.load(store) for store in stores)
        other = two.provenance.encoder.model_copy(update={"name": "another"})
        two = FeatureBag(two.scales, two.provenance.model_copy(update={"encoder": other}))
        with pytest.raises(TiacfError, match=r"bag of b, .*encoder name = another"):
            CohortBags({"a": one, "b": two}, show_progress=False)


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("fitting: {learning_rat: 1}", r"fitting.learning_rat: unknown setting"),
            ("fitting: {loss: mse}", r"fitting.loss"),
            ("network: {dropout: 1.5}", r"network.dropout"),
            ("models: [crosfusion]", r'did you mean "crossfusion"'),
            ("models: [abmil, abmil]", r"named twice"),
            ("- 1", r"holds no settings by name"),
            ("a: [", r"not valid YAML"),
        ],
    )
    def test_a_bad_file_is_one_line(self, tmp_path, text, line):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        with pytest.raises(TiacfError, match=line) as error:
            make_config({"time_unit": "months"} | read_settings(path), str(path))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"models": ["clinical"]}, "needs covariates; name columns with --covariates"),
            ({"protocol": {"protocol": "official"}}, "give their folder with --splits"),
            ({"protocol": {"folds": 50}}, "folds cannot be used"),
            ({"network": {"num_bins": 40}}, "folds cannot be used"),
        ],
    )
    def test_what_cannot_be_trained_is_told_before_training(
        self, tmp_path, cohort_folder, changes, line
    ):
        with pytest.raises(TiacfError, match=line):
            run_in(tmp_path / "run", cohort_folder, **changes)
        assert not (tmp_path / "run").exists()

    def test_a_loss_that_is_not_finite_ends_the_run(self, tmp_path, cohort_folder):
        with pytest.raises(TiacfError, match="take a smaller --learning-rate"):
            run_in(
                tmp_path / "run", cohort_folder, fitting={"learning_rate": 10, "weight_decay": 100}
            ).train()


@pytest.mark.parametrize("model", NETWORKS.names())
@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_every_network_trains(tmp_path, cohort_folder, model, loss):
    if loss == "nll" and model in COXNETS:
        with pytest.raises(UsageError, match="is Cox regression; leave out --loss"):
            run_in(tmp_path, cohort_folder, models=[model], fitting={"loss": loss})
        return
    run = run_in(
        tmp_path,
        cohort_folder,
        models=[model],
        fitting={"loss": loss, "epochs": 1},
        protocol={"protocol": "holdout"},
    )
    evaluation = run.train()[model]
    assert 0 <= evaluation.pooled.harrell_c.value <= 1


@pytest.mark.slow
@pytest.mark.process
def test_two_devices_see_all_patients_and_agree(tmp_path, cohort_folder):
    """DDP on two CPU processes through Lightning's own strategy."""
    arguments = [
        *("train", "--bags", str(cohort_folder / "bags"), "--table"),
        *(str(cohort_folder / "cohort.csv"), "--time-unit", "months", "--model", "mean-pool"),
        *("--protocol", "holdout", "--epochs", "2", "--embed-dim", "8", "--num-bins", "3"),
        *("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp"),
        *("--output-path", str(tmp_path / "run")),
    ]
    program = tmp_path / "program.py"
    program.write_text("import sys\nfrom tiacrossfusion.cli import main\nmain(sys.argv[1:])\n")
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Figures of all models") == 1
    assert len(read_predictions(tmp_path / "run" / "mean-pool")[0].patients) == 12
