"""Memory and open files of one `tiacf predict`, and one `tiacf extract`, of many small slides.

    python benchmarks/load.py [--slides 200] > benchmarks/load.md

A few slides are simulated and copied under other names; some are bad: empty, truncated, not a slide, without
tissue. The command runs as a separate process. Whenever it prints the line of a slide, its resident memory,
its private memory (without pages of files) and its number of open files are recorded.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import blank_slide, render_slide

TIACF = Path(sys.executable).parent / "tiacf"
SIZE, MPP = (1400, 1200), 0.5
WANTED = 1.1  # resident memory at the last slide over that at the tenth, at most
#: Numbers of the slides that the table shows, beside the last one and every twentieth.
SHOWN = (1, 2, 5, 10)


@dataclass(frozen=True)
class Sample:
    """What a process held when a slide was done.

    Attributes:
        resident: memory in MiB, with pages of files.
        own: memory in MiB that is no page of a file.
        files: open file handles.
        seconds: since the slide before, for the first since the start.
        line: what the command said of the slide.
    """

    resident: float
    own: float
    files: int
    seconds: float
    line: str


@dataclass(frozen=True)
class Run:
    """One run over all slides.

    Attributes:
        samples: one a slide, in the order of the work.
        ending: seconds from the last slide to the end of the process.
        code: exit code.
        threads: of the process, at the last slide.
    """

    samples: list[Sample]
    ending: float
    code: int
    threads: int


def simulate(folder: Path, count: int) -> set[str]:
    """Fill a folder with slides; returns the names of the bad ones."""
    folder.mkdir()
    sources = [folder.parent / f"source-{number}.svs" for number in range(4)]
    for number, source in enumerate(sources):
        parameters = TissueParameters(*[0.1 + 0.25 * number] * 3)
        render_slide(source, parameters, size=SIZE, mpp=MPP, seed=number)
    glass = folder.parent / "glass.svs"
    blank_slide(glass, size=SIZE, mpp=MPP)
    bad: tuple[Callable[[Path], object], ...] = (
        Path.touch,
        lambda path: path.write_bytes(sources[0].read_bytes()[:20_000]),
        lambda path: path.write_text("no slide"),
        lambda path: shutil.copy(glass, path),
    )
    places = {(number + 1) * count // (2 * len(bad) + 1): bad[number % 4] for number in range(8)}
    for number in range(count):
        path = folder / f"slide-{number + 1:03d}.svs"
        if number in places:
            places[number](path)
        else:
            shutil.copy(sources[number % len(sources)], path)
    return {f"slide-{number + 1:03d}.svs" for number in places}


def watch(command: str, slides: Path, out: Path) -> Run:
    """Run a command and look at it as each slide is done."""
    samples, threads = [], 0
    last = time.perf_counter()
    with subprocess.Popen(
        [str(TIACF), command, "--img-input", str(slides), "--output-path", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as child:
        process = psutil.Process(child.pid)
        for line in child.stdout or ():
            if line.startswith(("ok ", "FAILED ")):
                memory, now = process.memory_info(), time.perf_counter()
                samples.append(
                    Sample(
                        memory.rss / 2**20,
                        (memory.rss - memory.shared) / 2**20,
                        process.num_fds(),
                        now - last,
                        line.strip(),
                    )
                )
                threads, last = process.num_threads(), now
    return Run(samples, time.perf_counter() - last, child.returncode, threads)


def report(command: str, run: Run, bad: set[str], out: Path) -> None:
    """Print what was seen."""
    samples = run.samples
    tenth, last = samples[9], samples[-1]
    failed = [sample for sample in samples if sample.line.startswith("FAILED")]
    named = {name for name in bad for sample in failed if f"{name}:" in sample.line}
    good = sorted(sample.seconds for sample in samples[1:] if sample not in failed)
    print(f"\n## tiacf {command}\n")
    print("| slide | resident, MiB | own, MiB | open files |\n|---|---|---|---|")
    for number, sample in enumerate(samples, 1):
        if number in SHOWN or number % 20 == 0 or number == len(samples):
            print(f"| {number} | {sample.resident:.0f} | {sample.own:.0f} | {sample.files} |")
    handles = {sample.files for sample in samples[1:]}
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
    page = out / "report.html"
    print(
        f"\n- Resident memory at the last slide over that at the tenth: "
        f"{last.resident / tenth.resident:.3f} (wanted: {WANTED} at most); most at any slide after "
        f"the tenth: {max(s.resident for s in samples[9:]) / tenth.resident:.3f}.\n"
        f"- Open files after the first slide: {min(handles)} to {max(handles)}; threads at the last: "
        f"{run.threads}.\n"
        f"- Seconds a good slide: median {good[len(good) // 2]:.2f}, longest {good[-1]:.2f}; first "
        f"slide, with the imports, {samples[0].seconds:.1f}; from the last slide to the end "
        f"{run.ending:.1f}.\n"
        f"- Failed: {len(failed)} of {len(samples)}, exit code {run.code}; of the {len(bad)} bad "
        f"slides {len(named)} are named in their lines, and {len(failed) - len(named)} others failed.\n"
        f"- On disk: {size:.1f} MiB"
        + (f", of it report.html {page.stat().st_size / 2**20:.1f} MiB." if page.exists() else ".")
    )


@click.command()
@click.option("--slides", default=200, show_default=True, help="Number of slides, bad ones too.")
@click.option("--command", "commands", multiple=True, default=("predict", "extract"))
def main(slides: int, commands: tuple[str, ...]) -> None:
    """Measure and print Markdown."""
    print("# Load: many small slides in one run\n")
    print(
        f"Made by `load.py` on {platform.system()}, {platform.machine()}, {os.cpu_count()} cores: "
        f"{slides} slides of {SIZE[0]} x {SIZE[1]} px at {MPP} mpp, copies of four simulated ones under "
        "names of their own, eight of them bad (empty, cut off, text, glass). Sampled as the command "
        "prints each slide's line. Own memory is what is no page of a file."
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bad = simulate(folder / "slides", slides)
        for command in commands:
            out = folder / command
            report(command, watch(command, folder / "slides", out), bad, out)


if __name__ == "__main__":
    main()
