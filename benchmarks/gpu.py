"""What a GPU does: patches encoded per second, training steps, and attribution; writes `gpu.md`.

    python benchmarks/gpu.py [--output gpu.md]

Encoders and networks have random weights, on which speed does not depend. The peer of an encoder is the plain
loop that most pipelines have: a batch of images is copied, converted, normalised and encoded in float32, and
the features are copied back before the next batch is sent.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch

from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.registry import build_network, recipe_of
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.survival.losses import nll_loss

ENCODERS = ("resnet50", "vit_large_patch16_224")
BATCH, PATCHES = 128, 2048
#: Tokens of an average slide at 5x, 10x and 20x, and of a large one.
SLIDES = {"average": (895, 3449, 13_496), "large": (7_000, 28_000, 112_000)}
NETWORKS = (
    "nested-fusion",
    "crossfusion",
    "transmil",
    "abmil",
    "mean-pool",
    "nested-fusion-5x-10x",
)
WIDTH = 1024


def medians(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the median of seconds, after one run that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def encoders() -> list[str]:
    """Return a table of patches per second."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (BATCH, 256, 256, 3), np.uint8) for _ in range(PATCHES // BATCH)]
    lines = [
        "| encoder | plain loop, float32 | float32 | bfloat16 | float16 (default) | default over plain |",
        "|---|---|---|---|---|---|",
    ]
    for name in ENCODERS:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            network = timm.create_model(name, num_classes=0)
            weights = Path(folder) / "weights.pt"
            torch.save(network.state_dict(), weights)
            rates = {}
            for precision in ("float32", "bfloat16", "float16"):
                encoder = load_encoder(
                    f"timm:{name}", weights=weights, device="cuda", precision=precision
                )
                rates[precision] = PATCHES / medians(
                    lambda e=encoder: list(e.encode_stream(images))
                )
        network = network.eval().cuda()
        rates["plain"] = PATCHES / medians(lambda n=network: plain_loop(n, images))
        cells = [f"{rates[key]:,.0f}" for key in ("plain", "float32", "bfloat16", "float16")]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {rates['float16'] / rates['plain']:.1f} times |"
        )
        print(lines[-1], flush=True)
    return lines


@torch.inference_mode()
def plain_loop(network: torch.nn.Module, images: list[np.ndarray]) -> list[np.ndarray]:
    """Encode batch by batch."""
    mean = torch.tensor([0.485, 0.456, 0.406], device="cuda").view(3, 1, 1)
    sd = torch.tensor([0.229, 0.224, 0.225], device="cuda").view(3, 1, 1)
    size = network.pretrained_cfg.get("input_size", (3, 224, 224))[1]
    fixed = "vit" in network.pretrained_cfg.get("architecture", "vit")
    found = []
    for batch in images:
        x = torch.from_numpy(batch).cuda().permute(0, 3, 1, 2).float() / 255
        if fixed:
            x = torch.nn.functional.interpolate(
                x, size=(size, size), mode="bicubic", antialias=True
            )
        found.append(network((x - mean) / sd).cpu().numpy())
    return found


def tokens_of(counts: tuple[int, int, int]) -> SlideTokens:
    """Return a slide on nested grids: about four 10x patches in a 5x one, and four 20x patches in those."""
    generator = torch.Generator().manual_seed(0)
    side = int(np.ceil(np.sqrt(counts[0])))
    order = torch.arange(counts[0])
    grid = {"5x": torch.stack([order % side, order // side], dim=1)}
    quarters = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    for coarse, fine, n in (("5x", "10x", counts[1]), ("10x", "20x", counts[2])):
        inside = (2 * grid[coarse][:, None] + quarters).reshape(-1, 2)
        kept = torch.ones(len(inside), dtype=torch.bool)
        spare = len(inside) - n
        kept[4 * torch.randperm(len(inside) // 4, generator=generator)[: max(0, spare)]] = (
            spare <= 0
        )
        grid[fine] = inside[kept]
    features = {s: torch.randn(1, len(g), WIDTH, generator=generator) for s, g in grid.items()}
    return SlideTokens(features, {s: g[None] for s, g in grid.items()})


def steps() -> list[str]:
    """Return a table of training steps and predictions."""
    lines = [
        "| network | slide | training step, ms | peak, GiB | prediction, ms | peak, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        for slide, counts in SLIDES.items():
            tokens = tokens_of(counts).to("cuda", torch.float32)
            torch.manual_seed(0)
            # As `tiacf train` makes them.
            network = TrainedNetwork(
                build_network(name, encoder_width=WIDTH, embed_dim=512),
                standardise=True,
                statistics=recipe_of(name).statistics,
            ).cuda()
            if network.statistics is not None:
                network.statistics.left.normal_()
                network.statistics.right.normal_()
                network.statistics.rare.normal_()
            optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
            target = torch.tensor([1], device="cuda"), torch.tensor([1], device="cuda")

            def step(network=network, optimiser=optimiser, tokens=tokens, target=target) -> None:
                optimiser.zero_grad()
                with torch.autocast("cuda", torch.bfloat16):
                    output = call_network(network, tokens)
                nll_loss(output.hazards.float(), *target).backward()
                optimiser.step()

            @torch.inference_mode()
            def predict(network=network, tokens=tokens) -> None:
                call_network(network, tokens, attention=True)

            cells = []
            for work, mode in ((step, True), (predict, False)):
                network.train(mode)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                try:
                    seconds = medians(work)
                    peak = torch.cuda.max_memory_allocated() / 2**30
                    cells += [f"{1000 * seconds:.1f}", f"{peak:.2f}"]
                except torch.cuda.OutOfMemoryError:
                    cells += ["out of memory", ""]
            lines.append(f"| {name} | {slide} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    device = torch.cuda.get_device_name()
    lines = [
        "# A GPU",
        "",
        f"Output of benchmarks/gpu.py on one {device}, {platform.machine()}, torch {torch.__version__}. "
        f"Patches of 256 px per second, batches of {BATCH}, medians of 5 runs over {PATCHES:,} patches in "
        "memory (so without reading the slide, which keeps the GPU waiting on most machines):",
        "",
        *encoders(),
        "",
        f"A training step (forward, loss, backward, AdamW, bfloat16) and a prediction with attention "
        f"(float32), features of width {WIDTH}; "
        + ", ".join(f"{slide} {sum(counts):,} tokens" for slide, counts in SLIDES.items())
        + ":",
        "",
        *steps(),
    ]
    options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
