"""Slide and clinical record in one model, on planted cohorts whose truth is known.

python benchmarks/fusion.py [--cohorts 12] [--first 1000] [--processes 2] [--output benchmarks/fusion.md]

log h = a g_slide + b g_clinic + c g_slide g_clinic, a = b = 0.85. A slide is a vector of 64 whose best score
correlates .85 with g_slide; the record is that of `tiacf simulate --record`. Each cohort has 600 patients to
train and 2,000 to test. The slide's model is ridge Cox regression on the vector, out of fold in five parts of
the training patients. The recipe was chosen on cohorts with seeds below 1000.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch

from tiacrossfusion.networks.record_head import RecordHead
from tiacrossfusion.simulation.follow_up import follow_up
from tiacrossfusion.simulation.record import RecordOptions, clinical_score, draw_record
from tiacrossfusion.survival import (
    Censoring,
    TimeBins,
    breslow_increments,
    calibration_slope,
    harrell_c,
    integrated_brier_parts,
    quantile_bins,
    survival_at,
)
from tiacrossfusion.survival.balanced_parts import balanced_parts
from tiacrossfusion.survival.fusion import FusedHead, fit_head
from tiacrossfusion.survival.record import Record, RecordTerms
from tiacrossfusion.survival.ridge_cox import choose_ridge, fit_ridge
from tiacrossfusion.training.fusion import fit_small, set_head, set_partial

TRAIN, TEST, WIDTH, EFFECT, FIDELITY, BINS = 600, 2000, 64, 0.85, 0.85, 8
CORRELATIONS, MISSING = (
    (0.0, 0.5, 0.9),
    ((0.0, False), (0.2, False), (0.2, True), (0.5, False), (0.5, True)),
)
MODELS = ("clinical", "slide", "late", "joint", "network", "late, complete cases")
COLUMNS = ("C", "Brier", "slope")


class Cohort:
    """Training and test patients of a planted cohort."""

    def __init__(
        self, seed: int, options: RecordOptions, slide_effect: float = EFFECT, train: int = TRAIN
    ) -> None:
        """Draw them."""
        random = np.random.default_rng(seed)
        count = train + TEST
        slide = random.standard_normal(count)
        clinic = clinical_score(slide, options.correlation, random)
        self.truth = (
            slide_effect * slide + options.effect * clinic + options.product * slide * clinic
        )
        self.times, self.events = follow_up(
            self.truth,
            random.standard_exponential(count),
            random.standard_exponential(count),
            censored_share=0.3,
        )
        direction = np.random.default_rng(64).standard_normal(WIDTH)
        direction /= np.linalg.norm(direction)
        noise = random.standard_normal((count, WIDTH))
        read = FIDELITY * slide + np.sqrt(1 - FIDELITY**2) * random.standard_normal(count)
        self.vectors = noise + np.outer(read - noise @ direction, direction)
        self.frame = draw_record(clinic, random, options)
        self.train = np.arange(count) < train
        self.record = Record.of(self.frame[self.train])
        self.codes = self.record.codes(self.frame)[0]
        self.score = slide_scores(self.vectors, self.train, self.times, self.events, seed)
        self.bins = quantile_bins(self.times[self.train], self.events[self.train], BINS, "months")

    def of(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Codes, slide scores, times and events of some patients."""
        return self.codes[part], self.score[part], self.times[part], self.events[part]

    def judged(self, survival: np.ndarray, bins: TimeBins, risk: np.ndarray) -> tuple[float, ...]:
        """C, integrated Brier score and calibration slope on the test patients."""
        test = ~self.train
        times, events = self.times[test], self.events[test]
        end = float(np.quantile(times, 0.9))
        grid = np.linspace(0, end, 61)
        curves = survival_at(survival, bins, grid)
        brier = integrated_brier_parts(times, events, curves, grid, Censoring(times, events)).mean()
        middle = float(bins.edges[BINS // 2])
        at = survival_at(survival, bins, np.array([middle]))[:, 0]
        slope, _ = calibration_slope(times, events, at, middle, np.zeros(len(times)))
        return harrell_c(times, events, risk), float(brier), slope


def slide_scores(
    vectors: np.ndarray, train: np.ndarray, times: np.ndarray, events: np.ndarray, seed: int
) -> np.ndarray:
    """Slide scores, out of fold for training patients, by all of them for the others; SD 1 out of fold."""
    x = (vectors - vectors[train].mean(axis=0)) / vectors[train].std(axis=0)
    mine, t, e = x[train], times[train], events[train]
    penalties, _ = choose_ridge(mine, t, e, np.full(WIDTH, np.nan), seed=seed)
    part = balanced_parts(e, 5, np.random.default_rng(seed))
    held = np.empty(len(mine))
    for number in range(5):
        out = part == number
        held[out] = mine[out] @ fit_ridge(mine[~out], t[~out], e[~out], penalties)
    scores = x @ fit_ridge(mine, t, e, penalties)
    scores[train] = held
    return (scores - held.mean()) / held.std()


def curves(increments: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Survival (N, K) of log-hazards."""
    return np.exp(-np.outer(np.exp(eta), np.cumsum(increments)))


def judge_head(
    cohort: Cohort, head: FusedHead, codes: np.ndarray, score: np.ndarray
) -> tuple[float, ...]:
    """Judge a head on the test patients."""
    eta = head.log_hazard(head.terms.encode(codes), score)
    return cohort.judged(curves(head.increments, eta), cohort.bins, eta)


def judge_slide_alone(cohort: Cohort) -> tuple[float, ...]:
    """Cox regression on the slide score."""
    _, score, times, events = cohort.of(cohort.train)
    b = fit_ridge(score[:, None], times, events, np.array([1e-3]))[0]
    increments = breslow_increments(score * b, times, events, cohort.bins)
    eta = b * cohort.score[~cohort.train]
    return cohort.judged(curves(increments, eta), cohort.bins, eta)


def one(cell: tuple[float, float, float, bool, int]) -> list[dict[str, object]]:
    """All models on one cohort."""
    correlation, c, missing, by_value, seed = cell
    torch.set_num_threads(1)
    options = RecordOptions(EFFECT, c, correlation, missing, by_value)
    cohort = Cohort(seed, options)
    codes, score, times, events = cohort.of(cohort.train)
    test_codes, test_score, _, _ = cohort.of(~cohort.train)
    record, bins, random = cohort.record, cohort.bins, np.random.default_rng(seed)
    found: dict[str, tuple[float, ...]] = {}
    nothing = np.zeros(len(test_score))
    alone = fit_head(record, codes, 0 * score, times, events, bins, product=False, seed=seed)
    found["clinical"] = judge_head(cohort, alone, test_codes, nothing)
    found["slide"] = judge_slide_alone(cohort)
    late = fit_head(record, codes, score, times, events, bins, product=False, seed=seed)
    joint = fit_head(record, codes, score, times, events, bins, product=True, seed=seed)
    found["late"] = judge_head(cohort, late, test_codes, test_score)
    found["joint"] = judge_head(cohort, joint, test_codes, test_score)
    small = RecordHead(record, bins.num_bins, "mlp")
    fit_small(small, record, codes, score, times, events, bins, seed)
    with torch.inference_mode():
        z = small.terms(torch.from_numpy(test_codes)).float()
        eta = small(z, torch.from_numpy(test_score).float()).numpy()
    found["network"] = cohort.judged(curves(small.increments("whole").numpy(), eta), bins, eta)
    whole = np.isfinite(codes).all(axis=1)
    if missing and whole.sum() >= 50:
        kept = fit_head(
            record,
            codes[whole],
            score[whole],
            times[whole],
            events[whole],
            bins,
            product=False,
            seed=seed,
        )
        found["late, complete cases"] = judge_head(cohort, kept, test_codes, test_score)
    if (
        not missing
    ):  # records of which half is not given: the head for partial records, and a model trained so
        half = test_codes.copy()
        gone = random.permutation(codes.shape[1])[: codes.shape[1] // 2]
        half[:, gone] = np.nan
        whole_head = RecordHead(record, bins.num_bins, "linear")
        set_head(whole_head, joint)
        set_partial(whole_head, codes, score, times, events, bins, seed)
        with torch.inference_mode():
            given = torch.from_numpy(test_score)
            z = whole_head.completed(torch.from_numpy(half), given).float()
            eta = whole_head(z, given.float()).numpy()
        found["half a record"] = cohort.judged(
            curves(whole_head.increments("partial").numpy(), eta), bins, eta
        )
        mine = codes.copy()
        mine[:, gone] = np.nan
        own = fit_head(record, mine, score, times, events, bins, product=True, seed=seed)
        found["half a record, own model"] = judge_head(cohort, own, half, test_score)
    truth = cohort.truth[~cohort.train]
    found["truth"] = (
        harrell_c(cohort.times[~cohort.train], cohort.events[~cohort.train], truth),
        np.nan,
        1.0,
    )
    place = {"rho": correlation, "c": c, "missing": missing, "by value": by_value, "seed": seed}
    return [
        place | {"model": name} | dict(zip(COLUMNS, f, strict=True)) for name, f in found.items()
    ]


def null(seed: int) -> tuple[float, float]:
    """Added value of a slide without an effect of its own, where the record reads g_clinic exactly."""
    cohort = Cohort(seed, RecordOptions(EFFECT, 0.0, 0.5, exact=True), slide_effect=0.0)
    codes, score, times, events = cohort.of(cohort.train)
    with_slide, without = (
        fit_head(cohort.record, codes, s, times, events, cohort.bins, product=True, seed=seed)
        for s in (score, 0 * score)
    )
    z = RecordTerms.fit(cohort.record, codes).encode(codes)
    from scipy.stats import chi2

    from tiacrossfusion.survival.ridge_cox import log_likelihood

    small = np.full(z.shape[1], 1e-4)
    both = np.column_stack([z, score])
    one_less = fit_ridge(z, times, events, small)
    full = fit_ridge(both, times, events, np.append(small, 1e-9))
    gain = log_likelihood(both, times, events, full) - log_likelihood(z, times, events, one_less)
    test_codes, test_score, t, e = cohort.of(~cohort.train)
    z_test = with_slide.terms.encode(test_codes)
    difference = harrell_c(t, e, with_slide.log_hazard(z_test, test_score)) - harrell_c(
        t, e, without.log_hazard(z_test, 0 * test_score)
    )
    return float(chi2.sf(2 * gain / 2, 1)), difference


def mean_interval(values: pd.Series) -> str:
    """Mean over cohorts with its 95 % interval (t)."""
    from scipy.stats import t

    n = len(values)
    wide = t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return f"{values.mean():+.4f} ({values.mean() - wide:+.4f} to {values.mean() + wide:+.4f})"


def lines_of(frame: pd.DataFrame, nulls: list[tuple[float, float]], cohorts: int) -> Iterator[str]:
    """The report."""
    yield "# Slide and clinical record in one model"
    yield ""
    yield (
        f"Made by `benchmarks/fusion.py`: {cohorts} planted cohorts a cell, {TRAIN} patients to train and "
        f"{TEST:,} to test, a = b = {EFFECT}. C is Harrell's; Brier is integrated up to the 90 % quantile of "
        "follow-up, smaller is better; slope is that of calibration, 1 is right. Means over cohorts; "
        "differences with 95 % intervals over cohorts."
    )
    for c in (0.0, 1.0):
        yield f"\n## c = {c:g}\n"
        yield "| rho | missing | " + " | ".join((*MODELS, "truth")) + " |"
        yield "|" + "---|" * (len(MODELS) + 3)
        for (rho, missing, by_value), cell in frame[frame["c"] == c].groupby(
            ["rho", "missing", "by value"]
        ):
            means = cell.groupby("model")[list(COLUMNS)].mean()
            shown = [
                f"{means.loc[m, 'C']:.3f} / {means.loc[m, 'Brier']:.4f} / {means.loc[m, 'slope']:.2f}"
                if m in means.index
                else "-"
                for m in MODELS
            ]
            how = f"{missing:.0%}" + (
                (" by value" if by_value else " at random") if missing else ""
            )
            yield (
                f"| {rho:g} | {how} | " + " | ".join(shown) + f" | {means.loc['truth', 'C']:.3f} |"
            )
    index = ["c", "rho", "missing", "by value", "seed"]
    wide = frame.pivot_table(index=index, columns="model", values=["C", "Brier"])
    yield "\n## Differences\n"
    yield "| c | rho | missing | joint less late, C | joint less late, Brier | late less complete cases, C |"
    yield "|---|---|---|---|---|---|"
    for (c, rho, missing, by_value), cell in wide.groupby(level=[0, 1, 2, 3]):
        gain, brier = (cell[m, "joint"] - cell[m, "late"] for m in ("C", "Brier"))
        kept = (cell["C", "late"] - cell["C", "late, complete cases"]).dropna()
        how = f"{missing:.0%}" + ((" by value" if by_value else " at random") if missing else "")
        dropped = f"{mean_interval(kept)}, {len(kept)} cohorts" if len(kept) > 1 else "-"
        yield f"| {c:g} | {rho:g} | {how} | {mean_interval(gain)} | {mean_interval(brier)} | {dropped} |"
    yield "\n## Without a record, and with half of it (nothing missing in training)\n"
    yield (
        "Without a record the prediction is that of Cox regression on the slide score, so that the ratio of "
        "Brier scores to a model trained without is 1 by construction. Half a record is completed; it is "
        "compared with a model trained on the same half."
    )
    yield "\n| c | rho | half a record, Brier / own model | C less own model |"
    yield "|---|---|---|---|"
    for (c, rho), cell in wide[wide.index.get_level_values(2) == 0].groupby(level=[0, 1]):
        ratio = cell["Brier", "half a record"] / cell["Brier", "half a record, own model"] - 1
        gain = cell["C", "half a record"] - cell["C", "half a record, own model"]
        yield f"| {c:g} | {rho:g} | 1 {mean_interval(ratio)} | {mean_interval(gain)} |"
    p = np.array([pair[0] for pair in nulls])
    gains = pd.Series([pair[1] for pair in nulls])
    yield "\n## Nothing to add\n"
    yield (
        f"Slide without an effect of its own, rho .5, age reads g_clinic exactly, {len(p)} cohorts: p of the "
        f"likelihood ratio of the slide score (out of fold, so over 1 + f = 2) beyond it below .05 in "
        f"{(p < 0.05).mean():.1%}; joint less clinical, C: {mean_interval(gains)}."
    )


def main() -> None:
    """Run all cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=12)
    parser.add_argument("--nulls", type=int, default=200)
    parser.add_argument("--first", type=int, default=1000, help="Seed of the first cohort.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.cohorts)
    cells = [
        (rho, c, missing, by_value, seed)
        for rho, c, (missing, by_value), seed in product(CORRELATIONS, (0.0, 1.0), MISSING, seeds)
    ]
    begun = time.time()
    with ProcessPoolExecutor(options.processes) as pool:
        rows = [row for found in pool.map(one, cells, chunksize=4) for row in found]
        nulls = list(
            pool.map(null, range(options.first, options.first + options.nulls), chunksize=4)
        )
    text = "\n".join(lines_of(pd.DataFrame(rows), nulls, options.cohorts))
    options.output.write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"{time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
