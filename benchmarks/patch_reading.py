"""Speed of reading the pixels of all three scales, without an encoder.

    python benchmarks/patch_reading.py SLIDE [SLIDE ...] > benchmarks/patch_reading.md

Each slide is read by this package with two threads, by tiles and by WSIReader, and by TIAToolbox's
WSIPatchDataset in a DataLoader with two workers, which is run once a scale. All get the coordinates of the
same patches beforehand. Times begin after imports and one warm-up; runs alternate, and ratios are taken
within a run.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from tiatoolbox.models.dataset.dataset_abc import WSIPatchDataset
from torch.utils.data import DataLoader

from tiacrossfusion.slides.batches import read_batches
from tiacrossfusion.slides.grid import PatchGrid, nested_grids
from tiacrossfusion.slides.readers.base import PatchReader
from tiacrossfusion.slides.readers.choice import choose_reader
from tiacrossfusion.slides.readers.toolbox_reader import ToolboxReader
from tiacrossfusion.slides.slide import Slide, open_slide
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.slides.tissue import tissue_mask

SPEC = SamplingSpec()
WORKERS = 2
BATCH = 32


class Peer:
    """TIAToolbox's dataset of each scale, which reads the patches of given grids."""

    def __init__(self, slide: Slide, grids: dict[str, PatchGrid]) -> None:
        """Give each dataset the corners of our patches, in pixels of its scale."""
        self.datasets = {}
        for scale, grid in grids.items():
            dataset = WSIPatchDataset(
                slide.path,
                patch_input_shape=[SPEC.patch_size] * 2,
                stride_shape=[SPEC.patch_size] * 2,
                resolution=SPEC.resolution(scale),
                units=SPEC.units,
                auto_get_mask=False,
            )
            shrink = np.array(slide.mpp) / SPEC.resolution(scale)
            corners = np.rint(grid.bounds[:, :2] * shrink).astype(int)
            dataset.inputs = np.concatenate([corners, corners + SPEC.patch_size], axis=1)
            self.datasets[scale] = dataset

    def read(self, scales: tuple[str, ...]) -> int:
        """Read the patches of some scales, one after the other; return how many there were."""
        return sum(
            len(batch["image"])
            for scale in scales
            for batch in DataLoader(self.datasets[scale], batch_size=BATCH, num_workers=WORKERS)
        )


def ours(
    slide: Slide, grids: dict[str, PatchGrid], reader: PatchReader, scales: tuple[str, ...]
) -> int:
    """Read the patches of some scales; return how many there were."""
    none = np.empty((0, 4), np.int64), np.empty((0, 2), np.int32)
    chosen = {
        scale: grid if scale in scales else PatchGrid(scale, *none) for scale, grid in grids.items()
    }
    batches = read_batches(slide, chosen, SPEC, reader, batch_size=BATCH, num_workers=WORKERS)
    return sum(len(batch.images) for batch in batches)


def rate(read: Callable[[], int]) -> float:
    """Patches per second."""
    started = time.perf_counter()
    patches = read()
    return patches / (time.perf_counter() - started)


@click.command()
@click.argument("slides", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--runs", default=5, show_default=True)
@click.option("--single-scales/--all-scales", default=True, show_default=True)
def main(slides: tuple[Path, ...], runs: int, single_scales: bool) -> None:
    """Measure and print a Markdown table."""
    logging.disable(logging.WARNING)  # TIAToolbox's remarks on every enlarged patch
    print("# Reading patches of three scales\n")
    print(
        f"Written by `benchmarks/patch_reading.py` on {os.cpu_count()} CPU cores; {WORKERS} threads "
        f"against {WORKERS} processes, batches of {BATCH}, medians of {runs} alternating runs after a "
        "warm-up. Patches per second, and their ratio to TIAToolbox's within a run (least to most). "
        "At least 3.5 is wanted for `metaplasia_40x.svs`, 5 aimed for.\n"
    )
    print(
        "| slide | scales | patches | tiles decoded | TIAToolbox | tiles | WSIReader | tiles : TIAToolbox |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for path in slides:
        with open_slide(path) as slide:
            grids = nested_grids(slide, tissue_mask(slide, SPEC), SPEC)
            peer = Peer(slide, grids)
            with choose_reader(slide, SPEC) as reader:
                rows: list[tuple[str, ...]] = [SCALES]
                if single_scales:
                    rows += [(scale,) for scale in SCALES]
                for scales in rows:
                    print(row(slide, grids, peer, reader, scales, runs), flush=True)


def row(
    slide: Slide,
    grids: dict[str, PatchGrid],
    peer: Peer,
    reader: PatchReader,
    scales: tuple[str, ...],
    runs: int,
) -> str:
    """Measure the three ways on some scales of a slide; return a row of the table."""
    toolbox = ToolboxReader(slide, SPEC, "for comparison")
    decoded = getattr(reader, "tiles_decoded", 0)
    patches = ours(slide, grids, reader, scales)
    decoded = getattr(reader, "tiles_decoded", 0) - decoded
    ours(slide, grids, toolbox, scales)
    peer.read(scales)
    rates = np.array(
        [
            [
                rate(lambda: peer.read(scales)),
                rate(lambda: ours(slide, grids, reader, scales)),
                rate(lambda: ours(slide, grids, toolbox, scales)),
            ]
            for _ in range(runs)
        ]
    )
    theirs, tiles, by_reader = np.median(rates, axis=0)
    ratios = sorted(rates[:, 1] / rates[:, 0])
    return (
        f"| {slide.name} | {', '.join(scales)} | {patches} | {decoded or reader.name} | {theirs:.0f} | "
        f"{tiles:.0f} | {by_reader:.0f} | "
        f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}) |"
    )


if __name__ == "__main__":
    main()
