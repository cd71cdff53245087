"""Slide and clinical record in one model: training without leaks, prediction with gaps, attribution."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import assert_failed, assert_usage, tiacf

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cohorts.patients import read_patients
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.evaluation.api import Clinic, evaluate_external
from tiacrossfusion.evaluation.prediction_files import read_predictions
from tiacrossfusion.explain.attribution import attribute
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.models.pretrained import load_pretrained
from tiacrossfusion.networks.fused import FusedNetwork
from tiacrossfusion.networks.masked_completion import MaskedCompletion
from tiacrossfusion.networks.record_head import NONE, PARTIAL, WHOLE, RecordHead
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.simulation.record import VARIABLES, RecordOptions
from tiacrossfusion.survival.fusion import Completion, fit_head, masked_copies
from tiacrossfusion.survival.record import Record, RecordTerms
from tiacrossfusion.survival.time_bins import quantile_bins
from tiacrossfusion.training.api import train
from tiacrossfusion.training.config import make_config
from tiacrossfusion.training.fusion import set_head
from tiacrossfusion.training.masking import train_completion
from tiacrossfusion.training.plan import read_cohort
from tiacrossfusion.training.run import TrainingRun

CONFIG = {
    "time_unit": "months",
    "models": ["mean-pool", "joint-fusion"],
    "columns": {"covariates": list(VARIABLES), "units": {"age": "years"}},
    "network": {"embed_dim": 8, "num_bins": 3},
    "fitting": {"epochs": 2, "warm_up": 1, "patients_per_step": 16},
    "protocol": {"folds": 2},
}
SCORES = "mean-pool/fold-0/inner_scores.csv"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """80 patients with a record, bags of 4 / 16 / 64 tokens."""
    folder = tmp_path_factory.mktemp("cohort")
    simulate_bags(
        folder, 80, 1, scenario="fine", strength=1.0, censored_share=0.2, encoder_width=6, side=2,
        record=RecordOptions(missing=0.1),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    lines = []
    place = tmp_path_factory.mktemp("run") / "trained"
    found = train(cohort / "cohort.csv", cohort / "bags", place, config=CONFIG, say=lines.append)
    return found, place, lines


@pytest.fixture(scope="module")
def bundle(trained):
    return load_bundle(trained[0].bundles["joint-fusion"])


@pytest.fixture(scope="module")
def bag(cohort):
    return FeatureBag.load(cohort / "bags" / "SIM-0003.zarr")


@pytest.fixture(scope="module")
def row(cohort):
    table = pd.read_csv(cohort / "cohort.csv").set_index("slide")
    return table.loc["SIM-0003", list(VARIABLES)].to_dict()


def test_all_models_are_trained_and_say_what_they_cost(trained):
    found, place, lines = trained
    assert list(found.evaluations) == ["mean-pool", "joint-fusion", "clinical"]
    assert found.evaluations["joint-fusion"].pooled.harrell_c.value > 0.6
    said = "\n".join(lines)
    assert "joint-fusion: each fold trains mean-pool on 5 parts" in said
    assert "log hazard ratio of the slide score" in said
    page = (place / "joint-fusion" / "report.html").read_text(encoding="utf-8")
    assert 'alt="partial dependence"' in page
    assert (place / "clinical" / "partial_dependence.png").is_file()
    scores = pd.read_csv(place / SCORES)
    assert sorted(scores["part"].unique()) == [0, 1, 2, 3, 4]
    assert scores["patient"].is_unique
    folds = read_predictions(place / "joint-fusion")
    assert not set(scores["patient"]) & set(folds[0].patients)
    assert (
        len(folds[0].training_times) == 40
    )  # it learns from those who stop the slide's network, too


def test_follow_up_of_test_patients_changes_neither_scores_nor_predictions(
    cohort, trained, tmp_path
):
    """Times keep their order, on which the division into folds depends."""
    _, place, _ = trained
    test = read_predictions(place / "joint-fusion")[0].patients
    table = pd.read_csv(cohort / "cohort.csv")
    table.loc[table["patient"].isin(test), "time"] *= 1 + 1e-9
    table.to_csv(tmp_path / "moved.csv", index=False)
    train(tmp_path / "moved.csv", cohort / "bags", tmp_path / "run", config=CONFIG)
    assert (tmp_path / "run" / SCORES).read_text() == (place / SCORES).read_text()
    one, two = (read_predictions(p / "joint-fusion")[0] for p in (place, tmp_path / "run"))
    np.testing.assert_array_equal(one.risks, two.risks)


def test_scores_are_kept_and_a_killed_run_goes_on(cohort, trained, tmp_path):
    def stop(line: str) -> None:
        if "part 3 of 5" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cohort / "cohort.csv", cohort / "bags", tmp_path / "run", config=CONFIG, say=stop)
    assert pd.read_csv(tmp_path / "run" / SCORES)["part"].max() == 1
    train(cohort / "cohort.csv", cohort / "bags", tmp_path / "run", config=CONFIG)
    assert (tmp_path / "run" / SCORES).read_text() == (trained[1] / SCORES).read_text()
    one, two = (read_predictions(p / "joint-fusion")[0] for p in (trained[1], tmp_path / "run"))
    np.testing.assert_allclose(one.risks, two.risks, atol=1e-6)


def test_the_bundle_knows_its_record(bundle):
    record = bundle.config.architecture.record
    assert record.names == VARIABLES
    age = record.variables[0]
    assert (age.unit, age.kind) == ("years", "number")
    assert 0 < age.missing < 0.3
    assert age.low < age.high


def test_prediction_without_a_record_is_that_of_the_slide_alone(bundle, bag, row):
    nothing = bundle.covariates_of({})
    assert np.isnan(nothing).all()
    alone, empty = predict_bag(bag, bundle), predict_bag(bag, bundle, nothing)
    np.testing.assert_allclose(alone.hazards, empty.hazards)
    assert alone.record.used == ()
    whole = predict_bag(bag, bundle, bundle.covariates_of(row))
    assert whole.record.risk_without == pytest.approx(alone.risk, abs=1e-6)
    assert set(whole.record.used) | set(whole.record.missing) == set(VARIABLES)
    assert whole.risk != pytest.approx(alone.risk, abs=1e-3)


def test_attributions_of_scales_and_variables_add_up(bundle, bag, row):
    codes = bundle.covariates_of(row)
    found = attribute(bag, bundle, codes)
    total = sum(found.scale_contribution.values()) + found.record_contribution
    assert total == pytest.approx(found.risk - found.baseline_risk, abs=1e-5)
    assert sum(found.variables.values()) == pytest.approx(found.record_contribution, abs=1e-5)
    assert set(found.variables) == set(VARIABLES)
    assert found.risk == pytest.approx(predict_bag(bag, bundle, codes).risk, abs=1e-5)
    assert attribute(bag, bundle).record_contribution is None


def test_a_variable_that_the_head_does_not_use_has_no_contribution(bundle, bag, row):
    network = bundle.network.members[0]
    assert isinstance(network, FusedNetwork)
    own = replace(bundle, network=copy.deepcopy(bundle.network))
    rows = torch.as_tensor(network.record.places()[0] == 1)
    for member in own.network.members:
        member.head.w[rows] = 0
        member.head.w_q[rows] = 0
    found = attribute(bag, own, own.covariates_of(row))
    assert found.variables[VARIABLES[1]] == pytest.approx(0, abs=1e-9)
    assert found.variables[VARIABLES[0]] != 0


def planted(count: int = 600, product: float = 0.0, seed: int = 0):
    random = np.random.default_rng(seed)
    score, a, b = random.normal(size=(3, count))
    b = 0.8 * a + 0.6 * b
    eta = 0.7 * score + 0.5 * a + 0.5 * b + product * score * (a + b) / 2
    times = random.exponential(20 * np.exp(-eta))
    frame = pd.DataFrame({"a": a, "b": b})
    record = Record.of(frame)
    codes = record.codes(frame)[0]
    events = np.ones(count, int)
    return record, codes, score, times, events, quantile_bins(times, events, 4, "months")


def test_the_product_enters_where_it_is_and_only_there():
    for product, there in ((0.0, False), (0.8, True)):
        head = fit_head(*planted(product=product), product=True, seed=0)
        assert (abs(head.beta) > 0.2) == there
        assert head.alpha == pytest.approx(0.7, abs=0.15)
    assert fit_head(*planted(product=0.8), product=False, seed=0).beta == 0


def test_terms_in_torch_are_those_in_numpy(cohort):
    table = pd.read_csv(cohort / "cohort.csv")
    record = Record.of(table[list(VARIABLES)])
    codes, _ = record.codes(table)
    terms = RecordTerms.fit(record, codes)
    head = RecordHead(record, 3, "linear")
    head.centre.copy_(torch.from_numpy(terms.centre))
    head.scale.copy_(torch.from_numpy(terms.scale))
    np.testing.assert_allclose(
        head.terms(torch.from_numpy(codes).float()), terms.encode(codes), atol=1e-5
    )


def test_gaps_are_completed_by_what_goes_with_them():
    record, codes, score, times, events, bins = planted(2000)
    terms = RecordTerms.fit(record, codes)
    place, kind, _ = record.places()
    z = terms.encode(codes)
    completion = Completion.fit(z, np.isnan(codes)[:, place], kind, score)
    half = codes.copy()
    half[:, 1] = np.nan
    made = completion.complete(terms.encode(half), np.isnan(half)[:, place], kind, score)
    b = int(np.flatnonzero(place == 1)[0])
    assert np.corrcoef(made[:, b], z[:, b])[0, 1] == pytest.approx(0.8, abs=0.03)
    head = fit_head(record, codes, score, times, events, bins, product=False, seed=0)
    own = fit_head(
        record, half[:, :1].repeat(2, axis=1), score, times, events, bins, product=False, seed=0
    )
    rebuilt = head.log_hazard(made, score)
    direct = own.log_hazard(own.terms.encode(half[:, :1].repeat(2, axis=1)), score)
    assert np.corrcoef(rebuilt, direct)[0, 1] > 0.99


def test_masked_copies_keep_what_was_missing_and_no_empty_record():
    codes = np.random.default_rng(0).normal(size=(50, 5))
    codes[:10, 0] = np.nan
    copies, owners = masked_copies(codes, 0)
    assert np.isnan(copies[np.isin(owners, range(10)), 0]).all()
    assert np.isfinite(copies).any(axis=1).all()
    kept = np.isfinite(copies)
    np.testing.assert_array_equal(copies[kept], codes[owners][kept])


def test_states_follow_the_gaps(bundle):
    network = bundle.network.members[0]
    codes = torch.zeros(len(VARIABLES))
    assert network.state(codes) == WHOLE
    codes[: int(network.gaps) + 1] = torch.nan
    assert network.state(codes) == PARTIAL
    assert network.state(torch.full_like(codes, torch.nan)) == NONE


@pytest.mark.slow
@pytest.mark.parametrize("model", ["late-fusion", "joint-network", "joint-transformer"])
def test_the_other_models_train_and_load(cohort, trained, tmp_path, bag, row, model):
    config = CONFIG | {"models": [model], "fusion": {"slide_model": "mean-pool"}}
    found = train(cohort / "cohort.csv", cohort / "bags", tmp_path / "run", config=config)
    assert list(found.evaluations) == ["mean-pool", model, "clinical"]
    assert found.evaluations[model].pooled.harrell_c.value > 0.55
    loaded = load_bundle(found.bundles[model])
    made = predict_bag(bag, loaded, loaded.covariates_of(row))
    assert np.isfinite(made.risk)
    partial = predict_bag(bag, loaded, loaded.covariates_of({"age": 70.0}))
    assert partial.record.used == ("age",)
    assert (np.diff(partial.survival) <= 0).all()


def test_prediction_from_a_table_and_from_python(cohort, trained, tmp_path):
    table = pd.read_csv(cohort / "cohort.csv").head(4)
    table.loc[0, "age"] = 25_000  # in days
    table.loc[1, "stage"] = "5"
    table = table.drop(columns=["nodes", "time", "event"])
    table.to_csv(tmp_path / "records.csv", index=False)
    bundle, out = trained[0].bundles["joint-fusion"], tmp_path / "out"
    done = tiacf(
        "predict", "--bags", cohort / "bags", "--model", bundle, "--patients", tmp_path / "records.csv",
        "--output-path", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = pd.read_csv(out / "predictions.csv", index_col="slide")
    assert "check the unit" in rows.loc["SIM-0001", "message"]
    assert "unknown levels taken as missing" in rows.loc["SIM-0002", "message"]
    assert "no column nodes" in rows.loc["SIM-0003", "message"]
    assert "nodes" in rows.loc["SIM-0003", "record_missing"]
    assert "predict" in rows.loc["SIM-0009", "message"]  # of the slide alone
    assert rows.loc["SIM-0009", "risk"] == pytest.approx(
        rows.loc["SIM-0009", "risk_without_record"], abs=1e-6
    )
    of_variables = rows.filter(like="contribution_of_").loc["SIM-0003"].sum()
    assert of_variables == pytest.approx(rows.loc["SIM-0003", "contribution_record"], abs=1e-6)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "and the clinical record with its variables" in page
    patients = pd.read_csv(out / "patients.csv")
    assert len(patients) == 4
    assert patients["risk_without_record"].notna().all()

    from tiacrossfusion import SurvivalPredictor

    predictor = SurvivalPredictor(model=str(bundle))
    predictor.run(bags=cohort / "bags", patients=table)
    risks = [patient.prediction.risk for patient in predictor.patients]
    np.testing.assert_allclose(risks, patients["risk"], rtol=1e-6)


def test_two_records_of_a_patient_are_refused(tmp_path, bundle):
    table = pd.DataFrame({"slide": ["a", "b"], "patient": ["P", "P"], "age": [60, 61]})
    with pytest.raises(TiacfError, match="patient P has two records, which differ in age"):
        read_patients(table).records(bundle.config.architecture.record)


def test_wrong_asks_are_refused_in_one_line(cohort, tmp_path):
    common = ["--table", cohort / "cohort.csv", "--bags", cohort / "bags", "--time-unit", "months"]
    common += ["--output-path", tmp_path / "out", "--model", "joint-fusion"]
    assert_usage(tiacf("train", *common), "joint-fusion needs a clinical record")
    with_age = [*common, "--covariates", "age"]
    assert_usage(tiacf("train", *with_age, "--slide-model", "resnet"), "unknown network")
    table = pd.read_csv(cohort / "cohort.csv")
    table["follow_up"] = table["time"] * 30.4
    table.to_csv(tmp_path / "t.csv", index=False)
    common[1] = tmp_path / "t.csv"
    assert_failed(tiacf("train", *common, "--covariates", "age,follow_up"), "it tells the outcome")
    assert not (tmp_path / "out").exists()


def test_cut_weights_are_refused(trained, tmp_path, bundle):
    config = bundle.config.architecture
    with pytest.raises(ValueError, match="lacks a record"):
        type(config).model_validate(config.model_dump() | {"record": None})
    with pytest.raises(ValueError, match="takes no record"):
        type(config).model_validate(
            config.slide.model_dump() | {"record": config.record.model_dump()}
        )


def test_setting_a_head_reproduces_its_log_hazards():
    record, codes, score, times, events, bins = planted()
    fitted = fit_head(record, codes, score, times, events, bins, product=True, seed=0)
    head = RecordHead(record, bins.num_bins, "linear")
    set_head(head, replace(fitted, beta=0.3))
    z, given = head.terms(torch.from_numpy(codes).float()), torch.from_numpy(score).float()
    expected = replace(fitted, beta=0.3).log_hazard(fitted.terms.encode(codes), score)
    np.testing.assert_allclose(head(z, given), expected, atol=1e-5)


def test_pretraining_finds_what_is_shared_and_says_where_nothing_is(tmp_path):
    covariates = ",".join(VARIABLES)
    for name, correlation in (("shared", 0.9), ("apart", 0.0)):
        simulate_bags(
            tmp_path / name, 150, 2, scenario="fine", strength=1.0, encoder_width=6, side=2, auc=0.99,
            record=RecordOptions(correlation=correlation),
        )  # fmt: skip
        table = pd.read_csv(tmp_path / name / "cohort.csv").drop(columns=["time", "event"])
        table.to_csv(tmp_path / name / "records.csv", index=False)
        done = tiacf(
            "pretrain", "--bags", tmp_path / name / "bags", "--table", tmp_path / name / "records.csv",
            "--covariates", covariates, "--output-path", tmp_path / name / "pretrained",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert ("nothing to learn across" in done.output) == (correlation == 0)
    variables = pd.read_csv(tmp_path / "shared" / "pretrained" / "variables.csv")
    assert list(variables["variable"]) == list(VARIABLES)
    made = load_pretrained(tmp_path / "shared" / "pretrained")
    table = pd.read_csv(tmp_path / "shared" / "cohort.csv").set_index("slide")
    summary = []
    for slide in table.index:
        bag = FeatureBag.load(tmp_path / "shared" / "bags" / f"{slide}.zarr")
        summary.append(
            sum(
                float(
                    made.weights[f"of_scale.{s}.direction"]
                    @ bag.scales[s].features.astype(float).mean(axis=0)
                )
                for s in made.description.part.scales
            )
        )
    assert abs(np.corrcoef(summary, table["g_slide"])[0, 1]) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("way", [["closed"], ["neural"], ["neural", "--own-side"]])
def test_a_model_begins_with_what_was_pretrained(cohort, tmp_path, way):
    covariates = ",".join(VARIABLES)
    done = tiacf(
        "pretrain", "--bags", cohort / "bags", "--table", cohort / "cohort.csv", "--covariates", covariates,
        "--output-path", tmp_path / "pre", "--way", *way,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert ("masked learning: loss" in done.output) == (way[0] == "neural")
    config = CONFIG | {
        "fusion": {"init": str(tmp_path / "pre")},
        "protocol": {"protocol": "holdout"},
    }
    found = train(cohort / "cohort.csv", cohort / "bags", tmp_path / "run", config=config)
    loaded = load_bundle(found.bundles["joint-fusion"])
    part = loaded.config.architecture.pretrained
    assert (part.scales, part.way, part.cross) == (("5x", "10x", "20x"), way[0], len(way) == 1)
    bag = FeatureBag.load(cohort / "bags" / "SIM-0003.zarr")
    row = pd.read_csv(cohort / "cohort.csv").set_index("slide").loc["SIM-0003"]
    codes = loaded.covariates_of(row[list(VARIABLES)].to_dict())
    adds = attribute(bag, loaded, codes)
    total = sum(adds.scale_contribution.values()) + adds.record_contribution
    assert total == pytest.approx(adds.risk - adds.baseline_risk, abs=1e-5)
    own = read_predictions(tmp_path / "run" / "joint-fusion")[0]
    name = own.patients[0]
    mine = (
        pd.read_csv(cohort / "cohort.csv").set_index("patient").loc[name, list(VARIABLES)].to_dict()
    )
    again = predict_bag(
        FeatureBag.load(cohort / "bags" / f"{name}.zarr"), loaded, loaded.covariates_of(mine)
    )
    assert again.risk == pytest.approx(own.risks[0], abs=1e-4)
    other = CONFIG | {"fusion": {"init": str(tmp_path / "pre")}, "columns": {"covariates": ["age"]}}
    with pytest.raises(UsageError, match="name the same columns"):
        train(cohort / "cohort.csv", cohort / "bags", tmp_path / "other", config=other)
    (tmp_path / "pre" / "pretrained.safetensors").write_bytes(b"x" * 64)
    with pytest.raises(TiacfError, match="run tiacf pretrain again"):
        load_pretrained(tmp_path / "pre")


def test_another_cohort_is_judged_with_its_records_and_says_what_is_missing(trained, tmp_path):
    simulate_bags(
        tmp_path / "other", 50, 9, scenario="fine", strength=1.0, encoder_width=6, side=2,
        record=RecordOptions(),
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "other" / "cohort.csv")
    bundle = trained[0].bundles["joint-fusion"]

    def judged(frame: pd.DataFrame) -> tuple[float, str]:
        frame.to_csv(tmp_path / "t.csv", index=False)
        found = evaluate_external(
            bundle, tmp_path / "other" / "bags", Clinic(tmp_path / "t.csv"), draws=100
        )
        return found.evaluation.pooled.harrell_c.value, " ".join(found.evaluation.notes)

    whole, said = judged(table)
    assert "100% of the values are there; 0 of 50 patients have none" in said
    none, said = judged(table.drop(columns=list(VARIABLES)))
    assert "50 of 50 patients have none" in said
    assert "the table has no column age" in said
    assert whole > none + 0.02


def test_masked_learning_rebuilds_a_record_from_the_slide():
    """A slide of one token that holds the record: it rebuilds what is masked, the own side cannot."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(300, 2))
    frame = pd.DataFrame(hidden, columns=["a", "b"])
    record = Record.of(frame)
    codes, _ = record.codes(frame)
    z = RecordTerms.fit(record, codes).encode(codes)
    tokens = torch.from_numpy(hidden @ random.normal(size=(2, 4))).float()[:, None]
    present, known = torch.ones(300, 1, dtype=torch.bool), np.ones((300, 2), bool)
    found = {}
    for cross in (True, False):
        torch.manual_seed(0)
        network = MaskedCompletion(record, ["20x"], 4, 1, cross=cross)
        losses = train_completion(network, z, known, tokens, present, seed=0)
        with torch.inference_mode():
            nothing = torch.zeros(300, 2, dtype=torch.bool)
            made = network.rebuilt_record(torch.zeros(300, 4), nothing, tokens, present).numpy()
        spread = made[:, 0].std()
        found[cross] = np.corrcoef(made[:, 0], z[:, 0])[0, 1] if spread > 1e-5 else 0.0
        assert losses[-1] < losses[0]
    assert found[True] > 0.8
    assert found[False] < 0.2


def test_patients_who_stop_and_judge_a_network_teach_the_record_nothing(cohort, trained, tmp_path):
    """In the authors' protocol the validation patients are the test patients."""
    config = make_config(CONFIG, "test")
    run = TrainingRun(
        tmp_path / "run", read_cohort(cohort / "cohort.csv", cohort / "bags", config), config
    )
    fold = run.plan.folds[0]
    run.plan = replace(run.plan, folds=(replace(fold, validation=fold.test),))
    run.fit("mean-pool")
    run.fit("joint-fusion")
    scores = pd.read_csv(tmp_path / "run" / SCORES)
    assert set(scores["patient"]) == set(fold.train)
    (made,) = read_predictions(tmp_path / "run" / "joint-fusion" / "fold-0")
    assert len(made.training_times) == len(fold.train)
