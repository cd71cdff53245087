"""Seconds of whole commands that read a part of a slide, with a ResNet50 on the CPU.

    python benchmarks/partial_speed.py --work-dir work

The slide is a mosaic of simulated tissue of more than 8,000 patches; encoder and network have random weights,
on which speed does not depend. Each command is a process of its own, from the start to the report. Writes
`partial_speed.md`.
"""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import timm
import torch
from mosaic import BLOCK, SOURCE_BLOCKS, simulate_source, write_mosaic

from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.models.bundle import save_bundle
from tiacrossfusion.models.config import BundleConfig, ModelCard
from tiacrossfusion.models.network import describe_network, network_of
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.survival.time_bins import TimeBins

BUDGETS = (1.0, 0.25, 0.1)
#: A model that reads 5x and 10x of all families.
STUDENT = "student, 5x and 10x"
ENCODER = "timm:resnet50"


def bundle_with_resnet(folder: Path) -> tuple[Path, Path, Path]:
    """Save a model with random weights and one of its kind without 20x, and the weights of their encoder."""
    torch.manual_seed(0)
    weights = folder / "resnet50.pt"
    torch.save(timm.create_model("resnet50", num_classes=0).state_dict(), weights)
    encoder = load_encoder(ENCODER, weights=str(weights))
    described, without = (
        describe_network(
            name, encoder_width=encoder.spec.width, num_bins=4, sizes={"embed_dim": 512}
        )
        for name in ("nested-fusion", "nested-fusion-5x-10x")
    )
    config = BundleConfig(
        name="speed",
        version="1",
        architecture=described,
        sampling=SamplingSpec(),
        encoder=encoder.spec,
        time_bins=TimeBins(edges=(0, 12, 24, 36, 120), unit="months"),
        risk_reference=None,
        card=ModelCard(
            description="random weights",
            cohort="none",
            performance="none",
            licence="none",
            notice="none",
        ),
    )
    save_bundle(folder / "bundle", config, network_of(described).eval())
    of_student = config.model_copy(update={"architecture": without})
    save_bundle(folder / "student", of_student, network_of(without).eval())
    return folder / "bundle", folder / "student", weights


@click.command(help=__doc__)
@click.option("--work-dir", type=Path, required=True)
@click.option("--blocks", default=13, show_default=True, help="Along a side of the slide.")
@click.option("--repeats", default=1, show_default=True)
@click.option("--output", type=Path, default=Path(__file__).with_suffix(".md"))
def main(work_dir: Path, blocks: int, repeats: int, output: Path) -> None:
    """Time the commands."""
    work_dir.mkdir(parents=True, exist_ok=True)
    slide = work_dir / "slide.svs"
    if not slide.exists():
        simulate_source(work_dir / "source.svs")
        layout = np.random.default_rng(0).integers(SOURCE_BLOCKS, size=(blocks, blocks))
        write_mosaic(slide, work_dir / "source.svs", layout)
    bundle, student, weights = bundle_with_resnet(work_dir)
    asked = (*BUDGETS, STUDENT)
    seconds: dict[float | str, list[float]] = {budget: [] for budget in asked}
    patches = {}
    for repeat in range(repeats):
        for budget in asked:
            model, share = (student, 1.0) if budget == STUDENT else (bundle, budget)
            out = work_dir / f"out-{budget}-{repeat}-{time.time():.0f}"
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "tiacrossfusion", "predict", "--img-input", str(slide),
                 "--model", str(model), "--encoder-weights", str(weights), "--budget", str(share),
                 "--output-path", str(out)],
                check=True,
            )  # fmt: skip
            seconds[budget].append(time.perf_counter() - begun)
            with (out / "predictions.csv").open() as file:
                (row,) = csv.DictReader(file)
            patches[budget] = sum(int(row[f"patches_{s}"] or 0) for s in ("5x", "10x", "20x"))
    whole = sorted(seconds[1.0])[len(seconds[1.0]) // 2]
    lines = [
        "# Seconds of a part of a slide",
        "",
        f"Made by `benchmarks/partial_speed.py` on {os.cpu_count()} cores ({platform.machine()}), ResNet50, "
        f"one slide of {blocks * BLOCK:,} x {blocks * BLOCK:,} pixels at 0.25 mpp; whole "
        f"commands, median of {repeats}.",
        "",
        "| budget | patches read | seconds | times faster |",
        "|---|---|---|---|",
    ]
    for budget in asked:
        median = sorted(seconds[budget])[len(seconds[budget]) // 2]
        lines.append(f"| {budget} | {patches[budget]:,} | {median:.0f} | {whole / median:.1f} |")
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
