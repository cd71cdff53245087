"""Does the audit find a planted site, and how long does it take?

    python benchmarks/audit.py --work-dir work     # about 20 minutes

Six hospitals of planted cohorts; the features of three have a vector added at all scales. In one kind of
cohort patients with a high hazard come to these three more often, in the other the hospital is dealt by
chance. A mean pooling is trained on random folds and on folds by hospital, and audited. Resumed when it is
run again; writes benchmarks/audit.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from partial_cohorts import WIDTH, Planted, draw

from tiacrossfusion import train
from tiacrossfusion.audit.api import Audit, audit_model
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.cohorts.columns import Columns

OUT = Path(__file__).with_suffix(".md")
PATIENTS, COHORTS, FIRST_SEED, LENGTH = 300, 3, 9900, 0.6


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
    done.write_text(json.dumps(answer))
    return answer


def judged(found: Audit) -> dict[str, object]:
    """Return the place of the largest site direction, and how the attacks compare with chance."""
    names = [one.name for one in found.directions]
    sites = [i for i, name in enumerate(names) if name.startswith("site")]
    chance = [one.size for one in found.directions if one.name.startswith("random")]
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
        "universal": attacks["universal", 0.25, 1.0].ratio,
        "generator": attacks["generator", 0.25, 1.0].ratio,
        "generator_seconds": found.seconds,
    }


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
        for seed in range(FIRST_SEED, FIRST_SEED + COHORTS):
            one = ask(work, seed, confounded)
            lines.append(
                f"| {'goes with the hazard' if confounded else 'by chance'} | {one['random folds']:.3f} "
                f"| {one['folds by hospital']:.3f} | {one['told']:.2f} ({one['told_chance']:.2f}) "
                f"| {one['p']:.2g} | {one['place']} | {one['site_size']:.2f} ({one['chance_size']:.2f}) "
                f"| {one['universal']:.1f} | {one['generator']:.1f} |"
            )
            print(lines[-1], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines += ["", f"Peak memory of all: {peak:.2f} GiB."]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
