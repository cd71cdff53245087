"""Time to read a bag in training, as a store and from the cache; writes `bag_reading.md`.

    python benchmarks/bag_reading.py --work-dir work [--bags 100]

Bags of the average size with features of noise. An epoch reads all of them in an order of its own and touches
every value. Cold: the pages of the files are given back to the system first.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.simulation.bags import BagOptions, draw_bag
from tiacrossfusion.simulation.planted import draw_planted_cohort, slide_rng
from tiacrossfusion.training import bags as of_bags
from tiacrossfusion.training.bag_cache import BagCache

WIDTH, SIDE = 1024, 29  # 841 / 3,364 / 13,456 patches, as the average bag


def make(folder: Path, number: int) -> Path:
    """Write a bag of noise."""
    store = folder / f"{number}.zarr"
    if not store.exists():
        row = draw_planted_cohort(1, number, scenario="product", side=SIDE).iloc[0].to_dict()
        options = BagOptions("product", encoder_width=4, side=SIDE)
        bag = draw_bag(row | {"slide": str(number)}, slide_rng(number, 0), options)
        rng = np.random.default_rng(number)
        scales = {
            scale: ScaleFeatures(
                rng.standard_normal((len(s.grid), WIDTH), np.float32).astype(np.float16),
                s.bounds,
                s.grid,
            )
            for scale, s in bag.scales.items()
        }
        encoder = bag.provenance.encoder.model_copy(update={"width": WIDTH})
        made = bag.provenance.model_copy(update={"encoder": encoder})
        FeatureBag(scales, made).save(store)
    return store


def give_back(folder: Path) -> None:
    """Ask the system to drop the pages of the files of a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def anonymous() -> float:
    """Return the resident memory of this process that belongs to no file, in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20


def epoch(cohort: of_bags.CohortBags, slides: list[str], touch: Callable[..., object]) -> float:
    """Return the seconds a bag of one pass over all bags."""
    order = [slides[i] for i in np.random.default_rng(0).permutation(len(slides))]
    started = time.perf_counter()
    for (tokens,) in cohort.read([slide] for slide in order):
        touch(tokens)
    return (time.perf_counter() - started) / len(slides)


@click.command()
@click.option("--work-dir", type=Path, required=True)
@click.option("--bags", "count", default=100, show_default=True)
@click.option("--epochs", default=5, show_default=True)
def main(work_dir: Path, count: int, epochs: int) -> None:
    """Measure and write the page."""
    stores = work_dir / "bags"
    stores.mkdir(parents=True, exist_ok=True)
    sources = {str(number): make(stores, number) for number in range(count)}
    of_bags._IN_MEMORY = 0
    load = os.getloadavg()[0]

    def open_only(tokens: object) -> None:
        del tokens

    def touch(tokens: of_bags.SlideTokens) -> None:
        for x in tokens.features.values():
            x.view(-1)[:: 2048 // x.element_size()].sum()  # a value of every page

    started = time.perf_counter()
    plain = of_bags.CohortBags(sources, show_progress=False)
    checking = (time.perf_counter() - started) / count
    started = time.perf_counter()
    cache = BagCache(work_dir / "cache")
    cached = of_bags.CohortBags(sources, cache=cache, show_progress=False)
    making = (time.perf_counter() - started) / count - checking
    size = sum(path.stat().st_size for path in cache.folder.iterdir())
    slides = list(sources)
    rows: list[tuple[str, list[float]]] = []
    rows.append(("bags, each epoch", [epoch(plain, slides, open_only) for _ in range(epochs)]))
    memory = [anonymous()]
    warm, touched = [], []
    for _ in range(epochs):
        warm.append(epoch(cached, slides, open_only))
        touched.append(epoch(cached, slides, touch))
        memory.append(anonymous())
    cold = []
    for _ in range(epochs):
        give_back(cache.folder)
        cold.append(epoch(cached, slides, touch))
    rows += [
        ("cache, opened", warm),
        ("cache, every page read, pages in memory", touched),
        ("cache, every page read, pages given back before", cold),
    ]
    lines = [
        "# Reading bags in training",
        "",
        f"Written by `bag_reading.py`: {count} bags of 841 / 3,364 / 13,456 patches, {WIDTH} features in "
        f"float16 ({size / 2**30:.1f} GiB uncompressed; 1,000 such bags are "
        f"{1000 * size / count / 2**30:.0f} GiB). Seconds a bag, medians of {epochs} epochs "
        f"({platform.machine()}, {os.cpu_count()} cores; load by other programs at the start {load:.1f}). "
        "`tiacf train` uses the cache when a cohort is larger than 4 GiB; one bag is read ahead in a thread, "
        "as in training.",
        "",
        "| | seconds a bag | smallest to largest | ratio |",
        "|---|---|---|---|",
    ]
    first = statistics.median(rows[0][1])
    for name, values in rows:
        value = statistics.median(values)
        lines.append(
            f"| {name} | {value:.4f} | {min(values):.4f} to {max(values):.4f} | {first / value:.0f} |"
        )
    lines += [
        "",
        f"Making the cache takes {making:.3f} s a bag, once, beside the check of {checking:.3f} s that every "
        f"training begins with. Resident memory that belongs to no file: {memory[0]:.2f} GiB before the "
        f"first epoch from the cache, {memory[-1]:.2f} after the last.",
        "",
        "Wanted: 0.01 s a bag or less, memory flat.",
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    cache.remove()


if __name__ == "__main__":
    main()
