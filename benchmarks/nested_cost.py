"""Time and memory of nested fusion beside CrossFusion at E = 1024, D = 512; writes `nested_cost.md`.

    python benchmarks/nested_cost.py [--runs 3]

Each measurement is a process of its own with one thread, the networks in turn. Times are seconds of the
processor. Memory is the largest resident size of the process less that with the inputs in place.
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
from collections.abc import Callable
from pathlib import Path

import click
import torch

from tiacrossfusion.explain.attribution import attribute_tokens
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.registry import build_network
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.survival.losses import nll_loss

WIDTH, EMBED_DIM = 1024, 512
NETWORKS = ("nested-fusion", "crossfusion")
#: Patches at 5x, 10x and 20x: the average and the largest bag of the cohorts (docs/crossfusion.md).
AVERAGE, LARGEST = (895, 3_449, 13_496), (8_624, 34_498, 137_990)
TASKS = ("forward", "training step", "attribution")


def bag(counts: tuple[int, ...]) -> SlideTokens:
    """Tokens of noise, float16 as bags store them, the finer ones on the cells of the coarser ones."""
    side = int(counts[0] ** 0.5) + 1
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))[: counts[0]]
    grid = {"5x": cells[None]}
    for scale, n in zip(SCALES[1:], counts[1:], strict=True):
        corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        cells = (2 * cells[:, None] + corners).flatten(0, 1)
        cells = cells[torch.randperm(len(cells))[:n].sort().values]
        grid[scale] = cells[None]
    features = {s: torch.randn(1, grid[s].shape[1], WIDTH).half() for s in SCALES}
    return SlideTokens(features, grid)


def network_of(name: str) -> TrainedNetwork:
    """Return a network in standardisation, as training makes it."""
    made = build_network(name, encoder_width=WIDTH, embed_dim=EMBED_DIM)
    return TrainedNetwork(made, standardise=True)


def seconds(work: Callable[[], object], times: int) -> float:
    """Return the least processor time of a few runs after a first one."""
    work()
    taken = []
    for _ in range(times):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def measure(name: str, task: str) -> float:
    """Measure one task with the average bag, or the memory with the largest."""
    torch.manual_seed(0)
    network, tokens = network_of(name), bag(LARGEST if task == "memory" else AVERAGE)
    if task == "memory":
        before = resident()
        with torch.inference_mode():
            call_network(network.eval(), tokens, attention=True)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    if task == "attribution":
        network.eval()
        return seconds(lambda: attribute_tokens(network, tokens), 2)
    if task == "forward":
        network.eval()
        with torch.inference_mode():
            return seconds(lambda: call_network(network, tokens), 2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    target = torch.tensor([1]), torch.tensor([1])

    def step() -> None:
        optimiser.zero_grad()
        nll_loss(call_network(network.train(), tokens).hazards, *target).backward()
        optimiser.step()

    return seconds(step, 1)


def resident() -> int:
    """Resident memory of this process in KiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@click.command()
@click.option("--runs", default=3, show_default=True, help="Processes for each measurement.")
@click.option("--one", nargs=2, hidden=True, help="A network and a task, measured in this process.")
def main(runs: int, one: tuple[str, str] | None) -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    if one:
        click.echo(json.dumps(measure(*one)))
        return

    def run(name: str, task: str) -> float:
        command = [sys.executable, __file__, "--one", name, task]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return json.loads(done.stdout)

    load = os.getloadavg()[0]
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for task in TASKS:
            for name in NETWORKS:
                found.setdefault((name, task), []).append(run(name, task))
    memory = [run("nested-fusion", "memory") for _ in range(runs)]
    median = {key: statistics.median(values) for key, values in found.items()}
    lines = [
        "# Cost of nested fusion beside CrossFusion",
        "",
        f"Written by `nested_cost.py`: E = {WIDTH}, D = {EMBED_DIM}, "
        f"{' / '.join(map(str, AVERAGE))} patches at 5x / 10x / 20x, standardisation included, one thread. "
        f"Medians of {runs} processes, processor seconds ({platform.machine()}, torch "
        f"{torch.__version__}; load by other programs at the start {load:.1f}). "
        "Attribution is that of all tokens, terms and scales.",
        "",
        "| | nested-fusion | crossfusion | ratio |",
        "|---|---|---|---|",
    ]
    for task in TASKS:
        ours, theirs = (median[name, task] for name in NETWORKS)
        lines.append(f"| {task} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} |")
    for name in NETWORKS:
        ratios = [
            a / f for a, f in zip(found[name, "attribution"], found[name, "forward"], strict=True)
        ]
        lines.append(
            f"| attribution in forwards, {name} | {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}) | | |"
        )
    lines += [
        "",
        f"Forward of the largest bag ({' / '.join(map(str, LARGEST))}) with all scores: "
        f"{max(memory):.2f} GiB above the inputs (largest of {runs}).",
        "",
        "Wanted: forward and training step at least 10 times cheaper than CrossFusion's, the largest "
        "bag below 1.5 GiB, attribution within 4 forwards.",
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
