"""Peak memory of `tiacf extract` on a slide of more than 100,000 x 100,000 px.

    python benchmarks/extraction_memory.py > benchmarks/extraction_memory.md

The slide is a mosaic of 102,400 x 102,400 px: one encoded tile of glass, and blocks of simulated tissue
scattered over it, with levels reduced 4 and 16 times or with level 0 alone. What the encoder and the
imports need is measured by the same command on a slide of a single block.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from mosaic import BLOCK, GLASS, SOURCE_BLOCKS, simulate_source, write_mosaic

from tiacrossfusion.bags.bag import FeatureBag

TIACF = Path(sys.executable).parent / "tiacf"
SIDE = 25  # blocks along a side of the large slide
TISSUE_BLOCKS = 80  # of the 625; about 36 patches at 20x each
WANTED = 2.0  # GiB above the encoder's own


@dataclass(frozen=True)
class Peak:
    """What one run needed at most, in GiB.

    Attributes:
        resident: as the operating system counts it, with pages of files.
        own: memory that is no page of a file, the largest of a sample taken every 20 ms.
        seconds: how long it took.
    """

    resident: float
    own: float
    seconds: float


def peak(command: list[str]) -> Peak:
    """Run a command and watch its memory."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own = [0]
    ended = threading.Event()

    def watch() -> None:
        status = Path(f"/proc/{child.pid}/status")
        while not ended.wait(0.02):
            lines = status.read_text().splitlines()
            own.extend(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    # Waited for without being reaped: its entry in /proc stays until the watching has ended.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended.set()
    watching.join()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert status == 0, f"{command} failed"  # noqa: S101
    kibi = 2**20  # of them in a GiB; Linux counts in KiB
    return Peak(usage.ru_maxrss / kibi, max(own) / kibi, time.perf_counter() - started)


def extract(slide: Path, out: Path) -> list[str]:
    """The command whose memory is measured."""
    return [str(TIACF), "extract", "--img-input", str(slide), "--output-path", str(out)]


@click.command()
@click.option("--flat/--no-flat", default=True, help="Whether to measure level 0 alone too.")
def main(*, flat: bool) -> None:
    """Measure and print a Markdown table."""
    rng = np.random.default_rng(0)
    scattered = np.full((SIDE, SIDE), GLASS)
    places = rng.choice(SIDE**2, TISSUE_BLOCKS, replace=False)
    scattered.flat[places] = rng.integers(0, SOURCE_BLOCKS, TISSUE_BLOCKS)
    variants = {
        "one block": (np.array([[0]]), True),
        "levels 1, 4, 16": (scattered, True),
        "level 0 alone": (scattered, False),
    }
    if not flat:
        del variants["level 0 alone"]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_source(folder / "source.svs")
        for label, (layout, pyramid) in variants.items():
            slide, out = folder / "slide.svs", folder / label.replace(" ", "-")
            write_mosaic(slide, folder / "source.svs", layout, pyramid=pyramid)
            measured = peak(extract(slide, out))
            counts = FeatureBag.load(out / "slide.zarr").counts()
            rows.append((label, layout.shape[0] * BLOCK, counts["20x"], measured))
            slide.unlink()

    base = rows[0][-1]
    print("# Memory of extraction\n")
    print(
        f"Written by `benchmarks/extraction_memory.py` on {os.cpu_count()} CPU cores: one run of "
        "`tiacf extract` each, with its own encoder and settings. The first row is what imports and "
        f"encoder need; wanted is less than {WANTED:g} GiB above it. Resident memory counts pages of "
        "files, own memory does not.\n"
    )
    print(
        "| slide | side, px | 20x patches | seconds | peak resident, GiB | above the first | "
        "peak own, GiB | above the first |\n|---|---|---|---|---|---|---|---|"
    )
    for label, side, patches, it in rows:
        print(
            f"| {label} | {side:,} | {patches:,} | {it.seconds:.0f} | {it.resident:.2f} | "
            f"{it.resident - base.resident:.2f} | {it.own:.2f} | {it.own - base.own:.2f} |"
        )


if __name__ == "__main__":
    main()
