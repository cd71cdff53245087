"""Out-of-fold predictions: files, pooling, bootstrap, comparison and report."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index
from matplotlib.image import imread
from scipy.stats import chi2

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.prediction_files import read_predictions, write_predictions
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.evaluation.report import write_evaluation
from tiacrossfusion.evaluation.roc_figure import pooled_roc
from tiacrossfusion.evaluation.scores import Evaluation
from tiacrossfusion.survival import (
    TimeBins,
    auc_pairs,
    harrell_c,
    integrated_brier_parts,
    kaplan_meier,
    quantile_bins,
    survival_at,
    uno_c,
)


def simulated(
    patients: int = 240, folds: int = 3, seed: int = 0, noise: float = 1.0, shift: float = 0.0
) -> list[FoldPredictions]:
    """Out-of-fold predictions of a model that sees the log-hazard through noise.

    `shift` moves the risks of each fold by its number times that, as another model may.
    """
    random = np.random.default_rng(seed)
    truth = random.normal(size=patients)
    end, stop = random.exponential(np.exp(-truth)) * 30, random.uniform(5, 90, patients)
    times, events = np.minimum(end, stop), (end <= stop).astype(int)
    place = random.permutation(patients) % folds
    seen = truth + np.random.default_rng([seed, int(noise * 10)]).normal(0, noise, patients)
    made = []
    for fold in range(folds):
        test, training = place == fold, place != fold if folds > 1 else place == fold
        bins = quantile_bins(times[training], events[training], 4, "months")
        survival = np.exp(-np.outer(np.exp(seen[test] / 2), bins.edges[1:]) / 30)
        made.append(
            FoldPredictions(
                fold=fold,
                patients=tuple(f"P{i:04d}" for i in np.flatnonzero(test)),
                times=times[test],
                events=events[test],
                risks=-survival.sum(axis=1) + shift * fold,
                survival=survival,
                high=seen[test] > np.median(seen[training]),
                bins=bins,
                training_times=times[training],
                training_events=events[training],
            )
        )
    return made


FOLDS = simulated()


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(FOLDS, draws=300)


def same(one: FoldPredictions, two: FoldPredictions) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(two, name))
        for name in FoldPredictions.__dataclass_fields__
    )


# Files -------------------------------------------------------------------------------------------


def test_predictions_are_read_back_as_they_were(tmp_path):
    odd = ("007", "NA", 'a "quoted", name', "Zoë", "1e5")
    folds = [replace(FOLDS[0], patients=odd + FOLDS[0].patients[5:]), *FOLDS[1:]]
    write_predictions(tmp_path / "new" / "folder", folds)
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "out_of_fold.csv"):
        back = read_predictions(path)
        assert all(same(one, two) for one, two in zip(folds, back, strict=True))
    table = pd.read_csv(tmp_path / "new" / "folder" / "out_of_fold.csv")
    assert list(table)[:6] == ["patient", "fold", "time", "event", "risk", "risk_group"]
    assert list(table)[6:] == [
        *(f"survival_{k}" for k in range(1, 5)),
        *(f"bin_edge_{k}" for k in range(1, 5)),
        "time_unit",
    ]
    assert len(table) == 240
    names = sorted(file.name for file in (tmp_path / "new" / "folder").iterdir())
    assert names == ["out_of_fold.csv", "out_of_fold.sha256", "training_follow_up.csv"]


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("risk", 3, "high", "1 cells of risk are not numbers, first in line 5"),
        ("risk", 0, "inf", "1 cells of risk are not numbers, first in line 2"),
        ("time", 0, "-1", "1 of 80 patients have a time that is not a number above 0, first P"),
        ("event", 7, "2", "1 of 80 patients have a event that is neither 0 nor 1"),
        ("survival_2", 1, "1.5", "1 of 80 patients have a survival outside 0 to 1"),
        ("survival_4", 1, "0.9999", "1 of 80 patients have a survival that rises"),
        ("risk_group", 2, "medium", "the risk group in line 4 is neither low nor high"),
        ("bin_edge_2", 2, "1000", "fold 0 has several time axes"),
        ("time_unit", 2, "days", "fold 0 has several time axes"),
        ("fold", slice(0, 80), "0.5", "its folds are not those of training_follow_up.csv"),
        ("bin_edge_2", slice(0, 80), "9999", "bin edges rise from 0"),
        ("time_unit", slice(0, 80), "days", "the folds give times in days and months"),
        ("patient", 1, "P-twice", "2 patients"),
    ],
)
def test_an_edited_table_is_refused_in_one_line(tmp_path, column, row, value, message):
    write_predictions(tmp_path, FOLDS)
    file = tmp_path / "out_of_fold.csv"
    table = pd.read_csv(file, dtype=str)
    if column == "patient":
        table.loc[[1, 2, 3], "patient"] = value
    else:
        table.loc[table.index[row], column] = value
    table.to_csv(file, index=False)
    with pytest.raises(TiacfError, match=message) as caught:
        read_predictions(tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_or_missing_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(TiacfError, match=r"out_of_fold.csv: no such file"):
        read_predictions(tmp_path)
    write_predictions(tmp_path, FOLDS)
    file, training = tmp_path / "out_of_fold.csv", tmp_path / "training_follow_up.csv"
    whole = file.read_bytes()
    for content, message in (
        (b"", "is empty"),
        (b"\xff\xfe\x00garbage\x00", "cannot be read as CSV"),
        (whole[: whole.index(b"\n") + 1], "has a header and no rows"),
        (whole[: len(whole) - 90], "are not numbers|several time axes"),
        (b"slide,risk\na,1\n", "has no column patient, fold, time, event"),
        (whole.replace(b"survival_2", b"other_2"), "has no column survival_2"),
    ):
        file.write_bytes(content)
        with pytest.raises(TiacfError, match=message) as caught:
            read_predictions(tmp_path)
        assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    training.unlink()
    with pytest.raises(TiacfError, match=r"training_follow_up.csv: no such file"):
        read_predictions(tmp_path)


def test_predictions_that_cannot_be_written_leave_no_part(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TiacfError, match="cannot be written"):
        write_predictions(tmp_path / "file", FOLDS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": ()}, "fold 0: has no patients"),
        ({"times": FOLDS[0].times[:-1]}, "fold 0: times are not one for each of 80 patients"),
        ({"survival": FOLDS[0].survival[:, :3]}, r"shape \(80, 3\), where .* need \(80, 4\)"),
        ({"risks": np.full(80, np.nan)}, "80 of 80 patients have a risk that is not a finite"),
        ({"training_times": np.array([])}, "0 times and 160 events of training patients"),
        ({"training_times": -FOLDS[0].training_times}, "160 of 160 training patients have a time"),
    ],
)
def test_predictions_that_do_not_hold_together_are_refused(change, message):
    with pytest.raises(TiacfError, match=message):
        replace(FOLDS[0], **change)


# Figures -----------------------------------------------------------------------------------------


def test_pooled_figures_count_pairs_within_folds_only(evaluation):
    concordant = comparable = 0.0
    for fold in FOLDS:  # one pair at a time
        for i in range(len(fold.times)):
            for j in range(len(fold.times)):
                if fold.events[i] and fold.times[i] < fold.times[j]:
                    comparable += 1
                    concordant += fold.risks[i] > fold.risks[j]
    assert evaluation.pooled.harrell_c.value == pytest.approx(concordant / comparable)
    # A fold whose risks are all higher, as another model's may be, changes nothing.
    moved = evaluate(simulated(shift=50.0), draws=300)
    assert moved.pooled.harrell_c == evaluation.pooled.harrell_c
    assert moved.pooled.uno_c == evaluation.pooled.uno_c
    assert moved.pooled.auc == evaluation.pooled.auc
    everything = concordance_index(
        *(np.concatenate([getattr(fold, name) for fold in FOLDS]) for name in ("times",)),
        -np.concatenate([fold.risks for fold in simulated(shift=50.0)]),
        np.concatenate([fold.events for fold in FOLDS]),
    )
    assert abs(everything - evaluation.pooled.harrell_c.value) > 0.05


def test_figures_of_a_fold_are_those_of_the_metrics(evaluation):
    for fold, scores in zip(FOLDS, evaluation.folds, strict=True):
        assert (scores.patients, scores.events) == (80, fold.events.sum())
        expected = concordance_index(fold.times, -fold.risks, fold.events)
        assert scores.harrell_c.value == pytest.approx(expected)
        follow_up = fold.times, fold.events, fold.risks
        expected = uno_c(*follow_up, fold.censoring, evaluation.horizon)
        assert scores.uno_c.value == pytest.approx(expected)
        for auc in scores.auc:
            expected = auc_pairs(*follow_up, auc.time, fold.censoring).ratio
            assert auc.value == pytest.approx(float(expected))
    c = [scores.harrell_c.value for scores in evaluation.folds]
    assert evaluation.harrell_c_mean == pytest.approx(np.mean(c))
    assert evaluation.harrell_c_sd == pytest.approx(np.std(c, ddof=1))
    edges = np.mean([fold.bins.edges[1:-1] for fold in FOLDS], axis=0)
    assert evaluation.times == pytest.approx(edges)


def test_brier_is_averaged_over_patients_with_their_own_folds_weights(evaluation):
    grid = np.linspace(0, evaluation.horizon, 101)
    parts, without = [], []
    for fold in FOLDS:
        base = KaplanMeierFitter().fit(fold.training_times, fold.training_events)
        flat = np.tile(base.predict(grid).to_numpy(), (80, 1))
        own = survival_at(fold.survival, fold.bins, grid)
        for curves, kept in ((own, parts), (flat, without)):
            follow_up = fold.times, fold.events, curves, grid, fold.censoring
            kept.append(integrated_brier_parts(*follow_up))
    assert evaluation.pooled.brier.value == pytest.approx(np.concatenate(parts).mean())
    without_model = evaluation.pooled.brier_without_model.value
    assert without_model == pytest.approx(np.concatenate(without).mean())
    assert evaluation.pooled.brier.value < without_model


def test_calibration_and_risk_groups_pool_the_patients(evaluation):
    times, events, high = (
        np.concatenate([getattr(fold, name) for fold in FOLDS])
        for name in ("times", "events", "high")
    )
    for table in evaluation.pooled.calibration:
        at = np.array([table.time])
        predicted = np.concatenate([survival_at(f.survival, f.bins, at) for f in FOLDS])
        observed = 1 - kaplan_meier(times, events, at)[0]
        ratio = table.observed_over_expected
        assert ratio.value == pytest.approx(observed / (1 - predicted).mean())
        assert ratio.low < ratio.value < ratio.high
        assert sum(row.patients for row in table.rows) == 240
        assert len(table.rows) == 5
    groups = evaluation.pooled.risk_groups
    test = logrank_test(times[high], times[~high], events[high], events[~high])
    assert groups.log_rank_p_of_independent_folds == pytest.approx(test.p_value)
    assert evaluation.variance_factor == 2  # all other patients train
    assert groups.log_rank_p == pytest.approx(chi2.sf(test.test_statistic / 2, 1))
    assert (groups.low_patients, groups.high_patients) == ((~high).sum(), high.sum())
    assert groups.low_events + groups.high_events == events.sum()


def test_intervals_hold_the_estimate_and_repeat_with_the_seed(evaluation):
    pooled = evaluation.pooled
    for found in (pooled.harrell_c, pooled.uno_c, pooled.brier, *pooled.auc):
        assert found.low < found.value < found.high
        assert found.note == ""
    again = evaluate(FOLDS, draws=300)
    assert again.model_dump_json() == evaluation.model_dump_json()
    assert evaluate(FOLDS, draws=300, seed=1).pooled.harrell_c.low != pooled.harrell_c.low
    widths = [scores.harrell_c.high - scores.harrell_c.low for scores in evaluation.folds]
    c = pooled.harrell_c
    assert min(widths) > c.unwidened_high - c.unwidened_low
    assert c.high - c.value == pytest.approx(np.sqrt(2) * (c.unwidened_high - c.value))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    many = simulated(4000, 1, seed=99)[0]
    truth = harrell_c(many.times, many.events, many.risks)
    covered = 0
    for seed in range(60):
        folds = simulated(120, 2, seed=seed)
        found = compare(folds, folds, draws=300).first
        covered += found.low <= truth <= found.high
    assert 51 <= covered <= 60  # 57 expected; below 51 has a chance under 0.01


def test_the_area_under_the_pooled_roc_is_the_pooled_auc(evaluation):
    for auc in evaluation.pooled.auc:
        false, true = pooled_roc(FOLDS, auc.time)
        assert np.trapezoid(true, false) == pytest.approx(auc.value)
        assert (np.diff(false) >= 0).all()
        assert (np.diff(true) >= -1e-12).all()
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, pytest.approx(1))


def test_what_is_undefined_is_nan_with_a_reason_and_null_in_json():
    quiet = replace(FOLDS[0], events=np.zeros(80, int), high=np.ones(80, bool))
    found = evaluate([quiet, *FOLDS[1:]], draws=100)
    first = found.folds[0]
    assert np.isnan(first.harrell_c.value)
    assert first.harrell_c.note == (
        "no pair of patients can be compared (0 events among 80 patients)"
    )
    assert all(np.isnan(auc.value) and auc.note for auc in first.auc)
    assert np.isnan(first.risk_groups.log_rank_p)
    assert first.risk_groups.note == "all patients are in the high risk group"
    assert np.isfinite(found.pooled.harrell_c.value)  # the others are still pooled
    assert np.isnan(found.harrell_c_mean)
    assert "fold 0" in " ".join(found.notes)
    data = json.loads(found.model_dump_json(), parse_constant=pytest.fail)
    assert data["folds"][0]["harrell_c"]["value"] is None
    assert np.isnan(Evaluation.model_validate(data).folds[0].harrell_c.value)


def test_censoring_that_supports_no_time_leaves_harrell_alone():
    lost = replace(FOLDS[0], training_times=np.full(9, 2.0), training_events=np.zeros(9, int))
    found = evaluate([lost], draws=100)
    assert np.isfinite(found.pooled.harrell_c.value)
    assert np.isnan(found.pooled.uno_c.value)
    assert found.pooled.brier.note == "the training patients' censoring supports no time"
    assert found.pooled.auc == ()
    assert found.auc_over_time == ()
    assert "3 of 3 inner bin edges" in found.notes[0]


def test_bin_edges_that_censoring_does_not_support_are_left_out_and_said():
    stop = np.quantile(FOLDS[0].training_times, 0.5)  # the study ends here
    ended = np.minimum(FOLDS[0].training_times, stop)
    events = np.where(FOLDS[0].training_times <= stop, FOLDS[0].training_events, 0)
    found = evaluate([replace(FOLDS[0], training_times=ended, training_events=events)], draws=100)
    assert found.horizon <= stop
    assert len(found.times) < 3
    assert max(found.times) <= found.horizon
    assert "inner bin edges lie beyond" in found.notes[0]


def test_optimism_and_repeated_patients_are_said():
    twice = [FOLDS[0], replace(FOLDS[0], fold=1)]
    found = evaluate(twice, draws=100, optimistic=True)
    assert found.optimistic
    assert "optimistic" in found.notes[0]
    assert "80 predictions are of patients who are held out in more than one fold" in found.notes[1]
    assert evaluate(FOLDS, draws=100).notes == ()


def test_folds_that_do_not_go_together_are_refused():
    other_unit = TimeBins(edges=FOLDS[1].bins.edges, unit="days")
    fewer = TimeBins(edges=FOLDS[1].bins.edges[:-1], unit="months")
    for folds, message in (
        ([], "no predictions"),
        ([FOLDS[0], FOLDS[0]], r"numbered \[0, 0\]"),
        ([FOLDS[0], replace(FOLDS[1], bins=other_unit)], "days and months"),
        ([FOLDS[0], replace(FOLDS[1], bins=fewer, survival=FOLDS[1].survival[:, :3])], r"\[3, 4\]"),
    ):
        with pytest.raises(TiacfError, match=message):
            evaluate(folds)
    with pytest.raises(TiacfError, match="10 bootstrap draws give no interval"):
        evaluate(FOLDS, draws=10)


# Comparison --------------------------------------------------------------------------------------


def test_a_better_model_is_found_better_and_the_other_way_round():
    worse = simulated(noise=8.0)
    found, turned = compare(FOLDS, worse, draws=500), compare(worse, FOLDS, draws=500)
    assert (found.patients, found.events) == (240, sum(fold.events.sum() for fold in FOLDS))
    assert found.first.value - found.second.value == pytest.approx(found.difference.value)
    assert found.difference.low > 0
    assert found.p < 0.02
    assert turned.difference.value == -found.difference.value
    assert turned.difference.high == pytest.approx(-found.difference.low)
    assert turned.p == found.p
    # Pairing is what makes it sharp: the interval is narrower than independent draws would give.
    found = compare(FOLDS, simulated(noise=4.0), draws=500)
    widths = [e.high - e.low for e in (found.first, found.second, found.difference)]
    assert widths[2] < np.hypot(widths[0], widths[1])
    assert found.first == evaluate(FOLDS, draws=500).pooled.harrell_c


def test_a_model_does_not_differ_from_itself_in_another_order():
    random = np.random.default_rng(0)
    shuffled = []
    for fold in reversed(FOLDS):
        order = random.permutation(80)
        arrays = ("times", "events", "risks", "survival", "high")
        changed = {name: getattr(fold, name)[order] for name in arrays}
        patients = tuple(fold.patients[i] for i in order)
        shuffled.append(replace(fold, patients=patients, **changed))
    found = compare(FOLDS, shuffled, draws=100)
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.p == 1


def test_two_useless_models_rarely_differ():
    ps = [
        compare(simulated(90, 3, s, noise=30.0), simulated(90, 3, s, noise=40.0), draws=100).p
        for s in range(60)
    ]
    assert sum(p < 0.05 for p in ps) <= 8  # 3 expected; 9 or more has a chance under 0.01


def test_predictions_of_other_patients_folds_or_follow_up_are_not_compared():
    first = FOLDS[0]
    renamed = replace(first, patients=("somebody", *first.patients[1:]))
    later = replace(first, times=np.where(np.arange(80) < 2, first.times + 1, first.times))
    swapped = [replace(FOLDS[0], fold=1), replace(FOLDS[1], fold=0), FOLDS[2]]
    days = [replace(f, bins=TimeBins(edges=f.bins.edges, unit="days")) for f in FOLDS]
    for second, message in (
        ([renamed, *FOLDS[1:]], "1 only in the first, 1 only in the second, such as P"),
        (FOLDS[:2], "80 only in the first, 0 only in the second"),
        (swapped, "160 patients are held out in different folds, such as P.*: fold . and fold ."),
        ([later, *FOLDS[1:]], "the follow-up of 2 patients differs, such as P.* months with event"),
        (days, "times in months and in days"),
    ):
        with pytest.raises(TiacfError, match=message):
            compare(FOLDS, second)


# Report ------------------------------------------------------------------------------------------


def learning_curve(epochs: int) -> pd.DataFrame:
    epoch = np.arange(epochs)
    return pd.DataFrame(
        {"epoch": epoch, "train_loss": 1 / (1 + epoch), "val_loss": 1.0, "val_c": 0.5}
    )


def test_the_report_has_figures_and_pictures(tmp_path, evaluation):
    curves = {fold: learning_curve(5 + fold) for fold in range(3)}
    curves[1].loc[2, "val_c"] = np.nan
    files = write_evaluation(
        tmp_path / "out", FOLDS, evaluation, title="a $ model", learning_curves=curves, note="n"
    )
    pictures = ["calibration", "kaplan_meier", "learning_curves", "roc_over_time"]
    expected = sorted(["evaluation.json", *(f"{name}.png" for name in pictures)])
    assert [file.name for file in files] == expected
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == expected
    read = Evaluation.model_validate_json((tmp_path / "out" / "evaluation.json").read_text())
    assert read.model_dump_json() == evaluation.model_dump_json()
    for name in pictures:
        picture = imread(tmp_path / "out" / f"{name}.png")
        assert min(picture.shape[:2]) >= 500
        assert 0.02 < (picture[..., :3].min(axis=2) < 0.9).mean() < 0.5  # neither blank nor full
    before = {file: file.read_bytes() for file in files}
    write_evaluation(
        tmp_path / "out", FOLDS, evaluation, title="a $ model", learning_curves=curves, note="n"
    )
    assert before == {file: file.read_bytes() for file in files}


def test_a_report_is_drawn_where_little_is_defined(tmp_path):
    bins = TimeBins(edges=(0, 5), unit="years")
    few = FoldPredictions(
        fold=0,
        patients=("a", "b"),
        times=np.array([1.0, 2]),
        events=np.array([0, 0]),
        risks=np.array([-1.0, -1]),
        survival=np.array([[0.5], [0.5]]),
        high=np.array([True, True]),
        bins=bins,
        training_times=np.array([3.0]),
        training_events=np.array([0]),
    )
    files = write_evaluation(tmp_path, [few], evaluate([few], draws=100), title="two patients")
    assert len(files) == 4


def test_a_report_that_cannot_be_made_leaves_nothing(tmp_path, evaluation):
    lacking = {0: learning_curve(3).drop(columns="val_c")}
    with pytest.raises(TiacfError, match="learning curve of fold 0: lacks val_c"):
        write_evaluation(tmp_path, FOLDS, evaluation, title="t", learning_curves=lacking)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(TiacfError, match="the report cannot be written"):
        write_evaluation(tmp_path / "file", FOLDS, evaluation, title="t")


@pytest.mark.process
def test_evaluation_imports_neither_torch_nor_the_toolbox(tmp_path: Path):
    write_predictions(tmp_path, FOLDS)
    code = (
        "import sys; from pathlib import Path; import tiacrossfusion.evaluation;"
        "light = {'pandas', 'matplotlib', 'lifelines', 'torch'} & set(sys.modules);"
        "import tiacrossfusion.evaluation.api;"
        "from tiacrossfusion.evaluation.measuring import evaluate;"
        "from tiacrossfusion.evaluation.prediction_files import read_predictions;"
        "from tiacrossfusion.evaluation.report import write_evaluation;"
        f"folds = read_predictions(Path({str(tmp_path)!r}));"
        f"write_evaluation(Path({str(tmp_path)!r}), folds, evaluate(folds, draws=100), title='t');"
        "print(sorted(light), [m for m in ('torch', 'tiatoolbox', 'torchsurv') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
