"""Time and memory of the GeoJSON files of a large slide.

    python benchmarks/geojson_files.py [--tiles 150000] [--runs 3] > benchmarks/geojson_files.md

A synthetic slide with all scores: attention at five stages with percentiles, attribution of four. Each run
is a separate process; its memory is the peak minus the memory before the scores were assigned to tiles.
"All" is from attention per token to the three files.
"""

from __future__ import annotations

import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.encoders.spec import EncoderSpec
from tiacrossfusion.explain.hotspots import find_hotspots
from tiacrossfusion.explain.scores import slide_scores
from tiacrossfusion.inference.slide import SlideResult
from tiacrossfusion.outputs.geojson_files import QuPathWriter
from tiacrossfusion.slides.spec import CELLS_20X, SCALES, SamplingSpec

SIDE = 506  # level-0 pixels of a 20x tile


def made_up_bag(tiles: int) -> FeatureBag:
    """A square slide of so many 20x tiles at least, all tissue."""
    side = CELLS_20X["5x"] * math.ceil(math.sqrt(tiles) / CELLS_20X["5x"])
    scales = {}
    for scale in SCALES:
        rows, columns = np.mgrid[0 : side // CELLS_20X[scale], 0 : side // CELLS_20X[scale]]
        grid = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.int32)
        bounds = np.concatenate([grid, grid + 1], axis=1).astype(np.int64) * SIDE * CELLS_20X[scale]
        scales[scale] = ScaleFeatures(np.zeros((len(grid), 1), np.float16), bounds, grid)
    provenance = Provenance(
        slide="made up.svs",
        slide_size=0,
        slide_hash="",
        dimensions=(side * SIDE, side * SIDE),
        mpp=(0.25, 0.25),
        power=40,
        offset=(0, 0),
        mask="none",
        sampling=SamplingSpec(),
        encoder=EncoderSpec(name="made-up", width=1, mean=(0, 0, 0), std=(1, 1, 1), input_size=224),
        versions={},
    )
    return FeatureBag(scales, provenance)


def memory() -> float:
    """Most memory that this process has had, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def one_run(tiles: int, *, compress: bool) -> dict[str, float]:
    """Write the files once."""
    import cv2  # noqa: F401 - loading the libraries is no part of it
    import matplotlib  # noqa: F401 - the same

    bag = made_up_bag(tiles)
    rng = np.random.default_rng(0)
    lengths = bag.counts() | {"fused": len(bag.scales["10x"])}
    attention = {stage: rng.dirichlet(np.ones(n)) for stage, n in lengths.items()}
    rolled = {scale: rng.dirichlet(np.ones(n)) / 3 for scale, n in bag.counts().items()}
    attribution = {scale: rng.normal(0, 1e-4, n) for scale, n in bag.counts().items()}
    prediction = SimpleNamespace(
        attention=attention, rolled=rolled, attribution=SimpleNamespace(values=attribution)
    )
    config = SimpleNamespace(name="made-up model", card=SimpleNamespace(notice="benchmark"))
    before, started, processor = memory(), time.perf_counter(), time.process_time()
    scores = slide_scores(bag, None, prediction)
    hotspots = find_hotspots(bag, scores["20x"])
    result = SlideResult(bag, prediction, config, "", scores, hotspots)
    scored = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        writer = QuPathWriter(gzip=compress)
        writer.write(Path(folder), "slide", result)
        paths = [Path(folder) / f"slide{suffix}" for suffix in writer.suffixes]
        ended, processor = time.perf_counter(), time.process_time() - processor
        size = sum(path.stat().st_size for path in paths) / 1e6
        first = paths[0].stat().st_size / 1e6
    return {
        "tiles": len(bag.scales["20x"]),
        "scores": scored - started,
        "files": ended - scored,
        "processor": processor,
        "memory": memory() - before,
        "peak": memory(),
        "size": size,
        "first": first,
    }


@click.command()
@click.option("--tiles", default=150_000, show_default=True)
@click.option("--runs", default=3, show_default=True)
@click.option("--child", type=click.Choice(["plain", "gz"]), hidden=True)
def main(tiles: int, runs: int, child: str | None) -> None:
    """Measure and print a Markdown page."""
    if child is not None:
        click.echo(json.dumps(one_run(tiles, compress=child == "gz")))
        return
    lines = [
        "| files | scores on tiles | writing | all | of the processor | memory added | whole process | "
        "20x file | all files |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, name in (("plain", ".geojson"), ("gz", ".geojson.gz")):
        command = [sys.executable, __file__, "--tiles", str(tiles), "--child", kind]
        done = [
            json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            for _ in range(runs)
        ]
        middle = {key: statistics.median(run[key] for run in done) for key in done[0]}
        lines.append(
            f"| {name} | {middle['scores']:.2f} s | {middle['files']:.2f} s | "
            f"{middle['scores'] + middle['files']:.2f} s | {middle['processor']:.2f} s | "
            f"{middle['memory']:.0f} MB | "
            f"{middle['peak']:.0f} MB | {middle['first']:.0f} MB | {middle['size']:.0f} MB |"
        )
    click.echo(
        "# GeoJSON of a large slide\n\n"
        f"Made by `geojson_files.py` on {platform.system()}, {platform.machine()}: "
        f"{middle['tiles']:,.0f} tiles at 20x, their 10x and 5x tiles, all scores. Median of "
        f"{runs} runs, one thread.\n"
    )
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
