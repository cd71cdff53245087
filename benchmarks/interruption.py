"""Kill and interrupt commands at random moments, and check the files then and after running them again.

    python benchmarks/interruption.py > benchmarks/interruption.md
    python benchmarks/interruption.py --part interrupts --command train --interrupts 3

Kills: SIGKILL at a moment drawn evenly from the duration of an unbroken run, again and again until the
command ends by itself; then a new folder, until enough kills are done. The processes come from one that
has imported the libraries, so the kills fall on the work. The files that users see are compared byte by
byte with those of an unbroken run, tables without their column of seconds and without the log.

Interrupts: SIGINT to the command as it is installed, imports included, at moments spread evenly over an
unbroken run (one drawn from each equal part); in turn to the process, to its whole group as a terminal
does, and to the group twice within 0.3 s. Timed is the way from the signal to the end of the process. The
files are then looked at: whole are those that the unbroken run has too, with the same content (tables,
which say how far a run came, apart), and parts of files are nowhere but in `.tiacf`. Then, every
second time, the command is run again to its end and compared.
"""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

TIACF = Path(sys.executable).parent / "tiacf"
LINE = "Interrupted; what is finished is kept, run the same command to go on.\n"

#: Seconds until the first line of a program runs; until then Ctrl-C is answered by Python alone, with a
#: traceback and with death by the signal (which shells call 130).
START = 0.1

CONFIG = """
network: {embed_dim: 8, num_heads: 2, num_bins: 3}
fitting: {epochs: 8, warm_up: 1, patients_per_step: 8}
protocol: {folds: 2}
"""

PRELOADED = [
    "tiacrossfusion.cli",  # first: it keeps the toolbox from printing its log
    "tiacrossfusion.runs.extraction",
    "tiacrossfusion.runs.prediction",
    "tiacrossfusion.interop",
    "tiacrossfusion.simulation",
    "tiacrossfusion.encoders.encoder",
    "tiacrossfusion.training.bundles",
    "tiacrossfusion.training.run",
    "tiatoolbox.wsicore.wsireader",
    "tiatoolbox.tools.tissuemask",
]


@dataclass(frozen=True)
class Command:
    """A command on small data.

    Attributes:
        arguments: all but the output folder.
        data: what it works on, in words.
        growing: patterns of files that say how far a run came.
    """

    arguments: list[str]
    data: str
    growing: tuple[str, ...] = ("*.csv", "*.log", "*.html", "run.json")


class Bench:
    """Runs commands in a scratch folder, and knows what they give unbroken.

    Args:
        folder: scratch.
        seed: of the random moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        """Begin."""
        self.folder, self.rng = folder, random.Random(seed)  # noqa: S311
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)
        self._unbroken: dict[str, tuple[Path, float]] = {}

    def start(self, arguments: list[str], out: Path) -> multiprocessing.Process:
        """Start a command in a process that has imported what takes seconds."""
        code = (
            "import os\n"
            "quiet = os.open(os.devnull, os.O_WRONLY)\n"
            "os.dup2(quiet, 1), os.dup2(quiet, 2)\n"
            "import torch\n"
            "torch.set_num_threads(1)\n"
            "from tiacrossfusion.cli import main\n"
            f"main({[*arguments, '--output-path', str(out)]!r})"
        )
        process = self._processes.Process(target=exec, args=(code, {}))  # type: ignore[attr-defined]
        process.start()
        return process

    def finish(self, command: Command, out: Path) -> float:
        """Run a command to its end, and time it."""
        started = time.perf_counter()
        process = self.start(command.arguments, out)
        process.join()
        assert process.exitcode == 0, f"{command.arguments}: exit code {process.exitcode}"  # noqa: S101
        return time.perf_counter() - started

    def unbroken(self, name: str, command: Command) -> tuple[Path, float]:
        """The results of an unbroken run, and its seconds without imports."""
        if name not in self._unbroken:
            # The folder's name is in the report and in the log.
            out = self.folder / f"unbroken-{name}" / "out"
            self.finish(command, self.folder / "warm" / "out")
            shutil.rmtree(self.folder / "warm")
            self._unbroken[name] = out, self.finish(command, out)
        return self._unbroken[name]

    def new_folder(self) -> Path:
        """A folder for results, of the name that all have."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / "out"


def seen(out: Path) -> dict[str, bytes | str]:
    """Content of all files that users see, but for the log; tables without seconds.

    The place of the folder is taken out: the slides of a demonstration lie in it, and are named by path.
    """
    found: dict[str, bytes | str] = {}
    place = str(out.resolve())
    for path in sorted(out.rglob("*")):
        if not path.is_file() or ".tiacf" in path.parts or path.suffix == ".log":
            continue
        name = str(path.relative_to(out))
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                rows = [
                    {k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(file)
                ]
            found[name] = str(rows).replace(place, "")
        else:
            content = path.read_bytes().replace(place.encode(), b"")
            found[name] = hashlib.sha256(content).digest()
    return found


def litter(out: Path) -> list[str]:
    """Parts of files and scratch that a finished run must not leave."""
    return [
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.name.endswith((".part", ".partial", ".old", ".ckpt"))
        or path.name.startswith(("staging-", ".report-", "version_"))
    ]


def broken(out: Path, whole: Path, command: Command) -> list[str]:
    """Files of an interrupted run that are not whole: others than those of the unbroken run."""
    if not out.exists():
        return []
    wanted, odd = seen(whole), []
    for name, content in seen(out).items():
        path = Path(name)
        if any(path.match(pattern) for pattern in command.growing):
            continue
        if "fold-" in name and (path.suffix == ".ckpt" or "logs" in path.parts):
            continue  # what training goes on from
        if wanted.get(name) != content:
            odd.append(name)
    return odd + [
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.name.endswith((".part", ".partial", ".old")) and ".tiacf" not in path.parts
    ]


def apart(one: Path, other: Path) -> str:
    """How far the weights and the out-of-fold risks of two training runs lie apart."""
    import numpy as np
    from safetensors.numpy import load_file

    from tiacrossfusion.evaluation.prediction_files import read_predictions

    weights = risks = 0.0
    for path in sorted(one.rglob("model.safetensors")):
        left, right = load_file(path), load_file(other / path.relative_to(one))
        weights = max(weights, *(float(np.abs(left[k] - right[k]).max()) for k in left))
    for path in sorted(one.glob("*/out_of_fold.csv")):
        pairs = zip(
            read_predictions(path), read_predictions(other / path.relative_to(one)), strict=True
        )
        risks = max(risks, *(float(np.abs(a.risks - b.risks).max()) for a, b in pairs))
    return f"weights {weights:.0e}, risks {risks:.0e}"


def make_data(
    folder: Path, names: tuple[str, ...], tell: Callable[[str], None]
) -> dict[str, Command]:
    """Make the small data that the commands need."""
    from tiacrossfusion.simulation.parameters import TissueParameters
    from tiacrossfusion.simulation.slide import render_slide

    slides = folder / "slides"
    slides.mkdir()
    tell("making data")
    render_slide(slides / "a.svs", TissueParameters(0.5, 0.5, 0.5), size=(2000, 1600), mpp=0.5)
    for name in "bcd":
        shutil.copy(slides / "a.svs", slides / f"{name}.svs")
    bags, cohort, trained = folder / "bags", folder / "cohort", folder / "trained"
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    simulate = ["simulate", "--patients", "60", "--width", "6", "--side", "2"]
    train = ["train", "--bags", str(cohort / "bags"), "--table", str(cohort / "cohort.csv")]
    train += ["--time-unit", "months", "--model", "abmil", "--config", str(config)]
    train += ["--accelerator", "cpu"]
    needs = [
        ({"train", "evaluate"}, simulate, cohort),
        ({"evaluate"}, train, trained),
        ({"convert"}, ["extract", "--img-input", str(slides)], bags),
    ]
    for commands, arguments, out in needs:
        if commands & set(names):
            run = [str(TIACF), *arguments, "--output-path", str(out)]
            subprocess.run(run, check=True, capture_output=True)
    pair = folder / "pair"
    pair.mkdir()
    for name in "ab":
        shutil.copy(slides / f"{name}.svs", pair / f"{name}.svs")
    drawn = ["simulate", "--slides", "--slide-size", "1500", "--patients", "4"]
    judge = ["evaluate", "--predictions", str(trained / "abmil")]
    return {
        "extract": Command(["extract", "--img-input", str(slides)], "4 slides of 2000 x 1600 px"),
        "predict": Command(["predict", "--img-input", str(pair)], "2 slides of 2000 x 1600 px"),
        "train": Command(train, "ABMIL of width 8 on 60 patients, 2 folds, at most 8 epochs"),
        "demo": Command(["demo"], "its 2 slides"),
        "simulate": Command(drawn, "4 slides of 1500 x 1500 px, in 2 processes"),
        "evaluate": Command(judge, "60 patients, 1000 draws"),
        "convert": Command(
            ["convert", "--bags", str(bags), "--output-format", "h5"], "4 bags to HDF5"
        ),
    }


def kills(bench: Bench, name: str, command: Command, count: int) -> str:
    """Kill a command again and again; a row of the table."""
    whole, duration = bench.unbroken(name, command)
    wanted = seen(whole)
    done = runs = most = 0
    different: set[str] = set()
    left: set[str] = set()
    gaps = set()
    while done < count:
        out, here = bench.new_folder(), 0
        while True:
            process = bench.start(command.arguments, out)
            process.join(bench.rng.uniform(0, duration) if done < count else None)
            if not process.is_alive():
                assert process.exitcode == 0, f"{name}: {process.exitcode}"  # noqa: S101
                break
            process.kill()
            process.join()
            done, here = done + 1, here + 1
        if here:
            found = seen(out)
            different |= {file for file in {*wanted, *found} if wanted.get(file) != found.get(file)}
            left |= set(litter(out))
            if name == "train":
                gaps.add(apart(whole, out))
            runs, most = runs + 1, max(most, here)
        shutil.rmtree(out.parent)
    equal = "all" if not different else f"all but {', '.join(sorted(different))}"
    return (
        f"| `{name}` | {command.data} | {duration:.1f} | {done} | {runs} | {most} | {len(wanted)} | "
        f"{equal} | {'; '.join(sorted(gaps))} | {', '.join(sorted(left)) or 'nothing'} |"
    )


def moments(bench: Bench, duration: float, count: int) -> Iterator[float]:
    """One moment of each of `count` equal parts of a duration, but for Python's own start."""
    for part in range(count):
        yield START + (part + bench.rng.random()) / count * (duration - START)


def interrupts(bench: Bench, name: str, command: Command, count: int, which: signal.Signals) -> str:
    """Interrupt a command; a row of the table."""
    whole, _ = bench.unbroken(name, command)
    wanted = seen(whole)

    def launch(out: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(TIACF), *command.arguments, "--output-path", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            # A shell's background jobs, and what they start, pass over Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    out = bench.new_folder()
    started = time.perf_counter()
    with launch(out) as process:
        _, said = process.communicate()
    duration = time.perf_counter() - started
    assert process.returncode == 0, f"{name}: {said}"  # noqa: S101
    spent: list[float] = []
    codes: dict[str, int] = {}
    odd: set[str] = set()
    different: set[str] = set()
    lines = 0
    for number, moment in enumerate(moments(bench, duration * 0.95, count)):
        out = bench.new_folder()
        with launch(out) as process:
            time.sleep(moment)
            sent = time.perf_counter()
            if number % 3:
                os.killpg(process.pid, which)
            else:
                process.send_signal(which)
            if number % 3 == 2:
                time.sleep(0.3)
                if process.poll() is None:
                    os.killpg(process.pid, which)
            _, said = process.communicate()
        if process.returncode == 0 and not said:
            codes["ended before"] = codes.get("ended before", 0) + 1
            continue
        spent.append(time.perf_counter() - sent)
        code = str(process.returncode)
        codes[code] = codes.get(code, 0) + 1
        if said == LINE:
            lines += 1
        else:
            print(f"{name} at {moment:.2f} s: exit code {code}\n{said}", file=sys.stderr)
        odd |= set(broken(out, whole, command))
        if number == count - 1 or (name != "demo" and number % 2):  # the demonstration takes long
            bench.finish(command, out)
            found = seen(out)
            different |= {file for file in {*wanted, *found} if wanted.get(file) != found.get(file)}
            odd |= set(litter(out))
        shutil.rmtree(out.parent)
    return (
        f"| `{name}` | {which.name} | {duration:.1f} | {len(spent)} | {statistics.median(spent):.2f} | "
        f"{max(spent):.2f} | {', '.join(f'{n} x {code}' for code, n in sorted(codes.items()))} | "
        f"{lines} | {', '.join(sorted(odd)) or 'none'} | "
        f"{'all' if not different else 'all but ' + ', '.join(sorted(different))} |"
    )


KILLED = ("extract", "predict", "train")
INTERRUPTED = ("extract", "predict", "train", "simulate", "evaluate", "convert", "demo")


@click.command(help=__doc__)
@click.option("--part", "parts", multiple=True, type=click.Choice(["kills", "interrupts"]))
@click.option("--command", "names", multiple=True, type=click.Choice(INTERRUPTED))
@click.option("--kills", "n_kills", default=20, show_default=True, help="Of each command.")
@click.option(
    "--interrupts", "n_interrupts", default=10, show_default=True, help="Of each command."
)
@click.option("--seed", default=0, show_default=True)
def main(
    parts: tuple[str, ...], names: tuple[str, ...], n_kills: int, n_interrupts: int, seed: int
) -> None:
    """Measure and print."""

    def tell(what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr)

    os.environ["OMP_NUM_THREADS"] = "1"
    load, chosen = os.getloadavg()[0], names or INTERRUPTED
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), seed)
        commands = make_data(Path(scratch), chosen, tell)
        print("# Commands killed and interrupted\n")
        print(
            f"Written by `interruption.py` on {os.cpu_count()} CPU cores, one thread, seed {seed}. Load "
            f"by other programs when it started: {load:.1f}.\n"
        )
        if not parts or "kills" in parts:
            print("## Killed (SIGKILL) and run again\n")
            print(
                "Files are those that users see, of which those named differ from an unbroken run's; "
                "tables are compared without `seconds`. Left are parts of files, scratch and "
                "checkpoints.\n"
            )
            print(
                "| command | on | unbroken, s | kills | runs | most kills of a run | files | the same | "
                "largest difference | left |\n|---|---|---|---|---|---|---|---|---|---|"
            )
            for name in [name for name in KILLED if name in chosen]:
                tell(f"kills of {name}")
                print(kills(bench, name, commands[name], n_kills), flush=True)
            print()
        if not parts or "interrupts" in parts:
            print("## Interrupted (Ctrl-C, and SIGTERM as `scancel` sends it)\n")
            print(
                "Wanted: an end within 5 s, exit code 130 (SIGTERM: 143), the one line and nothing else on "
                "standard error, no broken file, and the files of an unbroken run after the next run. "
                "After all is done SIGTERM ends the process in silence: -15, to a shell 143 too.\n"
            )
            print(
                "| command | signal | unbroken, s | interrupts | median, s | largest, s | exit codes | "
                "with the one line | broken | the same after the next run |\n"
                "|---|---|---|---|---|---|---|---|---|---|"
            )
            for name in [name for name in INTERRUPTED if name in chosen]:
                tell(f"interrupts of {name}")
                count = min(n_interrupts, 4) if name == "demo" else n_interrupts
                print(interrupts(bench, name, commands[name], count, signal.SIGINT), flush=True)
            for name in [name for name in ("extract", "train") if name in chosen]:
                tell(f"SIGTERM to {name}")
                count = max(1, n_interrupts // 5)
                print(interrupts(bench, name, commands[name], count, signal.SIGTERM), flush=True)


if __name__ == "__main__":
    main()
