"""What patients without follow-up are worth: 1,200 unlabelled, 100 labelled planted patients.

python benchmarks/pretraining.py [--cohorts 40] [--first 2000] [--output benchmarks/pretraining.md]

Cohorts as in `fusion.py`, c = 0 and nothing missing. `late` is Cox regression on record and slide score of
the labelled patients; `late, pretrained` adds the two summaries learnt from all 1,300 (`cross_modality`).
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from fusion import BINS, EFFECT, Cohort, mean_interval, slide_scores

from tiacrossfusion.simulation.record import RecordOptions
from tiacrossfusion.survival import harrell_c, quantile_bins
from tiacrossfusion.survival.cross_modality import rebuild, shared_directions
from tiacrossfusion.survival.fusion import fit_head
from tiacrossfusion.survival.record import RecordTerms

LABELLED, UNLABELLED = 100, 1200


def one(cell: tuple[float, int]) -> dict[str, float]:
    """C of both models on one cohort, and how many variables the slide helps to rebuild."""
    correlation, seed = cell
    cohort = Cohort(seed, RecordOptions(EFFECT, 0.0, correlation), train=LABELLED + UNLABELLED)
    labelled = np.arange(len(cohort.times)) < LABELLED
    times, events = cohort.times[labelled], cohort.events[labelled]
    score = slide_scores(cohort.vectors, labelled, cohort.times, cohort.events, seed)
    bins = quantile_bins(times, events, BINS, "months")
    terms = RecordTerms.fit(cohort.record, cohort.codes[cohort.train])
    z = terms.encode(cohort.codes)
    everybody = cohort.vectors[cohort.train]
    slides = (cohort.vectors - everybody.mean(axis=0)) / everybody.std(axis=0)
    shared = shared_directions(slides[cohort.train], z[cohort.train])
    summaries = np.column_stack(
        [slides @ shared.slide / shared.slide_sd, z @ shared.record / shared.record_sd]
    )
    test, found = ~cohort.train, {"rho": correlation}
    for name, more in (("late", None), ("pretrained", summaries)):
        head = fit_head(
            cohort.record,
            cohort.codes[labelled],
            score[labelled],
            times,
            events,
            bins,
            product=False,
            seed=seed,
            shared=None if more is None else more[labelled],
        )
        eta = head.log_hazard(
            head.terms.encode(cohort.codes[test]), score[test], None if more is None else more[test]
        )
        found[name] = harrell_c(cohort.times[test], cohort.events[test], eta)
    found["truth"] = harrell_c(cohort.times[test], cohort.events[test], cohort.truth[test])
    helped = 0
    for place, name in enumerate(cohort.record.names):
        own = (terms.variable == place) & (terms.kind != 3) & terms.used
        others = (terms.variable != place) & terms.used
        made = rebuild(
            name,
            z[np.ix_(cohort.train, own)],
            z[np.ix_(cohort.train, others)],
            slides[cohort.train],
            seed,
        )
        helped += made.helps
    return found | {"helped": helped}


def main() -> None:
    """Run all cohorts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=40)
    parser.add_argument("--first", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.cohorts)
    with ProcessPoolExecutor(options.processes) as pool:
        frame = pd.DataFrame(
            pool.map(one, [(rho, seed) for rho in (0.0, 0.5, 0.9) for seed in seeds])
        )
    lines = [
        "# Pretraining of slide and record",
        "",
        f"Made by `benchmarks/pretraining.py`: {options.cohorts} planted cohorts a row, {UNLABELLED:,} "
        f"patients without and {LABELLED} with follow-up, 2,000 to test. Harrell's C; differences with 95 % "
        "intervals over cohorts. The last column is how many of the eight variables the slide is said to "
        "help to rebuild.",
        "",
        "| rho | late | late, pretrained | truth | pretrained less late | variables |",
        "|---|---|---|---|---|---|",
    ]
    for rho, cell in frame.groupby("rho"):
        means = cell.mean()
        gain = mean_interval(cell["pretrained"] - cell["late"])
        lines.append(
            f"| {rho:g} | {means['late']:.3f} | {means['pretrained']:.3f} | {means['truth']:.3f} | {gain} | "
            f"{means['helped']:.1f} |"
        )
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
