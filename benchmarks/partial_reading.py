"""The risk from a part of the families: errors, C and intervals, on planted cohorts.

    python benchmarks/partial_reading.py --work-dir work [--seeds 5]

A network is trained on 400 patients of each cohort (a fifth of them held back for early stopping and for
intervals) and judged on 200 others. Resumed by cohort when it is run again; writes `partial_reading.md`.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from lifelines.utils import concordance_index
from partial_cohorts import Planted, draw, one_thread, train_holdout

from tiacrossfusion.inference.estimate import (
    from_coarse_alone,
    from_imputed,
    from_sample,
    half_width,
    shrunken,
)
from tiacrossfusion.inference.families import FamilyTable
from tiacrossfusion.inference.sampling import balanced_order, families_for, rounds
from tiacrossfusion.inference.stopping import is_certain
from tiacrossfusion.training.from_coarse import fit_from_coarse, focus_target

KINDS = (
    Planted("diffuse", 0.5),
    Planted("diffuse", 0.0),
    Planted("colocation", 0.5),
    Planted("rare", 0.9),
    Planted("rare", 0.5),
    Planted("rare", 0.0),
)
BUDGETS = (0.05, 0.1, 0.25, 0.5)
DRAWS, PATIENTS, FIRST_SEED = 20, 600, 8100
METHODS = (
    "random",
    "random, difference",
    "difference",
    "focus, imputed",
    "5x alone",
    "difference, shrunken",
)


def ask(work: Path, model: str, question: tuple[Planted, int]) -> dict[str, Any]:
    """Train, fit and judge on one cohort."""
    planted, seed = question
    place = work / f"{model}-{planted.folder(seed)}"
    done = place / "found.json"
    if done.exists():
        return json.loads(done.read_text())
    one_thread()
    cohort, table = draw(planted, PATIENTS, seed)
    bundle, fold = train_holdout(place / "run", cohort, model, 1 / 3)
    read = {name: partial(bundle.tokens, bag) for name, bag in cohort.sources.items()}
    fitted = fit_from_coarse(
        bundle.network, [read[p] for p in fold.train], [read[p] for p in fold.validation]
    )
    found = judge(bundle, fitted, {p: read[p] for p in fold.test}, table.set_index("patient"), seed)
    place.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(found))
    return found


@torch.no_grad()
def judge(bundle: Any, fitted: Any, read: Any, truth: Any, seed: int) -> dict[str, Any]:
    """Return errors, C, coverage and stopping of the test slides."""
    reference = bundle.config.risk_reference
    sd = reference.sd
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    whole = []
    risks = {(m, b): [] for m in METHODS for b in BUDGETS}
    inside = {(k, b): [] for k in ("t", "calibrated") for b in BUDGETS}
    recall = {b: [] for b in BUDGETS}
    width_stop, group_stop = [], []
    for name in read:
        slide = FamilyTable.of(bundle.network, read[name]())
        expected, nothing = slide.expected(fitted), slide.expected(None)
        risk = slide.risk((slide.sums.sum(dim=0) / slide.totals)[None])[0]
        whole.append(float(risk))
        alone = from_coarse_alone(slide, expected).risk
        order = slide.by_focus(fitted)
        top = set(focus_target(slide).topk(max(1, len(slide) // 10)).indices.tolist())
        for budget in BUDGETS:
            n = families_for(budget, len(slide))
            rows = torch.stack(
                [torch.randperm(len(slide), generator=generator)[:n] for _ in range(DRAWS)]
            )
            spread = np.stack([balanced_order(slide.curve.numpy(), rng)[:n] for _ in range(DRAWS)])
            difference = from_sample(slide, expected, torch.from_numpy(spread))
            risks["random", budget].append(from_sample(slide, nothing, rows).risk)
            risks["random, difference", budget].append(from_sample(slide, expected, rows).risk)
            risks["difference", budget].append(difference.risk)
            risks["difference, shrunken", budget].append(
                shrunken(difference.risk, difference.se, alone, fitted)
            )
            risks["focus, imputed", budget].append(
                from_imputed(slide, expected, order[None, :n]).risk.expand(DRAWS)
            )
            risks["5x alone", budget].append((alone + fitted.bias).expand(DRAWS))
            for kind, calibration in (("t", None), ("calibrated", fitted)):
                width = torch.tensor(
                    [half_width(float(s), n, n / len(slide), calibration) for s in difference.se]
                )
                inside[kind, budget].append(((difference.risk - risk).abs() <= width).float())
            recall[budget].append(len(top & set(order[:n].tolist())) / len(top))
        for stops, until in ((width_stop, 0.25), (group_stop, "group")):
            for _ in range(5):
                order_ = torch.from_numpy(balanced_order(slide.curve.numpy(), rng))
                looks = rounds(len(slide), len(slide))
                for n in looks:
                    now = from_sample(slide, expected, order_[None, :n])
                    if n == len(slide) or is_certain(
                        float(now.risk),
                        float(now.se),
                        n,
                        len(slide),
                        until,
                        fitted,
                        reference,
                        len(looks),
                    ):
                        break
                if until == "group":
                    same = (
                        reference.group(float(now.risk)).name == reference.group(float(risk)).name
                    )
                    stops.append((n / len(slide), not same))
                else:
                    stops.append((n / len(slide), float(abs(now.risk - risk)) > 0.25 * sd))
    patients = truth.loc[list(read)]

    def c(values: np.ndarray) -> float:
        return float(concordance_index(patients.time, -values, patients.event))

    true = np.array(whole)
    found: dict[str, Any] = {"sd": sd, "c": c(true)}
    for (method, budget), values in risks.items():
        each = torch.stack(values).numpy()  # (slides, draws)
        found[f"{method} {budget}"] = {
            "rmse": float(np.sqrt(((each - true[:, None]) ** 2).mean()) / sd),
            "c": float(np.mean([c(each[:, d]) for d in range(DRAWS)])),
        }
    for (kind, budget), values in inside.items():
        found[f"coverage {kind} {budget}"] = float(torch.stack(values).mean())
    found["recall"] = {str(b): float(np.mean(v)) for b, v in recall.items()}
    for name, stops in (("until .25", width_stop), ("until group", group_stop)):
        share, wrong = zip(*stops, strict=True)
        found[name] = {"share": float(np.mean(share)), "wrong": float(np.mean(wrong))}
    return found


def interval(values: list[float], digits: int = 3) -> str:
    """Return the mean over cohorts, with its 95 % t interval."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def written(results: dict[Planted, list[dict[str, Any]]], model: str, seeds: int) -> str:
    """Return the tables."""
    lines = [
        f"## {model}",
        "",
        f"{seeds} cohorts a row, 400 patients for training, 200 for testing; means over cohorts ± half a "
        "95 % interval. RMSE of the risk in standard deviations of the training risks, by the share of "
        "families read. Nothing was chosen on these cohorts.",
        "",
        "| cohort | method | .05 | .1 | .25 | .5 | C less that of all, .1 | .25 "
        "| C less that of difference, .1 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for planted, found in results.items():
        for method in METHODS:
            cells = [interval([f[f"{method} {b}"]["rmse"] for f in found]) for b in BUDGETS]
            lost = [
                interval([f[f"{method} {b}"]["c"] - f["c"] for f in found]) for b in (0.1, 0.25)
            ]
            lines.append(f"| {planted.name} | {method} | {' | '.join(cells + lost)} |")
    lines += [
        "",
        "Share of 95 % intervals of the difference estimator that hold the risk from all families; share of "
        "the families of highest attribution (a tenth) among those chosen by focus.",
        "",
        "| cohort | intervals | .05 | .1 | .25 | .5 |",
        "|---|---|---|---|---|---|",
    ]
    for planted, found in results.items():
        for kind in ("t", "calibrated"):
            cells = [interval([f[f"coverage {kind} {b}"] for f in found]) for b in BUDGETS]
            lines.append(f"| {planted.name} | {kind} | {' | '.join(cells)} |")
        cells = [interval([f["recall"][str(b)] for f in found], 2) for b in BUDGETS]
        lines.append(f"| {planted.name} | recall by focus | {' | '.join(cells)} |")
    lines += [
        "",
        "Reading until the half-width is .25 SD, and until the group is certain: share of families read, and "
        "share of slides whose risk from all families lies beyond .25 SD, or in another group.",
        "",
        "| cohort | until .25: read | missed | until group: read | wrong |",
        "|---|---|---|---|---|",
    ]
    for planted, found in results.items():
        cells = [
            interval([f[u][k] for f in found])
            for u in ("until .25", "until group")
            for k in ("share", "wrong")
        ]
        lines.append(f"| {planted.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@click.command(help=__doc__)
@click.option("--work-dir", type=Path, required=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--first-seed", default=FIRST_SEED, show_default=True)
@click.option("--model", "models", multiple=True, default=("nested-fusion", "mean-pool", "abmil"))
@click.option("--output", type=Path, default=Path(__file__).with_suffix(".md"))
def main(
    work_dir: Path, seeds: int, first_seed: int, models: tuple[str, ...], output: Path
) -> None:
    """Ask all questions, two at a time."""
    text = "# The risk from a part of the families\n\nMade by `benchmarks/partial_reading.py`.\n"
    for model in models:
        questions = [(kind, first_seed + i) for kind in KINDS for i in range(seeds)]
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            answers = list(pool.map(partial(ask, work_dir, model), questions))
        results = {kind: answers[i * seeds : (i + 1) * seeds] for i, kind in enumerate(KINDS)}
        text += "\n" + written(results, model, seeds)
        output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
