"""Cost of laying the grids and filtering them by tissue on a large slide.

    python benchmarks/grid.py > benchmarks/grid.md

A slide of 200,000 x 200,000 px at 40x and one of 330,000 x 330,000 px, with 140,000 20x patches on tissue
each: compact tissue, and tissue scattered over three times the area. No pixels are read. The peer is
TIAToolbox's `PatchExtractor.filter_coordinates` on the same cells and the same mask, measured in turn;
that both keep the same cells is checked.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import click
import cv2
import numpy as np
from tiatoolbox.tools.patchextraction import PatchExtractor
from tiatoolbox.wsicore.wsimeta import WSIMeta
from tiatoolbox.wsicore.wsireader import VirtualWSIReader

from tiacrossfusion.slides.grid import nested_grids
from tiacrossfusion.slides.slide import Slide
from tiacrossfusion.slides.spec import SamplingSpec

MPP = 0.25
PATCHES = 140_000
SLIDES = {"compact tissue": (200_000, 0.95), "scattered tissue": (330_000, 0.35)}


def seconds(job: Callable[[], object]) -> float:
    """Time a job once."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def slide_and_mask(side: int, share: float, spec: SamplingSpec) -> tuple[Slide, VirtualWSIReader]:
    """A square slide without pixels and a mask of smooth blobs over a share of it."""
    info = WSIMeta((side, side), "RGB", mpp=(MPP, MPP), objective_power=40)
    pixels = round(side * MPP / spec.mask_mpp)
    noise = np.random.default_rng(0).normal(size=(80, 80)).astype(np.float32)
    smooth = cv2.resize(noise, (pixels, pixels), interpolation=cv2.INTER_CUBIC)
    tissue = smooth > np.quantile(smooth, 1 - share)
    mask = VirtualWSIReader(tissue, info=info, mode="bool")
    return Slide(mask, None, (side, side), (MPP, MPP), 40.0), mask


@click.command()
@click.option("--runs", default=5, show_default=True)
def main(runs: int) -> None:
    """Measure and print a Markdown table."""
    spec = SamplingSpec()
    rows = []
    for label, (side, share) in SLIDES.items():
        slide, mask = slide_and_mask(side, share, spec)
        every = nested_grids(slide, None, spec)["20x"].bounds
        kept = nested_grids(slide, mask, spec)["20x"].bounds

        def toolbox(
            mask: VirtualWSIReader = mask, every: np.ndarray = every, side: int = side
        ) -> np.ndarray:
            return PatchExtractor.filter_coordinates(
                mask, every, wsi_shape=(side, side), min_mask_ratio=spec.min_mask_ratio
            )

        assert np.array_equal(every[toolbox()], kept), "another choice of cells"  # noqa: S101
        assert len(kept) >= PATCHES, f"only {len(kept)} patches"  # noqa: S101
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(seconds(lambda s=slide, m=mask: nested_grids(s, m, spec)))  # type: ignore[misc]
            theirs.append(seconds(toolbox))
        rows.append((label, side, every, kept, statistics.median(ours), statistics.median(theirs)))

    print("# What laying the grids costs\n")
    print(
        f"Written by `benchmarks/grid.py` on {os.cpu_count()} CPU cores, medians of {runs} runs taken in "
        "turn. `nested_grids` lays all three grids and filters them by the mask; the toolbox's "
        "`filter_coordinates` filters the 20x cells only, and keeps the same ones (checked). Load by "
        f"other programs at the end: {os.getloadavg()[0]:.1f}.\n"
    )
    print(
        "| slide | 20x cells | kept | `nested_grids`, s | `filter_coordinates`, s | ratio | wanted |\n"
        "|---|---|---|---|---|---|---|"
    )
    for label, side, every, kept, ours_s, theirs_s in rows:
        print(
            f"| {side:,} px square, {label} | {len(every):,} | {len(kept):,} | {ours_s:.3f} | "
            f"{theirs_s:.2f} | {theirs_s / ours_s:.0f} | below 2 s |"
        )


if __name__ == "__main__":
    main()
