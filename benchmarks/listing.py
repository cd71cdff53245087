"""Time to find slides in nested folders, as the GDC client lays them; writes `listing.md`.

python benchmarks/listing.py [--slides 5000] [--runs 5]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import click

from tiacrossfusion.slides.files import find_slides, own_key


def make(folder: Path, slides: int) -> None:
    """Make a folder with a slide, a log folder and an annotation for each slide."""
    for number in range(slides):
        place = folder / f"{number:08d}-0000-4000-8000-000000000000"
        (place / "logs").mkdir(parents=True)
        (place / f"TCGA-AA-{number:04d}-01Z-00-DX1.svs").touch()
        (place / "logs" / "x.parcel").touch()
        (place / "annotations.txt").touch()


def said(seconds: list[float]) -> str:
    """Return median and maximum."""
    return f"{statistics.median(seconds):.2f} | {max(seconds):.2f}"


@click.command()
@click.option("--slides", default=5000, show_default=True)
@click.option("--runs", default=5, show_default=True)
def main(slides: int, runs: int) -> None:
    """Measure and write the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, slides)
        found, walked = [], []
        for _ in range(runs):
            start = time.perf_counter()
            count = len(find_slides(folder).slides)
            found.append(time.perf_counter() - start)
            start = time.perf_counter()
            paths = [own_key(path) for path in folder.rglob("*.svs")]
            walked.append(time.perf_counter() - start)
            if not count == len(paths) == slides:
                raise SystemExit(f"found {count} and {len(paths)} of {slides} slides")
    Path(__file__).with_suffix(".md").write_text(
        "# Finding slides in nested folders\n\n"
        f"Made by `listing.py`: {slides} slides, each in a folder of its own with logs and an annotation "
        f"beside it ({3 * slides} files, {2 * slides} folders); medians of {runs} runs, seconds.\n\n"
        "| | median | slowest |\n|---|---|---|\n"
        f"| `find_slides`, with what is passed over counted | {said(found)} |\n"
        f"| `Path.rglob` and `os.path.realpath` alone | {said(walked)} |\n\n"
        "Wanted: 5 s or less.\n"
    )


if __name__ == "__main__":
    main()
