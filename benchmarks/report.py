"""Size and time of the report of a run; writes `report.md` beside this file.

    python benchmarks/report.py [--slide SLIDE] [--slides 100] [--chromium /usr/bin/chromium]

Each slide of the run has as many patches as the paper's average one, scores that are independent from
patch to patch (the worst case for a picture of them), and pixels read at random from one slide: a real
one where it is given, else a simulated one. Chromium, where it is found, opens the page and ends.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from tiacrossfusion.bags.bag import FeatureBag, ScaleFeatures
from tiacrossfusion.explain.attribution import Attribution
from tiacrossfusion.explain.gallery import PATCHES, Gallery, GalleryPatch, GalleryRow
from tiacrossfusion.explain.hotspots import find_hotspots
from tiacrossfusion.explain.scores import slide_scores
from tiacrossfusion.inference.extraction import bag_provenance
from tiacrossfusion.inference.prediction import read_off
from tiacrossfusion.inference.slide import SlideResult
from tiacrossfusion.models.bundle import ModelBundle, load_bundle
from tiacrossfusion.outputs.report.fragment import ReportSlide
from tiacrossfusion.outputs.report.making import make_fragment
from tiacrossfusion.outputs.report.writing import ReportRun, write_report
from tiacrossfusion.slides.grid import nested_grids
from tiacrossfusion.slides.overview import read_overview
from tiacrossfusion.slides.patches import read_patch
from tiacrossfusion.slides.slide import Slide, open_slide
from tiacrossfusion.slides.spec import CELLS_20X, SCALES

#: 20x patches of the paper's average slide; the coarser ones follow from its outline, which is round.
TOKENS_20X = 13_496


def round_bag(slide: Slide, bundle: ModelBundle) -> FeatureBag:
    """Make a bag of `TOKENS_20X` patches that fill a disc, as provenance says of the slide."""
    side = int(np.ceil(np.sqrt(TOKENS_20X * 4 / np.pi))) + 2
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    distance = np.hypot(columns - side / 2, rows - side / 2).ravel()
    nearest = np.sort(np.argsort(distance, kind="stable")[:TOKENS_20X])
    fine = np.stack([columns.ravel()[nearest], rows.ravel()[nearest]], axis=1)
    pixels = round(bundle.config.sampling.patch_size * 0.5 / slide.mpp[0])
    scales = {}
    for scale in SCALES:
        cells = CELLS_20X[scale]
        grid = np.unique((fine // cells)[:, ::-1], axis=0)[:, ::-1].astype(np.int32)
        start = grid.astype(np.int64) * cells * pixels
        bounds = np.concatenate([start, start + cells * pixels], axis=1)
        width = bundle.config.encoder.width
        scales[scale] = ScaleFeatures(np.zeros((len(grid), width), np.float16), bounds, grid)
    made = bag_provenance(slide, bundle.config.sampling, bundle.config.encoder, None)
    size = (side * pixels, side * pixels)
    return FeatureBag(scales, made.model_copy(update={"dimensions": size}))


def random_gallery(slide: Slide, bundle: ModelBundle, rng: np.random.Generator) -> Gallery:
    """Read as many patches as a gallery has, from anywhere on the slide."""
    spec = bundle.config.sampling
    rows = []
    for scale, grid in nested_grids(slide, None, spec).items():
        chosen = rng.choice(len(grid), min(2 * PATCHES, len(grid)), replace=False)
        patches = [
            GalleryPatch(
                read_patch(slide, grid.bounds[i], scale, spec), (0, 0, 512, 512), 50.0, 0.01
            )
            for i in chosen
        ]
        half = len(patches) // 2
        microns = spec.patch_size * 0.5 * CELLS_20X[scale]
        rows.append(
            GalleryRow(scale, "attribution", microns, tuple(patches[:half]), tuple(patches[half:]))
        )
    return Gallery(tuple(rows), 0)


def fragment(
    slide: Slide, bundle: ModelBundle, bag: FeatureBag, overview: np.ndarray, seed: int
) -> tuple[ReportSlide, float]:
    """Make the fragment of one slide of the run; and the seconds it takes, but for reading pixels."""
    rng = np.random.default_rng(seed)
    counts = bag.counts()
    attention = {name: rng.random(n) for name, n in counts.items()}
    attention["fused"] = rng.random(counts["10x"])
    hazards = rng.uniform(0.05, 0.5, bundle.config.architecture.num_bins)
    contribution = {"5x": 0.1, "10x": -0.1, "20x": 0.3}
    values = {name: rng.normal(0, 1e-3, n) for name, n in counts.items()}
    prediction = replace(
        read_off(hazards, bundle.config, attention=attention),
        rolled={name: rng.random(n) for name, n in counts.items()},
        attribution=Attribution(values, -2.0, -2.3, contribution, "training"),
    )
    scores = slide_scores(bag, bundle, prediction)
    hotspots, gallery = find_hotspots(bag, scores["20x"]), random_gallery(slide, bundle, rng)
    result = SlideResult(bag, prediction, bundle.config, "", scores, hotspots, overview, gallery)
    started = time.perf_counter()
    made = make_fragment(result)
    seconds = time.perf_counter() - started
    return made.model_copy(update={"name": f"slide-{seed:03}.svs"}), seconds


def parts(made: ReportSlide) -> dict[str, int]:
    """Characters of the pictures of a fragment, by kind."""
    layers = () if made.map is None else made.map.layers
    ground = 0 if made.map is None else len(made.map.ground.picture)
    patches = [patch for row in made.gallery for patch in (*row.highest, *row.lowest)]
    return {
        "slide": ground,
        "maps": sum(len(layer.picture) for layer in layers),
        "patches": sum(len(patch.picture) for patch in patches),
    }


def opening(chromium: str, page: Path, profile: Path) -> float:
    """Seconds from starting the browser to its end, with a picture of the page in between."""
    started = time.perf_counter()
    subprocess.run(
        [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--window-size=1400,1000",
            f"--screenshot={profile}.png",
            page.as_uri(),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started


@click.command()
@click.option("--slide", type=Path, help="A slide to take pixels from; otherwise a simulated one.")
@click.option("--slides", default=100, show_default=True)
@click.option("--chromium", default=shutil.which("chromium"), show_default=True)
@click.option(
    "--output",
    type=Path,
    default=Path(__file__).with_suffix(".md"),
    show_default="beside this file",
)
def main(slide: Path | None, slides: int, chromium: str | None, output: Path) -> None:
    """Measure and write a Markdown table."""
    bundle = load_bundle("crossfusion-demo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if slide is None:
            from tiacrossfusion.simulation.parameters import TissueParameters
            from tiacrossfusion.simulation.slide import render_slide

            slide = folder / "simulated.svs"
            render_slide(slide, TissueParameters(0.5, 0.5, 0.5), size=(8000, 8000), mpp=0.5, seed=0)
        sizes, seconds = [], []
        with open_slide(slide) as opened:
            overview = read_overview(opened, 1200)
            bag = round_bag(opened, bundle)
            for seed in range(slides):
                one, took = fragment(opened, bundle, bag, overview, seed)
                one.save(folder / f"{seed}.json")
                sizes.append(parts(one))
                seconds.append(took)
        page = folder / "report.html"
        started = time.perf_counter()
        fragments = [ReportSlide.load(folder / f"{seed}.json") for seed in range(slides)]
        write_report(page, ReportRun(bundle.config), fragments)
        written = time.perf_counter() - started
        rows = [
            (f"page of {slides} slides, MB", page.stat().st_size / 1e6, "30 for 100"),
            ("a slide, kB", page.stat().st_size / slides / 1e3, ""),
        ]
        rows += [
            (f"of it {kind}, kB", statistics.mean(size[kind] for size in sizes) / 1e3, "")
            for kind in ("slide", "maps", "patches")
        ]
        rows += [
            ("fragment of a slide made, s", statistics.median(seconds), ""),
            ("fragments read and page written, s", written, ""),
        ]
        if chromium is not None:
            empty = folder / "empty.html"
            empty.write_text("<!DOCTYPE html><title>empty</title>")
            for label, file in (("an empty page", empty), ("the page", page)):
                took = [opening(chromium, file, folder / "profile") for _ in range(4)][1:]
                rows.append(
                    (f"Chromium starts, shows {label} and ends, s", statistics.median(took), "")
                )
    kind = "simulated" if slide.name == "simulated.svs" else slide.name
    counts = ", ".join(f"{count:,} at {scale}" for scale, count in bag.counts().items())
    lines = [
        "# The report of a run",
        "",
        f"Written by `benchmarks/report.py`: slides of {counts}, pixels of a slide ({kind}).",
        "",
        "| what | value | at most |",
        "|---|---|---|",
        *(f"| {label} | {value:.3g} | {most} |" for label, value, most in rows),
    ]
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
