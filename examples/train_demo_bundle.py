r"""Train the bundles `crossfusion-demo` and `nested-demo` that ship with the package, using only this script.

It simulates a cohort of slides with a planted prognosis (architecture at 5x, glands at 10x, nuclei at 20x),
extracts bags with the shipped encoder, and trains the network with the package's own training
(`nested-demo` on five folds), on random parts of the slides, so that maps show where the risk comes from. A
second cohort, of another seed, is used once: for the C-index in the model card, next to that of the true
hazard, and for how well the maps find what was planted.

    python examples/train_demo_bundle.py --network nested-fusion --work-dir work \
        --bundle tiacrossfusion/models/bundles/nested-demo

It takes about an hour on two cores, most of it for the slides, which both networks share; an interrupted
run is resumed by the same command.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from tiacrossfusion import train
from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.explain.attribution import attribute
from tiacrossfusion.inference.extraction import extract_bag
from tiacrossfusion.inference.prediction import predict_bag
from tiacrossfusion.models.bundle import ModelBundle, load_bundle, save_bundle
from tiacrossfusion.simulation.cohort import draw_cohort
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import render_slide
from tiacrossfusion.simulation.truth import SlideTruth
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.slide import open_slide
from tiacrossfusion.slides.spec import SamplingSpec

ENCODER = "stain-texture"
SLIDE_MPP = 0.5
STUDY_MONTHS = 120.0  # nobody is followed for longer
NOTICE = "Demonstration model trained on simulated slides. Not for clinical use."
#: What is planted at each scale.
PLANTED = {"5x": "architecture", "10x": "glands", "20x": "nuclei"}

#: Chosen by the C-index of the validation patients and by the maps of their slides. On random parts of slides
#: CrossFusion's C-index on validation patients is far lower, so that it is trained on whole ones.
PARTS = {"cell_share": 0.15, "scale_dropout": 0.5}
RECIPES: dict[str, dict[str, Any]] = {
    "nested-fusion": {
        "network": {"embed_dim": 32},
        "fitting": {"epochs": 60, "patience": 20, "statistics": False} | PARTS,
    },
    "crossfusion": {
        "protocol": {"protocol": "holdout"},
        "network": {"embed_dim": 64, "dropout": 0.1, "attention_dropout": 0.1},
        "fitting": {
            "loss": "nll",
            "learning_rate": 3e-4,
            "patients_per_step": 8,
            "epochs": 24,
            "warm_up": 3,
            "patience": 10,
            "monitor": "c-index",
        },
    },
}
NAMES = {"nested-fusion": "nested-demo", "crossfusion": "crossfusion-demo"}


def cohort_of(patients: int, seed: int) -> pd.DataFrame:
    """Draw patients, whose follow-up ends with the study."""
    cohort = draw_cohort(patients, seed)
    cohort.loc[cohort.time > STUDY_MONTHS, "event"] = 0
    return cohort.assign(time=cohort.time.clip(upper=STUDY_MONTHS))


def make_bag(row: dict[str, Any], folder: str, size: int, seed: int) -> None:
    """Draw a patient's slide, keep its bag and its truth, and throw the slide away."""
    place = Path(folder)
    store, truth = place / "bags" / f"{row['slide']}.zarr", place / f"{row['slide']}.npz"
    if store.exists() and truth.exists():
        return
    torch.set_num_threads(1)  # one slide a process
    slide = place / row["slide"]
    parameters = TissueParameters(row["architecture"], row["glands"], row["nuclei"])
    drawn = render_slide(slide, parameters, size=(size, size), mpp=SLIDE_MPP, seed=seed)
    drawn.save(truth)
    bag = extract_bag(
        open_slide(slide), SamplingSpec(), load_encoder(ENCODER), ReadOptions(num_workers=1)
    )
    bag.save(store)
    slide.unlink()


def make_bags(folder: Path, cohort: pd.DataFrame, size: int, seed: int, processes: int) -> None:
    """Make the bags of a cohort, and its table."""
    (folder / "bags").mkdir(parents=True, exist_ok=True)
    cohort.to_csv(folder / "cohort.csv", index=False)
    with ProcessPoolExecutor(processes) as pool:
        jobs = [
            pool.submit(make_bag, row, str(folder), size, seed * 100_000 + number)
            for number, row in enumerate(cohort.to_dict("records"))
        ]
        try:
            for job in tqdm(jobs, desc="Slides"):
                job.result()
        finally:  # on an error the other slides need not be drawn first
            pool.shutdown(cancel_futures=True)


def interval(risks: np.ndarray, cohort: pd.DataFrame, draws: int = 1000) -> str:
    """Harrell's C with a 95 % bootstrap interval over patients."""

    def c_index(rows: np.ndarray) -> float:
        chosen = cohort.iloc[rows]
        return concordance_index(chosen.time, -risks[rows], chosen.event)

    rng = np.random.default_rng(0)
    n = len(cohort)
    values = [c_index(rng.integers(0, n, n)) for _ in range(draws)]
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{c_index(np.arange(n)):.3f} (95 % interval {low:.3f} to {high:.3f})"


def judge(bundle: ModelBundle, folder: Path, cohort: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Return the risks of the test slides, and how well the attribution finds what was planted there.

    A patch has the pattern if it covers at least half of it; all patches of all slides are ranked together.
    """
    risks, found = [], {scale: ([], []) for scale in PLANTED}
    for row in tqdm(cohort.to_dict("records"), desc="Test"):
        bag = FeatureBag.load(folder / "bags" / f"{row['slide']}.zarr")
        truth = SlideTruth.load(folder / f"{row['slide']}.npz")
        risks.append(predict_bag(bag, bundle).risk)
        adds = attribute(bag, bundle).values  # noqa: PD011 - not of pandas
        for scale, name in PLANTED.items():
            boxes = np.rint(bag.scales[scale].bounds * SLIDE_MPP / truth.mpp_of_maps).astype(int)
            pattern = getattr(truth, name)
            shares = [pattern[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in boxes]
            found[scale][0].append(np.array(shares) >= 0.5)
            found[scale][1].append(adds[scale] * len(shares))
    aucs = ", ".join(
        f"{scale} {roc_auc_score(np.concatenate(has), np.concatenate(values)):.2f}"
        for scale, (has, values) in found.items()
        if 0 < np.mean(np.concatenate(has)) < 1
    )
    return np.array(risks), f"area under the ROC curve of the attribution of patches: {aucs}"


@click.command()
@click.option("--network", type=click.Choice(list(RECIPES)), required=True)
@click.option("--work-dir", type=Path, required=True, help="Where bags are kept between runs.")
@click.option("--bundle", type=Path, required=True, help="Folder of the bundle.")
@click.option("--patients", default=560, show_default=True)
@click.option("--test-patients", default=160, show_default=True)
@click.option("--slide-size", default=4096, show_default=True, help="Pixels of a side, at 0.5 mpp.")
@click.option("--epochs", type=int, help="Instead of those of the recipe.")
@click.option("--seed", default=2027, show_default=True, help="The test cohort has the next one.")
@click.option("--processes", default=2, show_default=True)
def main(
    network: str,
    work_dir: Path,
    bundle: Path,
    patients: int,
    test_patients: int,
    slide_size: int,
    epochs: int | None,
    seed: int,
    processes: int,
) -> None:
    """Simulate, extract, train, test once and write the bundle."""
    folders = {s: work_dir / str(s) for s in (seed, seed + 1)}
    cohorts = {seed: cohort_of(patients, seed), seed + 1: cohort_of(test_patients, seed + 1)}
    for each, folder in folders.items():
        make_bags(folder, cohorts[each], slide_size, each, processes)
    recipe = RECIPES[network]
    if epochs:
        recipe = recipe | {"fitting": recipe["fitting"] | {"epochs": epochs, "warm_up": 0}}
    trained = train(
        folders[seed] / "cohort.csv",
        folders[seed] / "bags",
        work_dir / network,
        models=[network],
        config={"time_unit": "months", **recipe},
        say=click.echo,
    )
    ensemble = load_bundle(trained.bundles[network])
    test = cohorts[seed + 1]
    risks, maps = judge(ensemble, folders[seed + 1], test)
    figures = (
        f"Harrell's C on {len(test)} simulated patients of another seed: {interval(risks, test)}; the true "
        "hazard, which no model can beat on average, reaches "
        f"{interval(test.log_hazard.to_numpy(), test)}. What was planted there: {maps}."
    )
    click.echo(figures)
    card = ensemble.config.card.model_copy(
        update={
            "description": f"A small {network} on simulated H&E slides with a planted prognosis"
            + (", the mean of five folds." if ensemble.config.members else "."),
            "cohort": f"Of {patients} simulated patients; no real patient.",
            "performance": figures,
            "licence": "BSD-3-Clause",
            "notice": NOTICE,
        }
    )
    config = ensemble.config.model_copy(update={"name": NAMES[network], "card": card})
    save_bundle(bundle, config, ensemble.network)
    click.echo(f"Wrote {bundle}")


if __name__ == "__main__":
    main()
