"""Nested fusion beside the other networks on planted cohorts that nothing was chosen on.

    python benchmarks/nested_fusion.py --work-dir work

Every network is trained on five folds with its own recipe (`tiacf models --networks`), which was chosen on
development cohorts. Each cohort is looked at once. Resumed by cohort and network when it is run again; writes
`nested_fusion.md`. About an hour on two cores.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from planted_cohort import truth
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.measuring import evaluate
from tiacrossfusion.evaluation.predictions import FoldPredictions
from tiacrossfusion.explain.attribution import attribute
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.statistics import PAIRS, pair_cells, top_count
from tiacrossfusion.simulation.bags import BagOptions, draw_bag, draw_bags, pattern_direction
from tiacrossfusion.simulation.planted import draw_planted_cohort, slide_rng
from tiacrossfusion.training.config import make_config
from tiacrossfusion.training.judge import fold_predictions
from tiacrossfusion.training.plan import Cohort
from tiacrossfusion.training.run import TrainingRun

#: Networks of the first product cohort; the others have nested fusion and mean pooling.
PEERS = ("nested-fusion", "mean-pool", "crossfusion", "abmil", "dsmil", "transmil")
SHORT = ("nested-fusion", "mean-pool")
SEED, STRENGTH = 4001, 1.5
NULL_SEEDS = range(5001, 5021)

#: Cohorts whose maps are judged, and the tokens that decide there.
MAPS = {
    "colocation, 600, seed 4001": "fine pattern inside a coarse one",
    "product, 600, seed 4001": "fine pattern",
    "fine, 600, seed 4001": "fine pattern",
}

#: Intervals over folds that share patients are too narrow by this factor.
WIDER = float(np.sqrt(1.8))


@dataclass(frozen=True)
class Question:
    """A cohort and the networks that are asked about it."""

    scenario: str
    patients: int = 600
    seed: int = SEED
    networks: tuple[str, ...] = SHORT
    bags: dict[str, Any] = field(default_factory=lambda: {"side": 4})

    @property
    def name(self) -> str:
        """Name of the cohort."""
        more = ", ".join(f"{name} {value}" for name, value in self.bags.items() if name != "side")
        return f"{self.scenario}, {self.patients}, seed {self.seed}" + (f", {more}" if more else "")


QUESTIONS = (
    Question("product", seed=4001, networks=PEERS),
    *(Question("product", seed=seed) for seed in (4002, 4003)),
    *(Question(name) for name in ("coarse", "fine", "sum", "colocation")),
    Question("colocation", patients=150),
    Question("colocation", bags={"side": 4, "tissue": 0.6}),
    Question("neighbour"),
    Question("rare", bags={"side": 4, "auc": 0.99}),
    *(Question(name) for name in ("middle", "middle-coarse", "middle-fine", "middle-inside")),
    Question("three-way"),
    *(
        Question(name, 400, bags={"side": 11, "encoder_width": 512, "nuisance": True})
        for name in ("colocation", "product")
    ),
)


def cohort_of(question: Question, strength: float = STRENGTH) -> tuple[Cohort, pd.DataFrame]:
    """Draw a cohort in memory, and its table with the true log-hazard."""
    options = BagOptions(question.scenario, **question.bags)
    table = draw_planted_cohort(
        question.patients,
        question.seed,
        scenario=question.scenario,
        strength=strength,
        side=options.side,
    )
    bags = draw_bags(table, question.seed, options)
    follow_up = table.set_index("patient")[["time", "event"]].sort_index()
    checked = CohortTable(follow_up, table[["slide", "patient"]], "months", question.name)
    return Cohort(question.scenario, checked, dict(zip(table.slide, bags, strict=True))), table


def ask(work: str, question: Question, model: str) -> dict[str, Any]:
    """Train a network on a cohort; return its predictions' C and how it compares."""
    quiet()
    folder = Path(work) / f"{question.name.replace(', ', '_').replace(' ', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    cohort, _ = cohort_of(question)
    settings = {"time_unit": "months", "models": (model,)}
    run = TrainingRun(folder / model, cohort, make_config(settings, "benchmark"), say=said.append)
    run.fit(model)
    kept = [line.split("kept: ")[1] for line in said if "statistics kept" in line]
    (folder / f"{model}.json").write_text(json.dumps(kept))
    return {}


def answers(
    work: Path, question: Question
) -> tuple[dict[str, list[FoldPredictions]], pd.DataFrame, dict[str, list[str]]]:
    """Read the predictions of all networks, the table and what statistics were kept."""
    folder = work / f"{question.name.replace(', ', '_').replace(' ', '-')}"
    cohort, table = cohort_of(question)
    found, kept = {}, {}
    for model in question.networks:
        settings = {"time_unit": "months", "models": (model,)}
        run = TrainingRun(folder / model, cohort, make_config(settings, "benchmark"))
        found[model] = fold_predictions(run.plan, model)
        kept[model] = json.loads((folder / f"{model}.json").read_text())
    return found, table, kept


def oracle(question: Question, table: pd.DataFrame) -> pd.Series | None:
    """Return what the pattern's directions tell of each patient, where a pattern's place or rarity decides.

    For a pair, the covariance of the projected tokens within the slide; for the rare pattern, the mean of the
    top tokens along it.
    """
    import torch

    from tiacrossfusion.networks.families import Families

    pair = {
        "colocation": "20x inside 5x",
        "neighbour": "20x beside 5x",
        "middle-inside": "10x inside 5x",
    }.get(question.scenario)
    if pair is None and question.scenario != "rare":
        return None
    options = BagOptions(question.scenario, **question.bags)
    values = []
    for bag in draw_bags(table, question.seed, options):
        along = {
            int(scale[:-1]): torch.from_numpy(
                found.features.astype(np.float32) @ pattern_direction(scale, options.encoder_width)
            )[:, None]
            for scale, found in bag.scales.items()
        }
        if pair is None:
            top, _ = along[20].flatten().topk(top_count(len(along[20])))
            values.append(float(top.mean()))
            continue
        grids = [torch.from_numpy(each.grid).long()[None] for each in bag.scales.values()]
        a, b, there = pair_cells(pair, along, along, Families.of(*grids), grids[0])
        a, b = a[there], b[there]
        values.append(float(((a - a.mean()) * (b - b.mean())).mean()))
    return pd.Series(values, index=table.patient)


def with_pattern(bag: FeatureBag, plain: FeatureBag, scale: str) -> np.ndarray:
    """Return which tokens differ from those of the same bag, drawn with a pattern that cannot be told."""
    return (bag.scales[scale].features != plain.scales[scale].features).any(axis=1)


def along(bag: FeatureBag, scale: str) -> np.ndarray:
    """Return how far each token lies along the direction of its pattern, less the slide's mean."""
    features = bag.scales[scale].features.astype(np.float64)
    found = features @ pattern_direction(scale, features.shape[1])
    return found - found.mean()


def found_by_maps(work: Path, name: str) -> tuple[list[float], list[float]]:
    """Return the AUC in each slide of the 20x attribution against the tokens that decide, and of an oracle.

    On test slides of all folds, by each fold's own model, the values ranked within the slide. Of co-location,
    the fine tokens inside cells with the coarse pattern decide; of the product and of "fine", all fine tokens
    with the pattern. The oracle knows the directions: it ranks tokens by what they add to the covariance of
    fine and coarse pattern for co-location, else by the fine pattern.
    """
    question = next(q for q in QUESTIONS if q.name == name)
    options = BagOptions(question.scenario, **question.bags)
    cohort, table = cohort_of(question)
    settings = {"time_unit": "months", "models": ("nested-fusion",)}
    folder = work / f"{question.name.replace(', ', '_').replace(' ', '-')}" / "nested-fusion"
    run = TrainingRun(folder, cohort, make_config(settings, "benchmark"))
    numbers = {patient: number for number, patient in enumerate(table.patient)}
    rows = table.to_dict("records")
    aucs, oracles = [], []
    for fold in run.plan.folds:
        bundle = load_bundle(folder / "nested-fusion" / f"fold-{fold.number}" / "bundle")
        for patient in fold.test[:20]:
            number = numbers[patient]
            bag = cohort.sources[table.slide[number]]
            plain = draw_bag(
                rows[number], slide_rng(question.seed, number), replace(options, auc=0.5)
            )
            decides, adds = with_pattern(bag, plain, "20x"), along(bag, "20x")
            if question.scenario == "colocation":
                cells = bag.scales["5x"].grid.tolist()
                parents = [cells.index(cell) for cell in (bag.scales["20x"].grid // 4).tolist()]
                decides &= with_pattern(bag, plain, "5x")[parents]
                adds *= along(bag, "5x")[parents]
            if 0 < decides.mean() < 1:
                aucs.append(roc_auc_score(decides, attribute(bag, bundle).values["20x"]))  # noqa: PD011 - not of pandas
                oracles.append(roc_auc_score(decides, adds))
    return aucs, oracles


def mean_of(values: list[float]) -> str:
    """Return a mean with its 95 % interval."""
    half = norm.ppf(0.975) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.2f} ({np.mean(values) - half:.2f} to {np.mean(values) + half:.2f})"


def nothing(work: str, seed: int) -> tuple[float, float, float, bool]:
    """Return the C of a cohort with nothing planted, its widened interval, and if statistics were kept."""
    quiet()
    said: list[str] = []
    question = Question("product", 120, seed)
    cohort, _ = cohort_of(question, strength=0.0)
    settings = {"time_unit": "months", "models": ("nested-fusion",), "protocol": {"folds": 5}}
    folder = Path(work) / "nothing" / str(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run = TrainingRun(folder, cohort, make_config(settings, "benchmark"), say=said.append)
    run.fit("nested-fusion")
    predictions = fold_predictions(run.plan, "nested-fusion")
    c = evaluate(predictions, draws=1000).pooled.harrell_c
    low, high = c.value - WIDER * (c.value - c.low), c.value + WIDER * (c.high - c.value)
    return (
        c.value,
        low,
        high,
        any("kept: " in line and not line.endswith("kept: none") for line in said),
    )


def quiet() -> None:
    """One thread a process, and no log lines."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def wider(value: float, low: float, high: float) -> str:
    """Return a difference with its interval, widened because the folds share patients."""
    return f"{value:+.3f} ({value - WIDER * (value - low):+.3f} to {value + WIDER * (high - value):+.3f})"


def rows_of(work: Path, question: Question) -> list[str]:
    """Return the lines of the table of a cohort."""
    found, table, kept = answers(work, question)
    first = found["nested-fusion"]
    best = compare(truth(first, table), first).first.value
    known = oracle(question, table)
    ceiling = best
    text = f"{best:.3f}"
    if known is not None:
        named = table.assign(log_hazard=known.loc[table.patient].to_numpy())
        ceiling = compare(truth(first, named), first).first.value
        text += f", {ceiling:.3f}"
    lines = []
    for model, predictions in found.items():
        pair = compare(first, predictions)
        c = pair.second.value
        difference = (
            ""
            if model == "nested-fusion"
            else wider(*(getattr(pair.difference, n) for n in ("value", "low", "high")))
        )
        names = sorted({part.split(" (")[0] for line in kept[model] for part in line.split("; ")})
        lines.append(
            f"| {question.name} | {text} | {model} | {c:.3f} | {(c - 0.5) / (best - 0.5):.0%}"
            f"{f', {(c - 0.5) / (ceiling - 0.5):.0%}' if known is not None else ''} | {difference} | "
            f"{', '.join(names)} |"
        )
    return lines


def pooled(work: Path) -> list[str]:
    """Return the lines on the three product cohorts together."""
    questions = [q for q in QUESTIONS if q.scenario == "product" and q.patients == 600]
    together: dict[str, list[FoldPredictions]] = {model: [] for model in SHORT}
    for number, question in enumerate(questions):
        found = answers(work, question)[0]
        for model in SHORT:
            together[model] += [
                FoldPredictions(
                    **{
                        **{name: getattr(fold, name) for name in fold.__dataclass_fields__},
                        "fold": fold.fold + 10 * number,
                        "patients": tuple(f"{number}-{patient}" for patient in fold.patients),
                    }
                )
                for fold in found[model]
            ]
    lines = []
    for model in SHORT[1:]:
        pair = compare(together["nested-fusion"], together[model])
        d = pair.difference
        figures = f"{pair.first.value:.3f} | {pair.second.value:.3f}"
        lines.append(f"| {model} | {figures} | {wider(d.value, d.low, d.high)} |")
    return lines


def report(work: Path, null: list[tuple[float, float, float, bool]]) -> str:
    """Return the Markdown page."""
    values = np.array([value for value, *_ in null])
    covered = sum(low <= 0.5 <= high for _, low, high, _ in null)
    half = norm.ppf(0.975) * values.std(ddof=1) / np.sqrt(len(values))
    lines = [
        "# Nested fusion on planted cohorts",
        "",
        "Made by `nested_fusion.py`: bags of 16 / 64 / 256 tokens at 5x / 10x / 20x, E = 32, unless said; "
        "one token's pattern is told from noise with AUC 0.95 unless said; log-hazard SD 1.5, a third "
        "censored. Five folds by patient, each network with its own recipe, chosen on cohorts with seeds "
        "1001 and 2001 to 2003. Differences: 95 %, bootstrap of patients within folds, paired, widened by "
        "sqrt(1.8) because the folds share patients. Seeds 4001 to 4003 were looked at once.",
        "",
        "## Three product cohorts of 600 together",
        "",
        "| network | C of nested fusion | C of this | nested fusion less this |",
        "|---|---|---|---|",
        *pooled(work),
        "",
        "## All cohorts",
        "",
        "`true`: C of the true hazard, and of the oracle that knows the directions where a pattern's place "
        "or rarity decides. `way`: from 0.5 to these.",
        "",
        "| cohort | true | network | C | way | nested fusion less this | statistics kept in any fold |",
        "|---|---|---|---|---|---|---|",
    ]
    for question in QUESTIONS:
        lines += rows_of(work, question)
    lines += [
        "",
        "## Maps",
        "",
        "AUC of the attribution of 20x tokens against those that decide, within slides of the test patients "
        "(20 of each fold), mean with 95 % interval over slides. The oracle knows the patterns' directions, "
        "and ranks tokens by the fine pattern, or for co-location by what they add to the covariance of fine "
        "and coarse pattern, on which the risk depends there: pairs without either pattern add to it, too.",
        "",
        "| cohort | tokens that decide | AUC of the map | of the oracle |",
        "|---|---|---|---|",
    ]
    for name, decides in MAPS.items():
        of_map, of_oracle = found_by_maps(work, name)
        lines.append(f"| {name} | {decides} | {mean_of(of_map)} | {mean_of(of_oracle)} |")
    kept = sum(flag for *_, flag in null)
    lines += [
        "",
        "## Nothing planted",
        "",
        f"{len(null)} cohorts of 120 patients, log-hazard SD 0, five folds: mean pooled C of nested fusion "
        f"{values.mean():.3f} ({values.mean() - half:.3f} to {values.mean() + half:.3f} over "
        f"cohorts); single cohorts from {values.min():.3f} to {values.max():.3f}. The widened 95 % interval "
        f"of {covered} covers 0.5. Statistics were kept in "
        f"any fold of {kept} of {len(null)} cohorts.",
        "",
        f"Statistics look at {', '.join(PAIRS)}, and at rare 20x patterns.",
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--work-dir", type=Path, required=True)
@click.option("--processes", default=2, show_default=True)
def main(work_dir: Path, processes: int) -> None:
    """Train what is missing and write the page."""
    work_dir.mkdir(parents=True, exist_ok=True)
    store = work_dir / "nothing.json"
    null = json.loads(store.read_text()) if store.exists() else {}
    with ProcessPoolExecutor(processes) as pool:
        # The slow networks come last.
        jobs = {
            (question.name, model): pool.submit(ask, str(work_dir), question, model)
            for question, model in sorted(
                ((q, m) for q in QUESTIONS for m in q.networks),
                key=lambda asked: asked[1] not in SHORT,
            )
        }
        nulls = {
            seed: pool.submit(nothing, str(work_dir), seed)
            for seed in NULL_SEEDS
            if str(seed) not in null
        }
        for name, job in jobs.items():
            job.result()
            click.echo(" ".join(name))
        for seed, of_nothing in nulls.items():
            null[str(seed)] = of_nothing.result()
            store.write_text(json.dumps(null))
    page = report(work_dir, [tuple(null[str(seed)]) for seed in NULL_SEEDS])
    Path(__file__).with_suffix(".md").write_text(page)


if __name__ == "__main__":
    main()
