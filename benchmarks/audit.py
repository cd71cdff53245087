"""Does the audit find a planted site, and how long does it take?

    python benchmarks/audit.py --work-dir work     # about 40 minutes

Six hospitals of planted cohorts; the features of three have a vector added at all scales. In one kind of
cohort patients with a high hazard come to these three more often, in the other the hospital is dealt by
chance. A mean pooling is trained on random folds and on folds by hospital, and audited. The generator of one
fold's model is tried on that of another fold, and on a nested fusion. Last, 40 bags of the average size are
audited for time and memory, in a process of their own. Resumed when it is run again; writes
benchmarks/audit.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from partial_cohorts import WIDTH, Planted, draw

from tiacrossfusion import train
from tiacrossfusion.audit.api import Audit, audit_model
from tiacrossfusion.audit.directions import Direction
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.simulation.bags import simulate_bags

OUT = Path(__file__).with_suffix(".md")
PATIENTS, LENGTH = 300, 0.6
SEEDS = range(9900, 9902)


def make(folder: Path, seed: int, confounded: bool) -> None:
    """Write bags and follow-up of a cohort of six hospitals."""
    cohort, truth = draw(Planted("diffuse", 0.5), PATIENTS, seed)
    rng = np.random.default_rng([seed, 5])
    eta = truth["log_hazard"].to_numpy()
    lean = 2.0 * (eta - eta.mean()) / eta.std() if confounded else np.zeros(PATIENTS)
    moved = rng.random(PATIENTS) < 1 / (1 + np.exp(-lean))
    number = rng.integers(3, size=PATIENTS) + 3 * moved
    vector = rng.standard_normal(WIDTH)
    vector *= LENGTH / np.sqrt((vector**2).mean())
    (folder / "bags").mkdir(parents=True)
    for name, far in zip(truth["slide"], moved, strict=True):
        bag = cohort.sources[name]
        scales = {}
        for scale, tokens in bag.scales.items():
            features = tokens.features + (far * vector).astype(np.float16)
            scales[scale] = type(tokens)(features.astype(np.float16), tokens.bounds, tokens.grid)
        FeatureBag(scales, bag.provenance).save(folder / "bags" / f"{name}.zarr")
    truth.assign(hospital=[f"H{n}" for n in number]).drop(columns="log_hazard").to_csv(
        folder / "table.csv", index=False
    )


def ask(work: Path, seed: int, confounded: bool) -> dict[str, object]:
    """Train on both kinds of folds, and audit."""
    place = work / f"{'confounded' if confounded else 'by-chance'}-{seed}"
    done = place / "found.json"
    if done.exists():
        return json.loads(done.read_text())
    if not (place / "table.csv").exists():
        make(place, seed, confounded)
    c, bundles = {}, {}
    for name, by in (("random folds", None), ("folds by hospital", "hospital")):
        config = {"time_unit": "months", "columns": {} if by is None else {"fold_by": by}}
        made = train(
            place / "table.csv",
            place / "bags",
            place / name,
            config=config,
            models=("mean-pool",),
        )
        c[name] = float(made.evaluations["mean-pool"].pooled.harrell_c.value)
        bundles[name] = made.bundles["mean-pool"]
    begun = time.perf_counter()
    found = audit_model(
        bundles["random folds"],
        place / "bags",
        table=place / "table.csv",
        columns=Columns(fold_by="hospital"),
        strengths=(0.1, 0.25),
        seed=seed,
    )
    answer = c | judged(found) | {"seconds": time.perf_counter() - begun}
    if confounded:
        answer["transfers"] = transfers(place, seed)
    done.write_text(json.dumps(answer))
    return answer


def transfers(place: Path, seed: int) -> dict[str, tuple[float, float]]:
    """Return how far the generator of the model of one fold moves others, over chance and over their own."""
    train(
        place / "table.csv",
        place / "bags",
        place / "nested",
        config={"time_unit": "months"},
        models=("nested-fusion",),
    )
    runs = {"mean-pool": place / "random folds" / "mean-pool", "nested-fusion": place / "nested"}
    runs["nested-fusion"] /= "nested-fusion"
    answer = {}
    for model, run in runs.items():
        others = [model, *(other for other in runs if other != model)]
        found = audit_model(
            run / "fold-0" / "bundle",
            place / "bags",
            transfer_to=[runs[other] / "fold-1" / "bundle" for other in others],
            strengths=(0.25,),
            seed=seed,
        )
        for other, one in zip(others, found.transfers, strict=True):
            answer[f"{model} to {other}"] = one.times_random, one.of_own
    return answer


def judged(found: Audit) -> dict[str, object]:
    """Return the place of the largest site direction, and how the attacks compare with chance."""
    names = [one.name for one in found.directions]
    sites = [i for i, name in enumerate(names) if name.startswith("site")]
    chance = [one.size for one in found.directions if is_random(one)]
    largest = found.directions[sites[0]]
    linear = next(one for one in found.told if one.classifier == "linear")
    attacks = {(a.name, a.strength, a.share): a for a in found.attacks}
    return {
        "place": sites[0] + 1,
        "site_size": largest.size,
        "chance_size": float(np.mean(chance)),
        "told": linear.accuracy,
        "told_chance": linear.chance,
        "p": None if found.sites is None else found.sites.p,
        "site_over_chance": [
            one.per_length / np.mean([d.per_length for d in found.directions if is_random(d)])
            for one in found.directions
            if one.name.startswith("site")
        ],
        "universal": attacks["universal", 0.25, 1.0].ratio,
        "generator": attacks["generator", 0.25, 1.0].ratio,
        "generator_seconds": found.seconds,
    }


def is_random(direction: Direction) -> bool:
    """Return whether a direction was drawn by chance."""
    return direction.name.startswith("random")


def average_bags(work: Path) -> None:
    """Audit 40 bags of the average size; prints seconds and the peak of memory."""
    if not (work / "average" / "cohort.csv").exists():
        shutil.rmtree(work / "average", ignore_errors=True)
        simulate_bags(work / "average", 40, 7, scenario="sum", side=29, encoder_width=1024)
    model = work / "average" / "run" / "nested-fusion" / "ensemble"
    if not model.exists():
        small = {
            "time_unit": "months",
            "protocol": {"protocol": "holdout"},
            "fitting": {"epochs": 1, "least_steps": 1},
        }
        model = train(
            work / "average" / "cohort.csv",
            work / "average" / "bags",
            work / "average" / "run",
            config=small,
            models=("nested-fusion",),
        ).bundles["nested-fusion"]
    begun = time.perf_counter()
    command = (
        "import sys, logging; logging.disable(logging.WARNING);"
        "from tiacrossfusion.audit.api import audit_model;"
        "found = audit_model(sys.argv[1], sys.argv[2]);"
        # The peak of getrusage is inherited from the process that starts this one.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'));"
        "print(found.seconds, int(peak.split()[1]) / 2**20)"
    )
    said = subprocess.run(
        [sys.executable, "-c", command, str(model), str(work / "average" / "bags")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    answer = {
        "seconds": time.perf_counter() - begun,
        "pass": float(said[-2]),
        "gib": float(said[-1]),
    }
    (work / "average.json").write_text(json.dumps(answer))


def average_line(work: Path) -> str:
    """Return what the audit of average bags took."""
    if not (work / "average.json").exists():
        average_bags(work)
    one = json.loads((work / "average.json").read_text())
    bag = FeatureBag.load(next((work / "average" / "bags").iterdir()))
    counts = " / ".join(str(count) for count in bag.counts().values())
    return (
        f"40 bags of {counts} patches of 1,024 features, nested fusion, all adversaries at the command's "
        f"settings, one thread: {one['seconds'] / 60:.1f} minutes, {one['gib']:.2f} GiB; one pass of the "
        f"generator over a slide of 4,000 patches {one['pass'] * 1000:.0f} ms."
    )


def spread(values: list[float]) -> str:
    """Return values over the cohorts."""
    return " and ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Audit the cohorts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    work = parser.parse_args().work_dir
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "# Does the audit find a planted site?",
        "",
        f"Output of benchmarks/audit.py: {PATIENTS} patients of six hospitals, three of which have a vector "
        f"of {LENGTH:g} SD a feature added; mean pooling; one row a cohort, seeds that were not used before.",
        "",
        "| hospital | C, random folds | C, folds by hospital | site told (chance) | p of shifts at "
        "equal follow-up | place of the first site among directions | its size (chance) | universal over "
        "chance | generator over chance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for confounded in (True, False):
        for seed in SEEDS:
            one = ask(work, seed, confounded)
            lines.append(
                f"| {'goes with the hazard' if confounded else 'by chance'} | {one['random folds']:.3f} "
                f"| {one['folds by hospital']:.3f} | {one['told']:.2f} ({one['told_chance']:.2f}) "
                f"| {one['p']:.2g} | {one['place']} | {one['site_size']:.2f} ({one['chance_size']:.2f}) "
                f"| {one['universal']:.1f} | {one['generator']:.1f} |"
            )
            print(lines[-1], flush=True)
    every = {kind: [ask(work, s, kind) for s in SEEDS] for kind in (True, False)}
    lines += [
        "",
        "C of mean pooling on random folds less that on folds by hospital: "
        + ", ".join(
            f"{spread([one['random folds'] - one['folds by hospital'] for one in rows])} "
            f"{'where the hospital goes with the hazard' if kind else 'by chance'}"
            for kind, rows in every.items()
        )
        + ". Effect of the hospitals' directions at equal length, over that of random directions: "
        + ", ".join(
            f"{spread([float(np.mean(one['site_over_chance'])) for one in rows])} "
            f"{'where it goes' if kind else 'by chance'}"
            for kind, rows in every.items()
        )
        + ". One value a cohort.",
        "",
        "## The generator on models that it has not seen",
        "",
        "Fitted on the model of fold 0, tried on that of fold 1, at .25 SD.",
        "",
        "| from, to | size over random of equal norm | size over a generator of its own |",
        "|---|---|---|",
    ]
    rows = every[True]
    for name in rows[0]["transfers"]:
        both = np.array([one["transfers"][name] for one in rows])
        lines.append(
            f"| {name} | {np.median(both[:, 0]):.1f} ({both[:, 0].min():.1f} to {both[:, 0].max():.1f}) "
            f"| {np.median(both[:, 1]):.2f} ({both[:, 1].min():.2f} to {both[:, 1].max():.2f}) |"
        )
    lines += [
        "",
        "Medians and ranges over the two cohorts where the hospital goes with the hazard.",
        "",
        "## Time",
        "",
        average_line(work),
    ]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
