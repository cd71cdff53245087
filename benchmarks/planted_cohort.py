"""Models on simulated cohorts whose true hazard is known: same bags, folds and seeds for all.

    python benchmarks/planted_cohort.py --work-dir work > benchmarks/planted_cohort.md

Four parts, each resumed by model and fold when it is run again:

1. Search: each model tries the same few recipes on a development cohort of another seed. The recipe with
   the best C-index on the validation patients of one fold is taken; test patients are not looked at.
2. Product: 600 patients, 5-fold nested, with the recipe found.
3. Nothing planted: 20 small cohorts in which survival does not depend on the slide.
4. Co-location: as 2 with 300 patients, where only the position of the fine pattern matters.

About an hour on two cores, one process each.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm import tqdm

from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.networks.registry import NETWORKS
from tiacrossfusion.simulation.bags import BagOptions, draw_bags
from tiacrossfusion.simulation.planted import draw_planted_cohort
from tiacrossfusion.survival import TimeBins
from tiacrossfusion.training.config import make_config
from tiacrossfusion.training.judge import fold_predictions
from tiacrossfusion.training.plan import Cohort, make_plan
from tiacrossfusion.training.run import TrainingRun

SIDE, WIDTH, AUC, STRENGTH = 4, 32, 0.95, 1.5
PATIENTS = {"product": 600, "colocation": 300}
DEVELOPMENT_SEED, COHORT_SEED, NULL_SEEDS = 1001, 1, range(2001, 2021)

#: Shared by all models and all parts.
SETTINGS: dict[str, Any] = {
    "time_unit": "months",
    "recipe": "paper",
    "network": {"embed_dim": 32, "attention_dropout": 0.0},
    "fitting": {"epochs": 25, "warm_up": 3, "patience": 7, "monitor": "c-index"},
}
#: What the search tries: loss, learning rate and dropout.
RECIPES = {
    f"{loss}, {rate:g}, {dropout:g}": {"loss": loss, "learning_rate": rate, "dropout": dropout}
    for loss, rate, dropout in itertools.product(("nll", "cox"), (1e-3, 3e-3), (0.1,))
}


def simulated(
    scenario: str, patients: int, seed: int, side: int, strength: float
) -> tuple[Cohort, pd.DataFrame]:
    """A cohort in memory, and its table with the true log-hazard."""
    table = draw_planted_cohort(patients, seed, scenario=scenario, strength=strength, side=side)
    bags = draw_bags(table, seed, BagOptions(scenario, encoder_width=WIDTH, side=side, auc=AUC))
    follow_up = table.set_index("patient")[["time", "event"]].sort_index()
    checked = CohortTable(
        follow_up, table[["slide", "patient"]], "months", f"{scenario} {patients} {seed} {side}"
    )
    return Cohort(scenario, checked, dict(zip(table.slide, bags, strict=True))), table


def settings(model: str, recipe: dict[str, Any], protocol: dict[str, Any], **fitting: Any) -> Any:
    """Configuration of one model."""
    network = SETTINGS["network"] | {"dropout": recipe["dropout"]}
    # Cox's loss compares the patients of a step with each other, and is given more of them.
    step = {"patients_per_step": 32 if recipe["loss"] == "cox" else 16}
    chosen = {name: recipe[name] for name in ("loss", "learning_rate")}
    return make_config(
        {
            **SETTINGS,
            "models": (model,),
            "protocol": protocol,
            "network": network,
            "fitting": SETTINGS["fitting"] | step | chosen | fitting,
        },
        "benchmark",
    )


def search(work: str, model: str, name: str) -> tuple[str, str, float]:
    """Best validation C of a recipe on the development cohort."""
    quiet()
    cohort, _ = simulated("product", PATIENTS["product"], DEVELOPMENT_SEED, SIDE, STRENGTH)
    folder = Path(work) / "search" / f"{model}-{name.replace(', ', '-')}"
    run = TrainingRun(folder, cohort, settings(model, RECIPES[name], {"protocol": "holdout"}))
    run.fit(model)
    curve = pd.read_csv(folder / model / "fold-0" / "metrics.csv")
    return model, name, float(curve.val_c.max())


def nested(work: str, scenario: str, model: str, recipe: dict[str, Any]) -> None:
    """Train a model on the folds of a cohort."""
    quiet()
    cohort, _ = simulated(scenario, PATIENTS[scenario], COHORT_SEED, SIDE, STRENGTH)
    TrainingRun(Path(work) / scenario / model, cohort, settings(model, recipe, {"folds": 5})).fit(
        model
    )


def nothing(work: str, seed: int, model: str, recipe: dict[str, Any]) -> tuple[str, float]:
    """Mean C within the folds of a small cohort in which nothing is planted."""
    quiet()
    cohort, _ = simulated("product", 120, seed, 2, 0.0)
    run = TrainingRun(
        Path(work) / "nothing" / f"{model}-{seed}",
        cohort,
        settings(model, recipe, {"folds": 2}, epochs=6, warm_up=1, patience=3),
    )
    run.fit(model)
    return model, evaluate(fold_predictions(run.plan, model), draws=100).harrell_c_mean


def quiet() -> None:
    """One thread a process, and no log lines."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def truth(folds: list[FoldPredictions], table: pd.DataFrame) -> list[FoldPredictions]:
    """The true hazard as a model, on the same patients and folds."""
    hazard = table.set_index("patient").log_hazard
    found = []
    for fold in folds:
        risks = hazard.loc[list(fold.patients)].to_numpy()
        found.append(
            FoldPredictions(
                fold=fold.fold,
                patients=fold.patients,
                times=fold.times,
                events=fold.events,
                risks=risks,
                survival=np.full((len(risks), 1), 0.5),
                high=risks > 0,
                bins=TimeBins(edges=(0.0, fold.bins.edges[-1]), unit=fold.bins.unit),
                training_times=fold.training_times,
                training_events=fold.training_events,
            )
        )
    return found


def table_of(work: Path, scenario: str, chosen: dict[str, str]) -> Iterator[str]:
    """Lines of the table of a cohort."""
    cohort, table = simulated(scenario, PATIENTS[scenario], COHORT_SEED, SIDE, STRENGTH)
    folds = {
        model: fold_predictions(
            make_plan(
                work / scenario / model,
                cohort,
                settings(model, RECIPES[chosen[model]], {"folds": 5}),
            ),
            model,
        )
        for model in NETWORKS.names()
    }
    first = folds["crossfusion"]
    best = compare(truth(first, table), first)
    events = int(cohort.table.patients.event.sum())
    yield (
        f"{len(cohort.table.patients)} patients, {events} events. Harrell's C of the true hazard, pairs "
        f"within a fold: **{best.first.value:.3f}** ({best.first.low:.3f} to {best.first.high:.3f})."
    )
    yield ""
    yield "| model | C out of fold | way from 0.5 to the true hazard | CrossFusion less this | p |"
    yield "|---|---|---|---|---|"
    for model, predictions in folds.items():
        pair = compare(first, predictions)
        c, d = pair.second, pair.difference
        way = (c.value - 0.5) / (best.first.value - 0.5)
        difference = (
            "" if model == "crossfusion" else f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
        )
        p = "" if model == "crossfusion" else f"{pair.p:.2g}"
        yield (
            f"| {model} | {c.value:.3f} ({c.low:.3f} to {c.high:.3f}) | {way:.0%} | {difference} | {p} |"
        )


def report(work: Path, found: dict[str, dict[str, float]], null: dict[str, list[float]]) -> str:
    """The Markdown page."""
    chosen = {model: max(scores, key=scores.__getitem__) for model, scores in found.items()}
    lines = [
        "# Models on cohorts with a planted hazard",
        "",
        f"Made by `planted_cohort.py`: bags of {SIDE**2} / {4 * SIDE**2} / {16 * SIDE**2} tokens at "
        f"5x / 10x / 20x, E = {WIDTH}; one token's pattern is told from noise with AUC {AUC}; log-hazard "
        f"SD {STRENGTH}; a third censored. 5-fold nested by patient. Intervals: 95 %, bootstrap of "
        'patients within folds, paired for differences. Names without "-20x" read all three scales.',
        "",
        "## Recipes",
        "",
        f"Chosen for each model among the same {len(RECIPES)} (loss, learning rate, dropout) by the "
        f"C-index of the validation patients of one fold of a development cohort (seed "
        f"{DEVELOPMENT_SEED}) that is used nowhere else. The rest of the settings is the same for all: D = "
        "32, AdamW, at most 25 epochs.",
        "",
        "| model | " + " | ".join(RECIPES) + " |",
        "|---" * (len(RECIPES) + 1) + "|",
    ]
    for model, scores in found.items():
        cells = [
            f"**{scores[name]:.3f}**" if name == chosen[model] else f"{scores[name]:.3f}"
            for name in RECIPES
        ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    lines += ["", "## Product of the 5x and the 20x burden", "", *table_of(work, "product", chosen)]
    corrected = norm.ppf(1 - 0.05 / (2 * len(null)))
    lines += [
        "",
        "## Nothing planted",
        "",
        f"{len(NULL_SEEDS)} cohorts of 120 patients, log-hazard SD 0, 2 folds; C within folds, averaged, "
        f"then mean over cohorts with its interval (95 %, Bonferroni-corrected for {len(null)} models: "
        f"{corrected:.2f} standard errors).",
        "",
        "| model | mean C | interval | covers 0.5 |",
        "|---|---|---|---|",
    ]
    for model, values in null.items():
        mean = float(np.mean(values))
        half = corrected * float(np.std(values, ddof=1)) / np.sqrt(len(values))
        covers = "yes" if abs(mean - 0.5) <= half else "**no**"
        lines.append(
            f"| {model} | {mean:.3f} | {mean - half:.3f} to {mean + half:.3f} | {covers} |"
        )
    lines += [
        "",
        "## Co-location",
        "",
        "Both burdens are the same for everyone; what counts is the share of the fine pattern that lies "
        "inside the coarse one. No network here knows where a 5x or a 20x token lies.",
        "",
        *table_of(work, "colocation", chosen),
    ]
    return "\n".join(lines)


@click.command()
@click.option("--work-dir", type=Path, required=True, help="Where runs are kept between calls.")
@click.option("--processes", default=2, show_default=True)
def main(work_dir: Path, processes: int) -> None:
    """Run the four parts and print the page."""
    work = str(work_dir)
    found: dict[str, dict[str, float]] = {model: {} for model in NETWORKS.names()}
    null: dict[str, list[float]] = {model: [] for model in NETWORKS.names()}
    kept = work_dir / "search.json"
    work_dir.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        if kept.is_file():
            found = json.loads(kept.read_text())
        else:
            jobs = [
                pool.submit(search, work, model, name)
                for model in NETWORKS.names()
                for name in RECIPES
            ]
            for job in tqdm(jobs, desc="Search"):
                model, name, score = job.result()
                found[model][name] = score
            kept.write_text(json.dumps(found, indent=1))
        recipe = {
            model: RECIPES[max(found[model], key=found[model].__getitem__)] for model in found
        }
        for scenario in ("product", "colocation"):
            jobs = [
                pool.submit(nested, work, scenario, model, recipe[model])
                for model in NETWORKS.names()
            ]
            for job in tqdm(jobs, desc=scenario):
                job.result()
        jobs = [
            pool.submit(nothing, work, seed, model, recipe[model])
            for model in NETWORKS.names()
            for seed in NULL_SEEDS
        ]
        for job in tqdm(jobs, desc="Nothing planted"):
            model, score = job.result()
            null[model].append(score)
    click.echo(report(work_dir, found, null))


if __name__ == "__main__":
    main()
