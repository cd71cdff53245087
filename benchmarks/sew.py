"""SEW's own pieces as a reference: learnt end to end, it reads the families of highest score and no others.

    python benchmarks/sew.py --work-dir work [--cohorts 4]     # about 25 minutes

The translation of Luo et al. (IJCAI 2025) to bags of 5x, 10x and 20x, in our own equations, since the paper's
are not all known: a global branch on 5x with hazards of its own, a score of each family, and a detail branch
that reads all 5x tokens and what is inside the families of the highest scores, a share of .1. Gates are soft
in the first half of the epochs, then hard with a straight-through gradient. The loss is

    L = NLL_detail + 0.5 NLL_global + 0.1 (1 - cos(P z_global, z_detail)) + BCE(score, target)
        + 2 (mean score - .1)^2

with targets 1 for the tenth of families of highest attribution of a trained mean pooling. It is compared on
the same cohorts with what the product does with that mean pooling. Writes benchmarks/sew.md.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lifelines.utils import concordance_index
from partial_cohorts import WIDTH, Planted, draw, one_thread, train_holdout
from scipy.stats import t as student
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cosine_similarity

from tiacrossfusion.inference.estimate import from_coarse_alone, from_imputed, from_sample
from tiacrossfusion.inference.families import FamilyTable
from tiacrossfusion.inference.sampling import balanced_order, families_for
from tiacrossfusion.networks.pooling import family_rows
from tiacrossfusion.survival.losses import nll_loss
from tiacrossfusion.survival.time_bins import quantile_bins
from tiacrossfusion.training.from_coarse import fit_from_coarse, focus_target

OUT = Path(__file__).with_suffix(".md")
KINDS = (Planted("diffuse", 0.5), Planted("rare", 0.5))
PATIENTS, FIRST_SEED, BUDGET, BINS, DIM, EPOCHS = 600, 9700, 0.1, 4, 32, 24
ROWS = {
    "whole": "mean pooling, all families",
    "difference": "random families and difference estimator (the product)",
    "focus": "families by focus, the others imputed (the product)",
    "coarse": "5x alone, imputed (the product)",
    "sew": "SEW, end to end",
    "sew_no_consistency": "SEW without its consistency term",
    "sew_all": "SEW's detail branch, all families read",
    "sew_global": "SEW's global branch",
    "greedy": "mean pooling, families by focus, without weights",
}


class Sew(nn.Module):
    """Global branch, score of families, and detail branch."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.global5 = nn.Linear(WIDTH, DIM)
        self.attend = nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, 1))
        self.global_head = nn.Linear(DIM, BINS)
        self.focus = nn.Sequential(nn.Linear(DIM, DIM), nn.GELU(), nn.Linear(DIM, 1))
        self.embed = nn.ModuleDict({s: nn.Linear(WIDTH, DIM) for s in ("5x", "10x", "20x")})
        self.detail = nn.Sequential(nn.Linear(3 * DIM, DIM), nn.ReLU(), nn.Dropout(0.1))
        self.detail_head = nn.Linear(DIM, BINS)
        self.shared = nn.Linear(DIM, DIM)

    def forward(self, slide: dict[str, Tensor], gates: str) -> tuple[Tensor, ...]:
        """Return hazards of detail and global branch (1, K), scores (F,), and both pooled vectors."""
        h = torch.relu(self.global5(slide["x5"]))
        z_global = torch.softmax(self.attend(h), 0).T @ h
        score = torch.sigmoid(self.focus(h))[:, 0]
        hard = torch.zeros_like(score)
        hard[score.topk(families_for(BUDGET, len(score))).indices] = 1
        gate = {
            "soft": score,
            "hard": hard + score - score.detach(),
            "all": torch.ones_like(score),
        }[gates]
        means = [torch.relu(self.embed["5x"](slide["x5"])).mean(0)]
        for scale in ("10x", "20x"):
            weight = gate[slide[f"of{scale}"]]
            tokens = torch.relu(self.embed[scale](slide[f"x{scale[:-1]}"]))
            means.append(weight @ tokens / weight.sum().clamp(min=1e-6))
        z_detail = self.detail(torch.cat(means))[None]
        hazards = [
            torch.sigmoid(x) for x in (self.detail_head(z_detail), self.global_head(z_global))
        ]
        return (*hazards, score, z_global, z_detail)


def fit(
    slides: list[dict[str, Tensor]], bins: Tensor, events: Tensor, seed: int, consistency: float
) -> Sew:
    """Train end to end."""
    torch.manual_seed(seed)
    model = Sew()
    inputs = [model.global5.weight, *(layer.weight for layer in model.embed.values())]
    others = [p for p in model.parameters() if all(p is not w for w in inputs)]
    groups = [{"params": inputs, "weight_decay": 15.0}, {"params": others, "weight_decay": 1e-2}]
    optimiser = torch.optim.AdamW(groups, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for epoch in range(EPOCHS):
        model.train()
        for part in torch.randperm(len(slides)).split(32):
            optimiser.zero_grad()
            for i in part.tolist():
                detail, coarse, score, z_global, z_detail = model(
                    slides[i], "soft" if 2 * epoch < EPOCHS else "hard"
                )
                target = bins[i : i + 1], events[i : i + 1]
                loss = nll_loss(detail, *target) + 0.5 * nll_loss(coarse, *target)
                loss = loss + consistency * (
                    1 - cosine_similarity(model.shared(z_global), z_detail.detach()).mean()
                )
                loss = loss + binary_cross_entropy(score, slides[i]["target"])
                loss = loss + 2 * (score.mean() - BUDGET) ** 2
                (loss / len(part)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        schedule.step()
    return model.eval()


def ask(work: Path, question: tuple[Planted, int]) -> dict[str, float]:
    """Return C on the test patients of one cohort, by row."""
    planted, seed = question
    place = work / planted.folder(seed)
    done = place / "found.json"
    if done.exists():
        return json.loads(done.read_text())
    one_thread()
    cohort, truth = draw(planted, PATIENTS, seed)
    bundle, fold = train_holdout(place / "run", cohort, "mean-pool", 1 / 3)
    read = {name: partial(bundle.tokens, bag) for name, bag in cohort.sources.items()}
    fitted = fit_from_coarse(
        bundle.network, [read[p] for p in fold.train], [read[p] for p in fold.validation]
    )
    frame = truth.set_index("patient")
    risks: dict[str, list[float]] = {row: [] for row in ROWS}
    rng = np.random.default_rng(seed)
    prepared = {name: _prepared(bundle.network, read[name]()) for name in read}
    with torch.no_grad():
        for name in fold.test:
            table = FamilyTable.of(bundle.network, read[name]())
            expected, n = table.expected(fitted), families_for(BUDGET, len(table))
            order = table.by_focus(fitted)[None, :n]
            drawn = torch.from_numpy(balanced_order(table.curve.numpy(), rng)[None, :n].copy())
            risks["whole"].append(float(table.risk(table.means)))
            risks["difference"].append(float(from_sample(table, expected, drawn).risk))
            risks["focus"].append(float(from_imputed(table, expected, order).risk))
            risks["coarse"].append(float(from_coarse_alone(table, expected).risk))
            risks["greedy"].append(float(from_sample(table, table.expected(None), order).risk))
    learn = [*fold.train, *fold.validation]
    follow = frame.loc[learn]
    edges = quantile_bins(follow.time.to_numpy(), follow.event.to_numpy(), BINS, "months")
    bins = torch.as_tensor(edges.index(follow.time.to_numpy()))
    events = torch.as_tensor(follow.event.to_numpy())
    for row, consistency in (("sew", 0.1), ("sew_no_consistency", 0.0)):
        model = fit([prepared[p] for p in learn], bins, events, seed, consistency)
        with torch.no_grad():
            for name in fold.test:
                detail, coarse, *_ = model(prepared[name], "hard")
                risks[row].append(_risk(detail))
                if row == "sew":
                    risks["sew_global"].append(_risk(coarse))
                    risks["sew_all"].append(_risk(model(prepared[name], "all")[0]))
    test = frame.loc[list(fold.test)]
    found = {
        row: float(concordance_index(test.time, -np.array(values), test.event))
        for row, values in risks.items()
    }
    place.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(found))
    return found


def _risk(hazards: Tensor) -> float:
    return -float(torch.cumprod(1 - hazards, 1).sum())


def _prepared(network: nn.Module, tokens: object) -> dict[str, Tensor]:
    """Return features, families and targets of a slide."""
    inputs = tokens.inputs()
    rows = family_rows(inputs)
    table = FamilyTable.of(network, tokens)
    target = torch.zeros(len(table))
    target[focus_target(table).topk(families_for(BUDGET, len(table))).indices] = 1
    made = {f"x{s}": inputs[f"x{s}"][0].float() for s in (5, 10, 20)}
    return made | {"of10x": rows["10x"], "of20x": rows["20x"], "target": target}


def main() -> None:
    """Judge the cohorts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--cohorts", type=int, default=4)
    options = parser.parse_args()
    count = options.cohorts
    questions = [(kind, FIRST_SEED + i) for kind in KINDS for i in range(count)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(partial(ask, options.work_dir), questions))
    lines = [
        "# SEW's pieces beside the product",
        "",
        f"Output of benchmarks/sew.py. C on 200 patients, models of 400, a share of {BUDGET:g} of the "
        f"families read; means and t intervals over {count} cohorts of seeds that were not used before.",
        "",
        f"| | {' | '.join(kind.name for kind in KINDS)} |",
        f"|---|{'---|' * len(KINDS)}",
    ]
    for row, words in ROWS.items():
        cells = []
        for number in range(len(KINDS)):
            values = [one[row] for one in found[number * count : (number + 1) * count]]
            half = student.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
            mean = np.mean(values)
            cells.append(f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    print("\n".join(lines))
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
