"""Time and memory of attention scores, rollout and gradients; writes `attention.md` beside this file.

    python benchmarks/attention.py [--runs 3] [--threads 2] [--bag average] [--shrink 1]

Two bags: the average and the largest one of the paper. Each run is a separate process for one bag and one
method, and the methods alternate. Memory is the peak of the process minus its memory when the inputs were
made, so it includes the network's weights. The naive method uses the plain equations: all dense maps of a
layer at once, and their column means. For the largest bag that would take about 218 GiB, so it runs on the
average one only. A process runs once over the largest bag, after a pass over a 64th of it, and three times
over the average one, after one pass.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor

from tiacrossfusion.networks import attention
from tiacrossfusion.networks.attention_trace import trace_attention
from tiacrossfusion.networks.registry import build_network
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES

BAGS = {
    "average": {"5x": 895, "10x": 3449, "20x": 13_496},
    "largest": {"5x": 8624, "10x": 34_498, "20x": 137_990},
}
WIDTH, EMBED_DIM = 1024, 512
LAYERS = 10
WAYS = {
    "plain": "forward alone",
    "stages": "forward with the four scores of the stages (`attention=True`)",
    "all": "forward with the scores of all ten layers (`trace_attention`)",
    "naive": "the same, naively",
    "rollout": "forward and rollout (`rolled_attention`)",
    "gradients": "forward and gradients of the risk by the inputs",
}


def naively(query: Tensor, key: Tensor, value: Tensor, **_: float) -> Tensor:
    """Attention and the scores of the keys as the equations have them, with dense maps."""
    weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)  # (B, H, N, M)
    SCORES.append(weights.mean(dim=(1, 2)))  # (B, M)
    return weights @ value


SCORES: list[Tensor] = []


def passes(way: str) -> Callable[[list[Tensor]], None]:
    """Make the network and return what runs over a bag once."""
    torch.manual_seed(0)
    network = build_network("crossfusion", encoder_width=WIDTH, embed_dim=EMBED_DIM)
    network.eval().requires_grad_(False)
    if way == "naive":
        attention.scaled_dot_product_attention = naively

    def run(bags: list[Tensor]) -> None:
        SCORES.clear()
        if way == "gradients":
            for bag in bags:
                bag.requires_grad_()
            torch.autograd.grad(network(*bags).risk.sum(), bags)
        elif way == "rollout":
            network.rollout(SlideTokens(dict(zip(SCALES, bags, strict=True))))
        elif way == "all":
            with torch.no_grad(), trace_attention(network):
                network(*bags)
        else:
            with torch.no_grad():
                network(*bags, attention=way == "stages")
        if way == "naive" and len(SCORES) != LAYERS:
            raise SystemExit(f"{len(SCORES)} layers went the naive way, not {LAYERS}")

    return run


def memory(field: str) -> float:
    """GiB of this process that Linux gives under a name, such as VmRSS, or VmHWM for the peak."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 2**20  # KiB


def one_process(bag: str, way: str, shrink: int) -> dict[str, float]:
    """Median time of the passes and peak memory above the inputs."""
    counts = [max(1, n // shrink) for n in BAGS[bag].values()]
    bags = [torch.randn(1, n, WIDTH) for n in counts]
    before = memory("VmRSS")
    run = passes(way)
    largest = bag == "largest"
    run([x[:, : max(1, x.shape[1] // 64)].clone() for x in bags] if largest else bags)
    taken = []
    for _ in range(1 if largest else 3):
        started, started_cpu = time.perf_counter(), time.process_time()
        run(bags)
        taken.append((time.perf_counter() - started, time.process_time() - started_cpu))
    seconds, processor = (statistics.median(times) for times in zip(*taken, strict=True))
    return {
        "seconds": seconds,
        "processor": processor,
        "gibibytes": memory("VmHWM") - before,
    }


def measure(bag: str, way: str, threads: int, shrink: int) -> dict[str, float]:
    """Run this file in a separate process."""
    options = {"--bag": bag, "--way": way, "--threads": str(threads), "--shrink": str(shrink)}
    command = [sys.executable, __file__, *(word for pair in options.items() for word in pair)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def table(bag: str, runs: int, threads: int, shrink: int) -> list[str]:
    """Measure all ways over one bag and return the lines of its section."""
    ways = [way for way in WAYS if way != "naive" or bag == "average"]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(runs):
        for way in ways:
            found[way].append(measure(bag, way, threads, shrink))
    medians = {
        way: {name: statistics.median(run[name] for run in taken) for name in taken[0]}
        for way, taken in found.items()
    }
    counts = ", ".join(f"{max(1, n // shrink):,} at {scale}" for scale, n in BAGS[bag].items())
    lines = [
        f"## The {bag} bag: {counts}",
        "",
        "| | seconds | ratio | processor seconds | ratio | peak above the inputs, GiB |",
        "|---|---|---|---|---|---|",
    ]
    plain = medians["plain"]
    for way in ways:
        median, peak = medians[way], max(run["gibibytes"] for run in found[way])
        lines.append(
            f"| {WAYS[way]} | {median['seconds']:.2f} | {median['seconds'] / plain['seconds']:.2f} | "
            f"{median['processor']:.2f} | {median['processor'] / plain['processor']:.2f} | "
            f"{peak:.2f} |"
        )
    return [*lines, ""]


@click.command()
@click.option("--runs", default=3, show_default=True, help="Processes for each way and bag.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--bag", type=click.Choice([*BAGS]), help="Print the figures of this bag alone.")
@click.option("--shrink", default=1, help="Print the figures of bags so many times smaller.")
@click.option("--way", type=click.Choice([*WAYS]), hidden=True)
def main(runs: int, threads: int, bag: str | None, shrink: int, way: str | None) -> None:
    """Measure all ways over both bags and write the tables."""
    torch.set_num_threads(threads)
    if way is not None and bag is not None:
        click.echo(json.dumps(one_process(bag, way, shrink)))
        return

    load = os.getloadavg()[0]
    lines = [
        "# Attention in linear memory",
        "",
        f"CrossFusion of {EMBED_DIM} dimensions, {WIDTH} features a token, float32. Medians of the times "
        f"and largest peaks of {runs} processes each, in turn, with {threads} threads "
        f"({platform.machine()}, {os.cpu_count()} cores), torch {torch.__version__}. Ratios are to the "
        f"forward alone. Load by other programs when it started: {load:.1f}. Written by "
        "`attention.py`, which says how memory is counted.",
        "",
        "Wanted: on the largest bag all scores within 4 GiB and 2.2 times the forward alone, on the "
        "average bag within 1.75 times and not slower than naively.",
        "",
    ]
    for name in [bag] if bag is not None else BAGS:
        lines += table(name, runs, threads, shrink)
    text = "\n".join(lines[:-1]) + "\n"
    if bag is None and shrink == 1:
        Path(__file__).with_suffix(".md").write_text(text)
    else:
        click.echo(text, nl=False)


if __name__ == "__main__":
    main()
