"""Cost of extraction compared with TIAToolbox's extractor, and how busy it keeps the encoder.

    python benchmarks/extraction.py > benchmarks/extraction.md
    python benchmarks/extraction.py --device cuda --part encoders > benchmarks/extraction_gpu.md

Whole commands: `tiacf extract` against `DeepFeatureExtractor` run at the three resolutions, whole
processes with all imports, on a simulated slide of 5,000 20x patches or more, with the same patches and
the same encoder; then both with an encoder that costs nothing (`extraction_side.py` is the program that
runs one side). The toolbox gets masks with one pixel for each cell that `tiacf` kept, so it need not look
for tissue; the sides of the slide are multiples of a 5x patch, so both lay the same grid. That its
coordinates are those of the bag, for each scale, is checked, and how far the features lie apart is shown.

Encoders: ResNet50 and a ViT-L on random weights, on any device. The time that the device waits for pixels
is that between the first and the last batch in which no batch is being encoded.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import cv2
import numpy as np
import zarr

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.slides.spec import CELLS_20X, SCALES

TIACF = Path(sys.executable).parent / "tiacf"
SIDE_SCRIPT = Path(__file__).with_name("extraction_side.py")
MPP = 0.25
CELL_5X = 2048  # side of a 5x patch in level-0 pixels at this scale
ENCODERS = {"ResNet50": "timm:resnet50", "ViT-L/16": "timm:vit_large_patch16_224"}


def simulate(path: Path, cells: int) -> None:
    """Simulate a square slide whose sides are a number of 5x patches."""
    from tiacrossfusion.simulation.parameters import TissueParameters
    from tiacrossfusion.simulation.slide import render_slide

    side = cells * CELL_5X
    render_slide(path, TissueParameters(0.5, 0.5, 0.5), size=(side, side), mpp=MPP)


def seconds(command: list[str]) -> float:
    """Run a command as a whole process and time it."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - started
    assert done.returncode == 0, f"{command} failed:\n{done.stderr[-2000:]}"  # noqa: S101
    return spent


def write_masks(bag: FeatureBag, cells: int, folder: Path) -> None:
    """Write a mask for each scale, one pixel a cell."""
    for scale, kept in bag.scales.items():
        side = cells * CELLS_20X["5x"] // CELLS_20X[scale]
        mask = np.zeros((side, side), np.uint8)
        mask[kept.grid[:, 1], kept.grid[:, 0]] = 255
        cv2.imwrite(str(folder / f"{scale}.png"), mask)


def difference(bag: FeatureBag, out: Path, patch_size: int) -> float:
    """Check that the toolbox read the patches of a bag; how far its features lie from them.

    Returns:
        The mean absolute difference in standard deviations of a feature, the largest of the scales.
    """
    apart = []
    for scale, ours in bag.scales.items():
        (store,) = (out / scale).rglob("*.zarr")
        theirs = zarr.open_group(store, mode="r")
        grid = np.asarray(theirs["coordinates"])[:, :2] // patch_size
        assert np.array_equal(grid, ours.grid), f"other patches at {scale}"  # noqa: S101
        features = ours.features.astype(np.float64)
        spread = features.std(axis=0)
        varying = spread > 1e-3  # some colours are never seen
        gap = np.abs(np.asarray(theirs["features"]) - features).mean(axis=0)
        apart.append(float((gap[varying] / spread[varying]).mean()))
    return max(apart)


def whole_commands(folder: Path, cells: int, runs: int, peer_threads: int) -> None:
    """Measure both pairs and print their table."""
    slide = folder / "simulated.svs"
    simulate(slide, cells)
    python = [sys.executable, str(SIDE_SCRIPT)]
    bags = folder / "bags"
    extract = [str(TIACF), "extract", "--img-input", str(slide), "--output-path", str(bags)]
    free_bag, theirs = folder / "free.zarr", folder / "toolbox"
    peer = ["--masks", str(folder), "--threads", str(peer_threads), "--encoder"]
    pairs = {
        "stain-texture": (
            [*extract, "--overwrite"],
            [*python, "toolbox", str(slide), str(theirs), *peer, "stain-texture"],
            bags / "simulated.zarr",
            2,
        ),
        "mean-colour": (
            [*python, "tiacf", str(slide), str(free_bag), "--encoder", "mean-colour"],
            [*python, "toolbox", str(slide), str(theirs), *peer, "mean-colour"],
            free_bag,
            3,
        ),
    }
    rows = []
    for encoder, (ours, toolbox, bag_path, wanted) in pairs.items():
        spent: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs):
            spent[0].append(seconds(ours))
            bag = FeatureBag.load(bag_path)
            write_masks(bag, cells, folder)
            spent[1].append(seconds(toolbox))
        gap = difference(bag, theirs, bag.provenance.sampling.patch_size)
        counts = "/".join(f"{bag.counts()[scale]:,}" for scale in SCALES)
        mine, other = (statistics.median(s) for s in spent)
        rows.append(
            f"| {encoder} | {counts} | {mine:.1f} | {other:.1f} | {other / mine:.2f} | {wanted} | "
            f"{gap:.3f} |"
        )
    side = cells * CELL_5X
    print("## Whole commands\n")
    print(
        f"A simulated slide of {side:,} x {side:,} px, 40x; whole processes taken in turn, medians of "
        f"{runs} runs. `stain-texture` on our side is `tiacf extract` as it comes; the toolbox has the "
        f"same batch size of 32, two workers and {peer_threads} thread of torch. "
        "Both read the same patches (checked). The last "
        "column is the mean difference between the features, in standard deviations.\n"
    )
    print(
        "| encoder | patches 5x/10x/20x | ours, s | `DeepFeatureExtractor`, s | ratio | wanted | "
        "features apart |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(rows), "\n")


class Busy:
    """Watches when an encoder has work.

    Attributes:
        spans: start and end of each batch, in seconds.
    """

    def __init__(self, encoder: object) -> None:
        """Time each call of the encoder's `encode` from now on."""
        self.spans: list[tuple[float, float]] = []
        encode, lock = encoder.encode, threading.Lock()  # type: ignore[attr-defined]

        def timed(images: np.ndarray) -> np.ndarray:
            started = time.perf_counter()
            features = encode(images)
            with lock:
                self.spans.append((started, time.perf_counter()))
            return features

        encoder.encode = timed  # type: ignore[attr-defined]

    def waiting(self) -> tuple[float, float]:
        """Seconds from the first batch to the last, and those of them without any batch."""
        spans = sorted(self.spans)
        idle, until = 0.0, spans[0][0]
        for start, end in spans:
            idle += max(0.0, start - until)
            until = max(until, end)
        return until - spans[0][0], idle


def encoders(folder: Path, device: str, cells: int, batch_size: int, num_workers: int) -> None:
    """Measure encoders on a device and print their table."""
    import timm
    import torch

    from tiacrossfusion.encoders.loading import load_encoder
    from tiacrossfusion.inference.extraction import extract_bag
    from tiacrossfusion.slides.options import ReadOptions
    from tiacrossfusion.slides.slide import open_slide
    from tiacrossfusion.slides.spec import SamplingSpec

    slide = folder / "for_encoders.svs"
    simulate(slide, cells)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU"
    print("## Encoders\n")
    print(
        f"On {name}, random weights, a simulated slide, batches of {batch_size}, {num_workers} reading "
        "threads. Alone: the same batch in memory again and again.\n"
    )
    print(
        "| encoder | precision | patches | patches/s alone | patches/s from the slide | "
        "time waiting for pixels |\n|---|---|---|---|---|---|"
    )
    for label, encoder_name in ENCODERS.items():
        torch.manual_seed(0)
        weights = folder / "random.pt"
        torch.save(timm.create_model(encoder_name.removeprefix("timm:")).state_dict(), weights)
        encoder = load_encoder(encoder_name, weights=weights, device=device)
        images = np.random.default_rng(0).integers(
            0, 256, (batch_size, 256, 256, 3), dtype=np.uint8
        )
        rounds = 20 if device.startswith("cuda") else 1
        for _ in encoder.encode_stream([images] * min(rounds, 3)):
            pass  # warm up
        started = time.perf_counter()
        for _ in encoder.encode_stream([images] * rounds):
            pass
        alone = rounds * batch_size / (time.perf_counter() - started)
        busy = Busy(encoder)
        with open_slide(slide) as opened:
            read = ReadOptions(batch_size=batch_size, num_workers=num_workers)
            bag = extract_bag(opened, SamplingSpec(), encoder, read)
        spent, idle = busy.waiting()
        patches = sum(bag.counts().values())
        print(
            f"| {label} | {encoder.precision} | {patches:,} | {alone:.1f} | {patches / spent:.1f} | "
            f"{idle / spent:.1%} |"
        )


@click.command()
@click.option("--part", type=click.Choice(["all", "commands", "encoders"]), default="all")
@click.option("--device", default="cpu", show_default=True, help="Of the encoder section.")
@click.option(
    "--cells", default=24, show_default=True, help="5x patches along a side of the slide."
)
@click.option("--runs", default=3, show_default=True)
@click.option(
    "--peer-threads", default=1, show_default=True, help="Threads of torch, toolbox side."
)
@click.option("--batch-size", default=32, show_default=True, help="Of the encoder section.")
@click.option("--num-workers", default=2, show_default=True, help="Of the encoder section.")
def main(
    part: str,
    device: str,
    cells: int,
    runs: int,
    peer_threads: int,
    batch_size: int,
    num_workers: int,
) -> None:
    """Measure and print Markdown."""
    print("# What extraction costs\n")
    print(f"Written by `benchmarks/extraction.py` on {os.cpu_count()} CPU cores.\n")
    with tempfile.TemporaryDirectory() as name:
        if part != "encoders":
            whole_commands(Path(name), cells, runs, peer_threads)
        if part != "commands":
            # A ViT-L takes about a second a patch on a core: few will do there.
            some = cells if device.startswith("cuda") else 2
            encoders(Path(name), device, some, batch_size, num_workers)


if __name__ == "__main__":
    main()
