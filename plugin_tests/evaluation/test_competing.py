"""Competing risks and endpoints: Aalen-Johansen against lifelines, C-indices, and the files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from lifelines import AalenJohansenFitter
from lifelines.datasets import load_waltons

from tiacrossfusion.cli.main import main
from tiacrossfusion.cohorts.endpoints import read_endpoints
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.evaluation.competing import competing_risks
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.survival import cumulative_incidence, harrell_c, quantile_bins


def cohort(seed: int = 0) -> tuple[FoldPredictions, pd.Series]:
    random = np.random.default_rng(seed)
    risk = random.normal(size=300)
    of_tumour, other = random.exponential(20 * np.exp(-risk)), random.exponential(30, 300)
    stop = random.uniform(5, 60, 300)
    times = np.minimum(np.minimum(of_tumour, other), stop)
    cause = np.select([times == of_tumour, times == other], [1, 2], 0)
    bins = quantile_bins(times, cause == 1, 4, "months")
    survival = np.exp(-np.outer(np.exp(risk) / 20, bins.edges[1:]))
    names = tuple(f"P{i}" for i in range(300))
    fold = FoldPredictions(
        0, names, times, (cause == 1).astype(int), risk, survival, risk > 0, bins, times, (cause == 1) * 1
    )  # fmt: skip
    return fold, pd.Series(cause, index=list(names), name="cause")


def test_incidence_is_that_of_lifelines():
    data = load_waltons()
    random = np.random.default_rng(0)
    times = data["T"].to_numpy(float) + random.uniform(
        0, 0.5, len(data)
    )  # ties differ in lifelines
    causes = data["E"].to_numpy(int) * random.integers(1, 3, len(data))
    at = np.array([5.0, 20.0, 45.0, 70.0])
    for cause in (1, 2):
        fitted = AalenJohansenFitter().fit(times, causes, event_of_interest=cause)
        expected = [float(fitted.cumulative_density_.loc[:t].iloc[-1, 0]) for t in at]
        np.testing.assert_allclose(
            cumulative_incidence(times, causes, cause, at), expected, atol=1e-6
        )


def test_incidences_and_survival_add_up_to_1_and_counts_are_copies():
    fold, cause = cohort()
    at, causes = np.linspace(0, 50, 7), cause.to_numpy()
    counts = np.random.default_rng(1).integers(0, 3, (2, 300))
    drawn = cumulative_incidence(fold.times, causes, 1, at, counts)
    rows = np.repeat(np.arange(300), counts[1])
    np.testing.assert_allclose(
        drawn[1], cumulative_incidence(fold.times[rows], causes[rows], 1, at)
    )
    total = sum(cumulative_incidence(fold.times, causes, k, at) for k in (1, 2))
    either = cumulative_incidence(fold.times, (causes > 0).astype(int), 1, at)
    np.testing.assert_allclose(total, either)


def test_the_two_c_indices_and_the_groups():
    fold, cause = cohort()
    found = competing_risks([fold], cause, draws=100)
    event = (cause == 1).to_numpy().astype(int)
    assert found.cause_specific_c.value == pytest.approx(harrell_c(fold.times, event, fold.risks))
    never = np.where(cause == 2, np.inf, fold.times)
    kept = found.c_with_competing_events_kept
    assert kept.value == pytest.approx(harrell_c(never, event, fold.risks))
    assert kept.low < kept.value < kept.high
    last = {(row.risk_group, row.cause): row.at_times[-1].value for row in found.incidence}
    assert last["high", "the event"] > last["low", "the event"]
    assert last["high", "a competing event"] < last["low", "a competing event"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.where(c.index != "P3"), "no whole number of 0 or more for 1 patients .* P3"),
        (lambda c: c * 0, "0 beside an event"),
        (lambda c: c.where(c < 2, 0), "no patient has a competing event"),
        (lambda c: c + 0.5, "no whole number"),
    ],
)
def test_causes_that_cannot_be_are_refused_in_one_line(change, message):
    fold, cause = cohort()
    with pytest.raises(TiacfError, match=message) as caught:
        competing_risks([fold], change(cause).rename("cause"), draws=100)
    assert "\n" not in str(caught.value)


def run(*words: object) -> str:
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.output


def test_endpoints_are_trained_side_by_side_and_causes_judged(tmp_path):
    fold, cause = cohort()
    table = pd.DataFrame(
        {
            "patient": fold.patients,
            "months": fold.times,
            "died": (cause > 0).to_numpy() * 1,
            "of_tumour": fold.events,
            "cause": cause.to_numpy(),
            "grade": fold.risks + np.random.default_rng(0).normal(size=300),
        }
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    text = run(
        "train", "--model", "clinical", "--table", tmp_path / "t.csv", "--time-unit", "months",
        "--covariates", "grade", "--endpoint", "OS=months,died", "--endpoint", "DSS=months,of_tumour",
        "--output-path", tmp_path / "out",
    )  # fmt: skip
    assert "OS, clinical: 300 patients" in text
    both = pd.read_csv(tmp_path / "out" / "endpoints.csv")
    assert list(both["endpoint"]) == ["OS", "DSS"]
    assert both["harrell_c"].iloc[1] > both["harrell_c"].iloc[0]
    text = run(
        "evaluate", "--predictions", tmp_path / "out" / "DSS" / "clinical", "--table",
        tmp_path / "t.csv", "--time-column", "months", "--event-column", "of_tumour", "--cause", "cause",
        "--figures", "svg", "--output-path", tmp_path / "ev",
    )  # fmt: skip
    assert "cause-specific C" in text
    names = {path.name for path in (tmp_path / "ev").iterdir()}
    assert {"competing_risks.json", "cumulative_incidence.svg", "report.html"} <= names
    page = (tmp_path / "ev" / "report.html").read_text(encoding="utf-8")
    assert "Competing risks by cause" in page
    assert page.count("data:image/svg+xml") == 4
    assert "http" not in page.replace("http-equiv", "")


def test_endpoints_written_otherwise_are_refused():
    assert read_endpoints(["OS=OS.time,OS"]) == {"OS": ("OS.time", "OS")}
    for wrong in ("OS", "OS=a", "OS=a,b,c", "../x=a,b", "=a,b"):
        with pytest.raises(UsageError, match="--endpoint"):
            read_endpoints([wrong])
    with pytest.raises(UsageError, match="given twice"):
        read_endpoints(["OS=a,b", "OS=c,d"])
