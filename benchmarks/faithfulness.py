"""Are the scores of tokens faithful? Planted cohorts, where the tokens that decide are known.

    python benchmarks/faithfulness.py --work-dir work > benchmarks/faithfulness.md

Takes the models that `planted_cohort.py` trained on the product cohort, in the same folder, and the test
patients of their first fold. A missing fold is trained first.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pandas as pd
from planted_cohort import (
    AUC,
    COHORT_SEED,
    PATIENTS,
    RECIPES,
    SIDE,
    STRENGTH,
    WIDTH,
    quiet,
    settings,
    simulated,
)

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.evaluation.faithfulness import Faithfulness, faithfulness
from tiacrossfusion.evaluation.scores import Estimate
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.registry import NETWORKS
from tiacrossfusion.simulation.bags import BagOptions, draw_bag
from tiacrossfusion.simulation.planted import slide_rng
from tiacrossfusion.training.plan import Cohort
from tiacrossfusion.training.run import TrainingRun

SCENARIO, SHARE = "product", 0.1


def pattern(table: pd.DataFrame, number: int, bag: FeatureBag) -> dict[str, np.ndarray]:
    """Tokens with the pattern: those that differ from the same bag drawn with an AUC of 0.5."""
    row = table.to_dict("records")[number]
    plain = draw_bag(row, slide_rng(COHORT_SEED, number), BagOptions("product", WIDTH, SIDE, 0.5))
    return {
        scale: (bag.scales[scale].features != plain.scales[scale].features).any(axis=1)
        for scale in ("5x", "20x")
    }


def measure(
    work: Path, model: str, cohort: Cohort, table: pd.DataFrame, slides: int
) -> Faithfulness:
    """Measure one model on test patients of its first fold."""
    found = json.loads((work / "search.json").read_text())[model]
    recipe = RECIPES[max(found, key=found.__getitem__)]
    run = TrainingRun(work / SCENARIO / model, cohort, settings(model, recipe, {"folds": 5}))
    run.fit(model)
    bundle = load_bundle(work / SCENARIO / model / model / "fold-0" / "bundle")
    test = set(run.plan.folds[0].test)
    numbers = [n for n, patient in enumerate(table.patient) if patient in test][:slides]
    bags = [cohort.sources[table.slide[number]] for number in numbers]
    regions = [pattern(table, n, bag) for n, bag in zip(numbers, bags, strict=True)]
    return faithfulness(bags, bundle, regions=regions)


def said(figure: Estimate) -> str:
    """A figure with its interval."""
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


@click.command()
@click.option("--work-dir", type=Path, required=True, help="That of planted_cohort.py.")
@click.option("--slides", default=40, show_default=True, help="Test slides of each model.")
@click.option("--models", default=",".join(NETWORKS.names()), show_default=True)
def main(work_dir: Path, slides: int, models: str) -> None:
    """Measure the models and print the page."""
    quiet()
    cohort, table = simulated(SCENARIO, PATIENTS[SCENARIO], COHORT_SEED, SIDE, STRENGTH)
    click.echo(
        "# Faithfulness of the scores of tokens\n\n"
        f"Made by `faithfulness.py`: cohort and models of `planted_cohort.py` ({SCENARIO} of the 5x and "
        f"the 20x burden), first fold, {slides} test slides. One token's pattern is told from noise with "
        f"AUC {AUC}, which no score of single tokens can be expected to beat by far.\n\n"
        f'"Ratio": mean size of the change of the risk when the {SHARE:.0%} of the tokens of a scale at '
        "that end of the score are deleted, by the same for as many tokens at random; 1 is chance. "
        '"Change": with its sign. "AUC": of the score against the planted tokens; 0.5 is chance, below '
        "it the score avoids them. Intervals: 95 %, bootstrap over slides.\n"
    )
    for model in models.split(","):
        figures = measure(work_dir, model, cohort, table, slides)
        aucs = {(row.score, row.scale): row.auc for row in figures.regions}
        click.echo(
            f"## {model}\n\n| score | deleted | ratio | change | AUC |\n|---|---|---|---|---|"
        )
        for row in figures.deletions:
            if row.share == SHARE:
                area = aucs.get((row.score, row.scale)) if row.end == "highest" else None
                click.echo(
                    f"| {row.score} | {row.end} of {row.scale} | {said(row.ratio)} | "
                    f"{row.direction.value:+.3f} | {'' if area is None else said(area)} |"
                )
        click.echo("")


if __name__ == "__main__":
    main()
