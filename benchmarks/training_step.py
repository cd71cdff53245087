"""Time and peak memory of one training step at the average bag; writes `training_step.md` beside this file.

    python benchmarks/training_step.py [--runs 3] [--threads 2]

A step is forward, loss, backward and AdamW, with dropout 0.3 and attention dropout 0.2, as in training. Each
run is a separate process with two steps; the second one, in which gradients and the optimiser's state exist,
is timed. Memory is the peak of the whole process. PyTorch's attention with dropout is measured in turn with
ours.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tiacrossfusion.networks import attention
from tiacrossfusion.networks.registry import build_network
from tiacrossfusion.survival.losses import nll_loss

TOKENS = {"5x": 895, "10x": 3449, "20x": 13_496}
WIDTH, EMBED_DIM = 1024, 512
WAYS = {"ours": "ours, weights computed again", "dense": "PyTorch's, dense weights kept"}


def plain(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Attention with dropout as PyTorch has it."""
    return scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def two_steps(device: str) -> dict[str, float]:
    """Take two training steps; time of the second, and on a GPU the peak of its memory in GiB.

    Seconds of the processor suffer less than those of the clock when other programs use the cores too.
    """
    torch.manual_seed(0)
    network = build_network(
        "crossfusion",
        encoder_width=WIDTH,
        embed_dim=EMBED_DIM,
        dropout=0.3,
        attention_dropout=0.2,
    ).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    bags = [torch.randn(1, n, WIDTH, device=device) for n in TOKENS.values()]
    target = torch.tensor([1], device=device), torch.tensor([1], device=device)
    seconds = processor = 0.0
    for _ in range(2):
        started, started_cpu = time.perf_counter(), time.process_time()
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            output = network(*bags)
        nll_loss(output.hazards, *target).backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        processor = time.process_time() - started_cpu
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"seconds": seconds, "processor": processor, "gibibytes": peak}


def measure(way: str, threads: int) -> dict[str, float]:
    """Run this file in a separate process."""
    command = [sys.executable, __file__, "--way", way, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@click.command()
@click.option("--runs", default=3, show_default=True, help="Processes for each way.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--way", type=click.Choice([*WAYS, "cuda"]), hidden=True)
def main(runs: int, threads: int, way: str | None) -> None:
    """Measure the step and write the table."""
    torch.set_num_threads(threads)
    if way == "cuda":
        click.echo(json.dumps(two_steps("cuda")))
        return
    if way is not None:
        if way == "dense":
            attention.dropped_attention = plain
        taken = two_steps("cpu")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        click.echo(json.dumps(taken | {"gibibytes": peak}))
        return

    load = os.getloadavg()[0]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(runs):
        for name in WAYS:
            found[name].append(measure(name, threads))
    rows = [(f"CPU, float32, attention {text}", found[name]) for name, text in WAYS.items()]
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        rows.append((f"{device}, bf16 autocast", [measure("cuda", threads) for _ in range(runs)]))
    tokens = ", ".join(f"{n:,} tokens at {scale}" for scale, n in TOKENS.items())
    lines = [
        "# One training step at the average bag",
        "",
        f"CrossFusion of {EMBED_DIM} dimensions on {tokens}, {WIDTH} features each: forward, discrete "
        "NLL, backward and AdamW, dropout 0.3 and attention dropout 0.2 on. Medians of the seconds and "
        f"largest peaks of the memory of {runs} processes each, in turn; on the CPU {threads} threads "
        f"({platform.machine()}, {os.cpu_count()} cores) and the memory of the whole process, on a GPU "
        f"the memory allocated there. torch {torch.__version__}. Load by other programs when it started: "
        f"{load:.1f}. Written by `training_step.py`. Wanted: below 6 GiB on the CPU.",
        "",
        "| device and attention | seconds | processor seconds | peak memory, GiB |",
        "|---|---|---|---|",
    ]
    for label, taken in rows:
        seconds, processor = (
            statistics.median(run[name] for run in taken) for name in ("seconds", "processor")
        )
        peak = max(run["gibibytes"] for run in taken)
        lines.append(f"| {label} | {seconds:.2f} | {processor:.2f} | {peak:.2f} |")
    if not torch.cuda.is_available():
        lines.append("| GPU, bf16 autocast | not measured: no CUDA device | | |")
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
