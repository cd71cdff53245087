"""Patches per second of three encoders on the CPU; writes `encoder_speed.md` beside this file.

The timm models run on random weights, made here: speed does not depend on them.
"""

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch

from tiacrossfusion.encoders.encoder import Encoder
from tiacrossfusion.encoders.loading import load_encoder

PATCHES = 256
REPEATS = 5
NAMES = ("stain-texture", "timm:mobilenetv3_small_050", "timm:lcnet_035")


def measure(encoder: Encoder, images: np.ndarray) -> tuple[float, float]:
    """Patches per second and processor milliseconds per patch.

    Medians of `REPEATS` runs after one that is not counted. The second number suffers less when
    other programs use the cores too.
    """
    rates, costs = [], []
    for _ in range(REPEATS + 1):
        start, start_cpu = time.perf_counter(), time.process_time()
        encoder.encode(images)
        rates.append(len(images) / (time.perf_counter() - start))
        costs.append((time.process_time() - start_cpu) / len(images) * 1e3)
    return statistics.median(rates[1:]), statistics.median(costs[1:])


def load_for_timing(name: str, folder: Path) -> Encoder:
    """The shipped encoder as it is, others on a file of random weights."""
    if name == "stain-texture":
        return load_encoder(name)
    torch.manual_seed(0)
    path = folder / "random.pt"
    torch.save(timm.create_model(name.removeprefix("timm:")).state_dict(), path)
    return load_encoder(name, weights=path)


def main() -> None:
    """Time the encoders and write the table."""
    images = np.random.default_rng(0).integers(0, 256, (PATCHES, 256, 256, 3), dtype=np.uint8)
    lines = [
        "# Speed of small encoders",
        "",
        f"Patches of 256 px per second on {torch.get_num_threads()} CPU cores "
        f"({platform.machine()}), medians of {REPEATS} runs over {PATCHES} patches of noise, "
        f"torch {torch.__version__}, timm {timm.__version__}. Written by `encoder_speed.py`; "
        "the timm models ran on random weights. Load by other programs when it started: "
        f"{os.getloadavg()[0]:.1f}.",
        "",
        "| encoder | features | patches/s | processor ms a patch |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            encoder = load_for_timing(name, Path(folder))
            rate, cost = measure(encoder, images)
            lines.append(f"| `{name}` | {encoder.spec.width} | {rate:.0f} | {cost:.2f} |")
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
