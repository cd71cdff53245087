"""Cost of the main commands: start-up, simulation, prediction, the demonstration.

    python benchmarks/main_job.py [--slide SLIDE] > benchmarks/main_job.md

Whole processes, each alone on the machine; medians of several runs, peak memory as the operating system
counts it for the process. Start-up has `tiatoolbox --help` as its peer, measured in turn with it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

BIN = Path(sys.executable).parent


@dataclass
class Cost:
    """Median seconds and largest peak of memory over some runs."""

    seconds: float
    gibibytes: float


def cost(*commands: list[str], runs: int) -> list[Cost]:
    """Run commands in turn, several times, and measure each."""
    seconds: list[list[float]] = [[] for _ in commands]
    peaks: list[list[float]] = [[] for _ in commands]
    for _ in range(runs):
        for number, command in enumerate(commands):
            started = time.perf_counter()
            with open(os.devnull, "wb") as null:  # noqa: PTH123 - a file descriptor is needed
                child = os.posix_spawn(
                    command[0],
                    command,
                    os.environ,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, null.fileno(), 1),
                        (os.POSIX_SPAWN_DUP2, null.fileno(), 2),
                    ],
                )
                _, status, usage = os.wait4(child, 0)
            assert status == 0, f"{command} failed"  # noqa: S101
            seconds[number].append(time.perf_counter() - started)
            peaks[number].append(usage.ru_maxrss / 2**20)  # KiB on Linux
    return [Cost(statistics.median(s), max(p)) for s, p in zip(seconds, peaks, strict=True)]


@click.command()
@click.option("--slide", type=Path, help="A slide to predict; otherwise a simulated one.")
@click.option("--runs", default=3, show_default=True)
def main(slide: Path | None, runs: int) -> None:
    """Measure and print a Markdown table."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiacf = str(BIN / "tiacf")
        ours, theirs = cost(
            [tiacf, "--help"], [str(BIN / "tiatoolbox"), "--help"], runs=max(runs, 5)
        )
        ratio = ours.seconds / theirs.seconds
        rows.append(("`tiacf --help`", ours, f"{ratio:.2f} times `tiatoolbox --help`"))

        simulated = folder / "simulated.svs"
        code = (
            "from tiacrossfusion.simulation.parameters import TissueParameters\n"
            "from tiacrossfusion.simulation.slide import render_slide\n"
            f"render_slide({str(simulated)!r}, TissueParameters(0.5, 0.5, 0.5), "
            "size=(10_000, 10_000), mpp=0.25)"
        )
        (drawn,) = cost([sys.executable, "-c", code], runs=runs)
        rows.append(("simulate a slide of 10,000 x 10,000 px", drawn, "at most 20 s"))

        slide = slide or simulated
        out = folder / "out"

        predict = [tiacf, "predict", "--img-input", str(slide), "--output-path", str(out)]
        (predicted,) = cost([*predict, "--overwrite"], runs=runs)
        label = f"`tiacf predict`, {slide.name}"
        rows.append((label, predicted, "at most 180 s and 4 GiB"))
        (resumed,) = cost(predict, runs=runs)
        rows.append(("the same again, finished", resumed, ""))

        def demonstration() -> Cost:
            shutil.rmtree(folder / "demo", ignore_errors=True)
            return cost([tiacf, "demo", "--output-path", str(folder / "demo")], runs=1)[0]

        demos = [demonstration() for _ in range(runs)]
        demo = Cost(statistics.median(d.seconds for d in demos), max(d.gibibytes for d in demos))
        rows.append(("`tiacf demo`", demo, "at most 180 s"))

    print("# What the main job costs\n")
    print(
        f"Written by `benchmarks/main_job.py` on {os.cpu_count()} CPU cores: whole processes with all "
        f"imports, medians of {runs} runs, largest peak of memory.\n"
    )
    print("| command | seconds | peak memory, GiB | wanted |\n|---|---|---|---|")
    for label, spent, wanted in rows:
        print(f"| {label} | {spent.seconds:.2f} | {spent.gibibytes:.2f} | {wanted} |")


if __name__ == "__main__":
    main()
