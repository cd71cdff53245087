r"""Train the bundle `crossfusion-demo` that ships with the package, using only this script.

It simulates a cohort of slides with a planted prognosis (architecture at 5x, glands at 10x, nuclei at 20x),
extracts bags with the shipped encoder, trains a small CrossFusion on the training patients with early
stopping on the validation patients, and uses the test patients once, for the figures in the model card, next
to those of the true hazard.

    python examples/train_demo_bundle.py --work-dir work \
        --bundle tiacrossfusion/models/bundles/crossfusion-demo

It takes about half an hour on two cores; an interrupted run is resumed by the same command.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from lifelines.utils import concordance_index
from tqdm.auto import tqdm

from tiacrossfusion.bags.bag import FeatureBag, check_same
from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.inference.extraction import extract_bag
from tiacrossfusion.models.bundle import save_bundle
from tiacrossfusion.models.config import BundleConfig, ModelCard
from tiacrossfusion.models.network import describe_network
from tiacrossfusion.models.reference import risk_reference
from tiacrossfusion.networks.crossfusion import CrossFusion
from tiacrossfusion.simulation.cohort import draw_cohort
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import render_slide
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.slide import open_slide
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.survival import quantile_bins
from tiacrossfusion.survival.losses import nll_loss

ENCODER = "stain-texture"
SLIDE_MPP = 0.5
EMBED_DIM, NUM_HEADS, NUM_BINS = 64, 4, 4
STUDY_MONTHS = 120.0  # nobody is followed for longer
NOTICE = "Demonstration model trained on simulated slides. Not for clinical use."


def make_bag(row: dict, work_dir: str, size: int, seed: int) -> None:
    """Draw a patient's slide, turn it into a bag and throw the slide away."""
    store = Path(work_dir) / "bags" / f"{row['slide']}.zarr"
    if store.exists():
        return
    torch.set_num_threads(1)  # one slide a process
    slide = Path(work_dir) / f"{row['slide']}.svs"
    parameters = TissueParameters(row["architecture"], row["glands"], row["nuclei"])
    render_slide(slide, parameters, size=(size, size), mpp=SLIDE_MPP, seed=seed)
    bag = extract_bag(
        open_slide(slide), SamplingSpec(), load_encoder(ENCODER), ReadOptions(num_workers=1)
    )
    bag.save(store)
    slide.unlink()


def tensors(bag: FeatureBag) -> list[torch.Tensor]:
    """Tokens (1, N, E) of the three scales."""
    return [torch.from_numpy(scale.features).float()[None] for scale in bag.scales.values()]


def standardise(bags: list[list[torch.Tensor]], rows: np.ndarray) -> list[tuple[torch.Tensor, ...]]:
    """Bring features to mean 0 and SD 1 per scale, in place; return the (mean, SD) of `rows`."""
    moments = []
    for scale in range(3):
        patches = torch.cat([bags[row][scale][0] for row in rows])  # (N, E)
        mean, sd = patches.mean(dim=0), patches.std(dim=0) + 1e-4
        for bag in bags:
            bag[scale] = (bag[scale] - mean) / sd
        moments.append((mean, sd))
    return moments


def fold_in(network: CrossFusion, moments: list[tuple[torch.Tensor, ...]]) -> None:
    """Move the standardisation into the network's first linear layers, so that it takes raw features.

    `W (x - m) / s + b = (W / s) x + (b - (W / s) m)`.
    """
    projections = (network.project_coarse, network.project_source, network.project_fine)
    with torch.no_grad():
        for projection, (mean, sd) in zip(projections, moments, strict=True):
            projection.linear.weight /= sd
            projection.linear.bias -= projection.linear.weight @ mean


def predict(network: CrossFusion, bags: list[list[torch.Tensor]]) -> np.ndarray:
    """Risk of each bag, (N,)."""
    network.eval()
    with torch.inference_mode():
        return np.array([float(network(*bag).risk) for bag in bags])


def train(
    bags: list[list[torch.Tensor]],
    cohort: pd.DataFrame,
    bins_index: np.ndarray,
    epochs: int,
    seed: int,
) -> CrossFusion:
    """Train on the patients of the split "train", keep the epoch that is best on "validation"."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other
    order = np.random.default_rng(seed)
    network = CrossFusion(
        bags[0][0].shape[-1],
        EMBED_DIM,
        NUM_HEADS,
        num_bins=NUM_BINS,
        dropout=0.1,
        attention_dropout=0.1,
    )
    accumulate, warm_up, patience = 8, 3, 10
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=1e-2)
    train_rows = np.flatnonzero(cohort.split == "train")
    check_rows = np.flatnonzero(cohort.split == "validation")
    steps = int(np.ceil(len(train_rows) / accumulate))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(
            (step + 1) / (warm_up * steps), 0.5 + 0.5 * np.cos(np.pi * step / (epochs * steps))
        ),
    )
    best, best_score, waited = deepcopy(network.state_dict()), -1.0, 0
    for epoch in range(epochs):
        network.train()
        losses = []
        for chunk in np.array_split(order.permutation(train_rows), steps):
            hazards = torch.cat([network(*bags[i]).hazards for i in chunk])
            loss = nll_loss(
                hazards,
                torch.as_tensor(bins_index[chunk]),
                torch.as_tensor(cohort.event.to_numpy()[chunk]),
            )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        score = c_index(predict(network, [bags[i] for i in check_rows]), cohort.iloc[check_rows])
        print(f"epoch {epoch:2d}  loss {np.mean(losses):.3f}  validation C {score:.3f}", flush=True)
        waited += 1
        if score > best_score:
            best, best_score, waited = deepcopy(network.state_dict()), score, 0
        if waited >= patience:
            break
    network.load_state_dict(best)
    return network.eval()


def c_index(risks: np.ndarray, cohort: pd.DataFrame) -> float:
    """Harrell's C of risks; NaN where no two patients can be compared."""
    try:
        return float(concordance_index(cohort.time, -risks, cohort.event))
    except ZeroDivisionError:
        return float("nan")


def interval(risks: np.ndarray, cohort: pd.DataFrame, draws: int = 1000) -> str:
    """Harrell's C with a 95 % bootstrap interval over patients."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(draws):
        rows = rng.integers(0, len(cohort), len(cohort))
        values.append(c_index(risks[rows], cohort.iloc[rows]))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return f"{c_index(risks, cohort):.3f} (95 % interval {low:.3f} to {high:.3f})"


@click.command()
@click.option("--work-dir", type=Path, required=True, help="Where bags are kept between runs.")
@click.option("--bundle", type=Path, required=True, help="Folder of the bundle.")
@click.option("--patients", default=480, show_default=True)
@click.option("--slide-size", default=4096, show_default=True, help="Width and height in pixels.")
@click.option("--epochs", default=24, show_default=True)
@click.option("--seed", default=2026, show_default=True)
@click.option("--processes", default=2, show_default=True)
def main(
    work_dir: Path,
    bundle: Path,
    patients: int,
    slide_size: int,
    epochs: int,
    seed: int,
    processes: int,
) -> None:
    """Simulate, extract, train, test once and write the bundle."""
    (work_dir / "bags").mkdir(parents=True, exist_ok=True)
    cohort = draw_cohort(patients, seed)
    cohort.loc[cohort.time > STUDY_MONTHS, "event"] = 0
    cohort["time"] = cohort.time.clip(upper=STUDY_MONTHS)
    cohort["split"] = np.resize(["train", "train", "train", "validation", "test"], patients)
    rows = cohort.to_dict("records")
    with ProcessPoolExecutor(processes) as pool:
        jobs = [
            pool.submit(make_bag, row, str(work_dir), slide_size, seed * 100_000 + number)
            for number, row in enumerate(rows)
        ]
        try:
            for job in tqdm(jobs, desc="Slides"):
                job.result()
        finally:  # on an error the other slides need not be drawn first
            pool.shutdown(cancel_futures=True)

    stores = [FeatureBag.load(work_dir / "bags" / f"{row['slide']}.zarr") for row in rows]
    encoder = load_encoder(ENCODER).spec
    for row, store in zip(rows, stores, strict=True):  # bags of an older encoder may lie there
        check_same(encoder, store.provenance.encoder, "encoder", f"bag of {row['slide']}")
    bags = [tensors(store) for store in stores]
    in_training = (cohort.split == "train").to_numpy()
    training = cohort[in_training]
    moments = standardise(bags, np.flatnonzero(in_training))
    bins = quantile_bins(training.time, training.event, NUM_BINS, unit="months")
    network = train(bags, cohort, bins.index(cohort.time.to_numpy()), epochs, seed)

    risks = predict(network, bags)
    is_test = (cohort.split == "test").to_numpy()
    test = cohort[is_test]
    truth = interval(test.log_hazard.to_numpy(), test)
    figures = (
        f"Harrell's C on {len(test)} simulated test patients: {interval(risks[is_test], test)}; "
        f"the true hazard, which no model can beat on average, reaches {truth}."
    )
    print(figures)
    fold_in(network, moments)
    config = BundleConfig(
        name="crossfusion-demo",
        version="1",
        architecture=describe_network(
            "crossfusion",
            encoder_width=network.encoder_width,
            num_bins=NUM_BINS,
            sizes={"embed_dim": EMBED_DIM, "num_heads": NUM_HEADS},
        ),
        sampling=stores[0].provenance.sampling,
        encoder=stores[0].provenance.encoder,
        time_bins=bins,
        risk_reference=risk_reference(
            risks[in_training], training.time.to_numpy(), training.event.to_numpy(), bins
        ),
        card=ModelCard(
            description="A small CrossFusion on simulated H&E slides with a planted prognosis.",
            cohort=f"{len(training)} simulated patients for training, "
            f"{int((cohort.split == 'validation').sum())} for early stopping; no real patient.",
            performance=figures,
            licence="BSD-3-Clause",
            notice=NOTICE,
        ),
    )
    save_bundle(bundle, config, network)
    print(f"Wrote {bundle}")


if __name__ == "__main__":
    main()
