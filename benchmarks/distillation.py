"""Students that read 5x and 10x: what they keep of their teacher, and what labels alone give.

    python benchmarks/distillation.py --work-dir work     # about an hour

Teachers (nested fusion) are trained on 150 patients of planted cohorts, and judged with their students on 400
others. Resumed by cohort when it is run again; writes benchmarks/distillation.md.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lifelines.utils import concordance_index
from partial_cohorts import Planted, draw, one_thread, train_holdout
from torch import nn
from torch.nn.functional import kl_div, log_softmax, softmax

from tiacrossfusion.networks.families import parents
from tiacrossfusion.networks.registry import build_network
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.survival import risk_of, survival_curve
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.plan import Cohort
from tiacrossfusion.training.student import (
    RECIPE,
    closed_student,
    hazards_of_slides,
    train_student,
)

OUT = Path(__file__).with_suffix(".md")
LABELLED, TESTED, FURTHER, FIRST_SEED = 150, 400, 300, 9300
CODE = "nested-fusion-5x-10x"
#: Kinds of cohorts, with the number of each.
KINDS = {Planted("diffuse", 0.5): 10, Planted("diffuse", 0.5, 0.9): 5, Planted("diffuse", 0.0): 4}
#: Cohorts of the first kind on which everything is tried, and what is tried on the others.
ALL_ROWS, MAIN = 5, ("label", "closed", "closed_more", "trained")
ROWS = {
    "label": f"labels alone ({CODE})",
    "label50": "labels alone, decay of the student",
    "closed": "closed form",
    "closed_more": f"closed form, with {FURTHER} unlabelled slides",
    "trained": "trained",
    "trained_more": f"trained, with {FURTHER} unlabelled slides",
    "attribution": "trained, with a term of attribution maps",
    "mutual": "trained, with CSAD's maps of its own two scales",
}


def ask(work: Path, question: tuple[Planted, int, bool]) -> dict[str, float]:
    """Train teacher, students and baselines on one cohort; return C of each on the test patients.

    With all of them, or with those of `MAIN` alone.
    """
    planted, seed, everything = question
    place = work / planted.folder(seed)
    done = place / "found.json"
    if done.exists():
        return json.loads(done.read_text())
    one_thread()
    cohort, truth = draw(planted, LABELLED + TESTED + FURTHER, seed)
    names = sorted(cohort.sources)
    known = names[: LABELLED + TESTED]
    labelled = Cohort("planted", cohort.table.of(known), {n: cohort.sources[n] for n in known})
    bundles = {}
    for name, model, settings in (
        ("teacher", "nested-fusion", {}),
        ("label", CODE, {}),
        ("label50", CODE, {"fitting": {"input_weight_decay": RECIPE.input_weight_decay}}),
    ):
        if not (everything or name in ("teacher", *MAIN)):
            continue
        share = TESTED / (LABELLED + TESTED)
        bundles[name], fold = train_holdout(place / name, labelled, model, share, **settings)
    bags = CohortBags(cohort.sources, show_progress=False)
    own, further = [*fold.train, *fold.validation], names[LABELLED + TESTED :]
    teacher = bundles["teacher"].network
    taught = dict(
        zip([*own, *further], hazards_of_slides(teacher, bags, [*own, *further]), strict=True)
    )
    frame = truth.set_index("patient").loc[list(fold.test)]

    def c(network: nn.Module) -> float:
        risk = risk_of(survival_curve(hazards_of_slides(network, bags, fold.test)))
        return float(concordance_index(frame.time, -risk, frame.event))

    found = {name: c(bundle.network) for name, bundle in bundles.items()}
    held = own[::6]
    few = [s for s in own if s not in held]
    more_held = [*held, *further[::6]]
    many = [s for s in [*own, *further] if s not in more_held]
    tokens = {s: partial(_tokens, bags, s) for s in [*own, *further]}
    for name, slides, judges in (("closed", few, held), ("closed_more", many, more_held)):
        student = closed_student(
            teacher, [tokens[s] for s in slides], [tokens[s] for s in judges], ("5x", "10x")
        )
        found[name] = c(student)
    maps = {s: attribution_map(teacher, tokens[s]()) for s in own} if everything else {}
    for name, slides, judges, term in (
        ("trained", few, held, None),
        ("trained_more", many, more_held, None),
        ("attribution", few, held, partial(attribution_term, maps)),
        ("mutual", few, held, mutual_term),
    ):
        if everything or name in MAIN:
            found[name] = c(_student(bags, slides, judges, taught, seed, term))
    place.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(found))
    return found


def _tokens(bags: CohortBags, slide: str) -> Any:
    (tokens,) = next(bags.read([[slide]]))
    return tokens.to("cpu", torch.float32)


def _student(
    bags: CohortBags, slides: list[str], held: list[str], taught: Any, seed: int, term: Any
) -> TrainedNetwork:
    torch.manual_seed(seed)
    bins = len(next(iter(taught.values())))
    inner = build_network(CODE, encoder_width=bags.encoder.width, embed_dim=32, num_bins=bins)
    network = TrainedNetwork(inner, standardise=True)
    network.set_moments(*bags.moments(slides))
    train_student(network, bags, slides, held, taught, seed=seed, further=term)
    return network


def attribution_map(teacher: Any, tokens: Any) -> torch.Tensor:
    """Return the teacher's attribution of each 10x patch and of what is inside it, (N10,), without sign."""
    inputs = {
        name: x.clone().requires_grad_(name.startswith("x")) for name, x in tokens.inputs().items()
    }
    teacher(**inputs).risk.sum().backward()
    slope = {s: (inputs[f"x{s}"].grad * inputs[f"x{s}"]).sum(dim=2)[0].detach() for s in (10, 20)}
    inside = parents(tokens.grid["20x"], tokens.grid["10x"])
    return slope[10].index_add(0, inside, slope[20]).abs()


def _energy(x: torch.Tensor) -> torch.Tensor:
    """Return the logits of CSAD's map of tokens (N, D): standardised sums of squares."""
    energy = x.square().sum(dim=1)
    return (energy - energy.mean()) / energy.std().clamp(min=1e-6)


def attribution_term(maps: Any, network: TrainedNetwork, tokens: Any, slides: Any) -> torch.Tensor:
    """Return KL of the student's map on the 10x grid from the teacher's attribution, weight .1."""
    x = network.standardised(tokens.inputs())["x10"]
    total = x.new_zeros(())
    for row, slide in enumerate(slides):
        target = maps[slide] / maps[slide].std().clamp(min=1e-12)
        mine = log_softmax(_energy(network.network.embed10(x[row])), dim=0)
        total = total + kl_div(mine, softmax(target, dim=0), reduction="sum")
    return 0.1 * total


def mutual_term(network: TrainedNetwork, tokens: Any, slides: Any) -> torch.Tensor:
    """Return KL between the maps of 5x and 10x inside the student, both ways, weight .1 (CSAD's form)."""
    del slides
    ready = network.standardised(tokens.inputs())
    total = ready["x5"].new_zeros(())
    for row in range(len(ready["x5"])):
        around = parents(ready["grid10"][row : row + 1], ready["grid5"][row : row + 1])
        fine = _energy(network.network.embed10(ready["x10"][row]))
        coarse = _energy(network.network.embed5(ready["x5"][row]))[around]
        for a, b in ((fine, coarse), (coarse, fine)):
            total = total + kl_div(log_softmax(a, 0), softmax(b.detach(), 0), reduction="sum")
    return 0.1 * total


def cohorts(work: Path) -> list[str]:
    """Return the table: C less that of labels alone, or of the teacher, with t intervals over cohorts."""
    first = next(iter(KINDS))
    questions = [
        (kind, FIRST_SEED + i, kind == first and i < ALL_ROWS)
        for kind, count in KINDS.items()
        for i in range(count)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(partial(ask, work), questions))
    lines = []
    for kind in KINDS:
        rows = [one for one, asked in zip(found, questions, strict=True) if asked[0] == kind]
        teacher = np.mean([row["teacher"] for row in rows])
        lines += [
            f"**{kind.name}**: C of the teacher {teacher:.3f}, of labels alone "
            f"{np.mean([row['label'] for row in rows]):.3f}",
            "",
            "| student | cohorts | less labels alone | less the teacher |",
            "|---|---|---|---|",
        ]
        for name, words in ROWS.items():
            there = [row for row in rows if name in row]
            if not there:
                continue
            cells = [
                _interval([row[name] - row[base] for row in there]) if name != base else ""
                for base in ("label", "teacher")
            ]
            lines.append(f"| {words} | {len(there)} | {cells[0]} | {cells[1]} |")
        lines.append("")
    return lines


def _interval(values: list[float]) -> str:
    from scipy.stats import t as student

    n, mean = len(values), np.mean(values)
    half = student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def main() -> None:
    """Judge the cohorts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    options = parser.parse_args()
    lines = cohorts(options.work_dir)
    text = (
        "# Students that read 5x and 10x\n\n"
        f"Output of benchmarks/distillation.py. Teachers of nested fusion on {LABELLED} patients, C on "
        f"{TESTED} others; differences with t intervals over cohorts whose seeds were not used "
        "before. The pattern that carries the hazard is planted at 20x; r is the correlation of one "
        "feature at 5x (at 10x) with its density in a cell.\n\n"
    )
    OUT.write_text(text + "\n".join(lines).strip() + "\n")


if __name__ == "__main__":
    main()
