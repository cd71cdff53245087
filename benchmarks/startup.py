"""Time what a user waits for before anything happens: `tiacf --help` and `import tiacrossfusion`.

    python benchmarks/startup.py [--baseline CHECKOUT] [--runs 15]

Each command runs in turn with those of another checkout and with an empty Python program, so that all see
the same machine. Prints medians and ranges in processor seconds of the whole process, as Markdown.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

COMMANDS = {
    "empty program": ["-c", "pass"],
    "`import tiacrossfusion`": ["-c", "import tiacrossfusion"],
    "`tiacf --help`": ["-m", "tiacrossfusion", "--help"],
}


def seconds(tree: Path, arguments: list[str]) -> float:
    """Return the user and system seconds of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    trees = {"this checkout": Path(__file__).resolve().parents[1]}
    if options.baseline is not None:
        trees["baseline"] = options.baseline.resolve()
    times: dict[tuple[str, str], list[float]] = {}
    for run in range(options.runs + 1):  # the first fills caches and is not counted
        for command, arguments in COMMANDS.items():
            for name, tree in trees.items():
                taken = seconds(tree, arguments)
                if run:
                    times.setdefault((command, name), []).append(taken)
    print("| command | checkout | median s | range s |\n|---|---|---|---|")
    for (command, name), taken in times.items():
        print(
            f"| {command} | {name} | {median(taken):.3f} | {min(taken):.3f} to {max(taken):.3f} |"
        )


if __name__ == "__main__":
    main()
