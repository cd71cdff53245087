"""Reading damaged files: slides, bags, configs and weights, thousands of each, a time budget a target.

    python benchmarks/fuzzing.py [--seconds 150] [--seed 0] > benchmarks/fuzzing.md

Allowed outcomes: the file is read, or refused in one line that names it. Each case runs in a monitored
process with limited memory: hangs and crashes are counted, and the other cases continue. Target, seed and
number determine a case; `--target NAME --case N` repeats one in this process.
"""

from __future__ import annotations

import faulthandler
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import click
from fuzz_targets import MARKER, TARGETS, Target, generator

#: Imported once; the processes that read are copies of one that has done it.
PRELOADED = [
    "tiacrossfusion.cli",  # first: it keeps the toolbox from printing its log
    "tiacrossfusion.runs.extraction",
    "tiacrossfusion.encoders.encoder",
    "tiacrossfusion.interop.pt_files",
    "tiacrossfusion.networks",
    "tiacrossfusion.slides.readers.tile_reader",
    "tiacrossfusion.training.config",
    "tiacrossfusion.models",
    "tiatoolbox.wsicore.wsireader",
    "skimage.filters",
    "tifffile.zarr",
]

#: Messages of libraries when memory cannot be allocated.
_MEMORY_WORDS = ("MemoryError", "bad_alloc", "not enough memory", "allocate", "out of memory")


@dataclass(frozen=True)
class Fault:
    """A case that ended in a way that is not allowed.

    Attributes:
        case: its number.
        kind: "exception", "memory", "crash" or "hang".
        detail: what was raised and where, or the signal.
    """

    case: int
    kind: str
    detail: str


@dataclass
class Tally:
    """Outcomes of the cases of a target.

    Attributes:
        target: its name.
        cases: how many were run.
        read: read as if nothing were wrong with the file.
        refused: refused with one line that names the file.
        faults: all the others.
        peak: most memory above that before the first case, in MiB.
        longest: seconds of the longest case that ended, and its number.
    """

    target: str
    cases: int = 0
    read: int = 0
    refused: int = 0
    faults: list[Fault] = field(default_factory=list)
    peak: float = 0.0
    longest: tuple[float, int] = (0.0, 0)

    def count(self, kind: str) -> int:
        """Number of faults of a kind."""
        return sum(fault.kind == kind for fault in self.faults)


def fuzz(
    target: type[Target],
    folder: Path,
    *,
    seed: int,
    cases: int | None = None,
    seconds: float = float("inf"),
    limit: float = 20.0,
    memory: int = 1024,
) -> Tally:
    """Run the cases of a target.

    Args:
        target: what is read.
        folder: empty; holds the files.
        seed: of the damage.
        cases: stop after so many.
        seconds: stop after so long.
        limit: a case that takes longer, in seconds, hangs.
        memory: that a process may take beside what it begins with, in MiB.
    """
    target.write(folder)
    tally = Tally(target.name)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    deadline = float("inf")  # set when the first process has read what is whole
    while (cases is None or tally.cases < cases) and time.monotonic() < deadline:
        here, there = context.Pipe()
        task = (target, folder, seed, tally.cases, memory, there)
        child = context.Process(target=_serve, args=task, daemon=True)
        child.start()
        there.close()
        assert here.poll(120), "the whole files are not read"  # noqa: S101
        here.recv()
        if not tally.cases:
            deadline = time.monotonic() + seconds
        _watch(child, here, tally, cases, deadline, limit, folder)
        here.close()
        child.kill()
        child.join()
    return tally


def _watch(
    child: multiprocessing.process.BaseProcess,
    here: Connection,
    tally: Tally,
    cases: int | None,
    deadline: float,
    limit: float,
    folder: Path,
) -> None:
    """Ask a process for case after case until it fails, or time or cases are used up."""
    while (cases is None or tally.cases < cases) and time.monotonic() < deadline:
        case = tally.cases
        tally.cases += 1
        here.send(case)
        try:
            if not here.poll(limit):
                os.kill(child.pid or 0, signal.SIGUSR1)  # writes where it is
                time.sleep(0.5)
                tally.faults.append(Fault(case, "hang", _where(folder)))
                return
            kind, detail, seconds, peak = here.recv()
        except (EOFError, ConnectionError):
            child.join()
            code = child.exitcode or 0
            name = signal.Signals(-code).name if code < 0 else f"exit {code}"
            tally.faults.append(Fault(case, "crash", f"{name} {_where(folder)}"))
            return
        tally.peak, tally.longest = max(tally.peak, peak), max(tally.longest, (seconds, case))
        if kind == "read":
            tally.read += 1
        elif kind == "refused":
            tally.refused += 1
        else:
            tally.faults.append(Fault(case, kind, detail))


def _where(folder: Path) -> str:
    """Last output of the process: messages of libraries, and the innermost lines."""
    text = (folder / "case.log").read_text(errors="replace")
    words = text.partition("Fatal Python error")[0].strip("\0\n ").splitlines()[-1:]
    lines = text.partition("Current thread")[2].partition("\n\n")[0].splitlines()[1:5]
    return " < ".join(" ".join(line.split()) for line in (*words, *lines))[-400:]


def _serve(
    target: type[Target], folder: Path, seed: int, first: int, memory: int, there: Connection
) -> None:
    """Run the cases that are asked for."""
    import torch

    torch.set_num_threads(1)
    log = (folder / "case.log").open("w")
    for stream in (1, 2):  # libraries write warnings there
        os.dup2(log.fileno(), stream)
    faulthandler.enable(log)
    faulthandler.register(signal.SIGUSR1, log)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader = target(folder)
    for path in reader.whole():
        reader.read(path)  # whole files are read, and what is needed once is there
    begun = _memory("VmRSS")
    most = (_memory("VmData") + memory) * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    there.send(first)
    while True:
        try:
            case = there.recv()
        except EOFError:
            return
        log.truncate(0)
        path = reader.damage(generator(target, seed, case))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started = time.perf_counter()
        kind, detail = outcome(reader, path)
        there.send((kind, detail, time.perf_counter() - started, _memory("VmHWM") - begun))


def _memory(field_: str) -> int:
    """A figure of this process's memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field_)) // 1024


def outcome(target: Target, path: Path) -> tuple[str, str]:
    """Read a damaged file.

    Returns:
        "read", "refused", "exception" or "memory", and what was raised.
    """
    from tiacrossfusion.errors import TiacfError
    from tiacrossfusion.text import printable

    kind, detail = "read", ""
    try:
        target.read(path)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        kind, detail = "exception", _place(error)
        if isinstance(error, TiacfError):
            text = str(error)
            if printable(text) == text and path.name in text and len(text) < 1000:
                kind, detail = "refused", text
        if _lacked_memory(error):
            kind, detail = "memory", _place(error)
    if (target.folder / MARKER).exists():
        kind, detail = "exception", "code in the file was run"
    return kind, detail


def _lacked_memory(error: BaseException | None) -> bool:
    """Return whether an exception, or its cause, means out of memory."""
    while error is not None:
        text = f"{type(error).__name__} {error}"
        if any(word in text for word in _MEMORY_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: BaseException) -> str:
    """What was raised, and the innermost line of this package and of all that it went through."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return f"{text} ({' > '.join(frames[-4:])})"


@click.command()
@click.option("--seconds", default=150.0, help="Time for each target.")
@click.option("--seed", default=0, help="Of the damage.")
@click.option("--target", "only", help="Run this target alone.")
@click.option(
    "--case", "number", type=int, help="Run this case of the target, and show its traceback."
)
def main(seconds: float, seed: int, only: str | None, number: int | None) -> None:
    """Damage files, read them and print a Markdown table."""
    chosen = [target for target in TARGETS if only in (None, target.name)]
    tallies = []
    for target in chosen:
        with tempfile.TemporaryDirectory() as name:
            if number is not None:
                _again(target, Path(name), seed, number)
                return
            tallies.append(fuzz(target, Path(name), seed=seed, seconds=seconds))
        longest, slowest = tallies[-1].longest
        click.echo(f"{target.name}, case {slowest}: {longest:.1f} s, the longest", err=True)
        report = Counter((fault.kind, fault.detail) for fault in tallies[-1].faults)
        for (kind, detail), count in report.most_common():
            case = next(f.case for f in tallies[-1].faults if (f.kind, f.detail) == (kind, detail))
            click.echo(f"{target.name}, case {case}: {kind} x {count}: {detail}", err=True)
    _print(tallies, seconds, seed)


def _again(target: type[Target], folder: Path, seed: int, number: int) -> None:
    target.write(folder)
    it = target(folder)
    it.read(it.damage(generator(target, seed, number)))
    click.echo("read")


def _print(tallies: list[Tally], seconds: float, seed: int) -> None:
    libraries = (
        "tifffile",
        "imagecodecs",
        "openslide-bin",
        "tiatoolbox",
        "zarr",
        "torch",
        "safetensors",
    )
    versions = []
    for name in libraries:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    print("# Reading damaged files\n")
    print(
        f"Written by `benchmarks/fuzzing.py --seconds {seconds:g} --seed {seed}` with Python "
        f"{platform.python_version()}, {', '.join(versions)}. Every case reads a file that was damaged in "
        "another way: bits, bytes and blocks, or the fields of its format. A case that took more than 20 s "
        "would be a hang, and a process that wanted more than 1 GiB above the start would be refused it "
        "(out of memory). Memory is the largest of all cases above that before the first.\n"
    )
    print(
        "| target | cases | read without fault | refused in one line | other exceptions | out of memory | "
        "crashes | hangs | memory, MiB | longest case, s |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for it in tallies:
        counts = " | ".join(str(it.count(k)) for k in ("exception", "memory", "crash", "hang"))
        print(
            f"| {it.target} | {it.cases:,} | {it.read:,} | {it.refused:,} | {counts} | {it.peak:.0f} | "
            f"{it.longest[0]:.1f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
