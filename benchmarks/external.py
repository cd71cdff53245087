"""A model that was trained on one simulated cohort, judged on others: as it was, and with planted shifts.

python benchmarks/external.py [--output benchmarks/external.md]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner

from tiacrossfusion.cli.main import main as tiacf
from tiacrossfusion.evaluation.api import Clinic, evaluate_external
from tiacrossfusion.evaluation.scores import Estimate
from tiacrossfusion.survival import harrell_c
from tiacrossfusion.training.api import train

PATIENTS, SIDE, MODELS = 300, 4, ("mean-pool", "coxnet")
#: Seed and strength of each cohort, and a factor on its times.
COHORTS = {
    "training": (9101, 1.5, 1.0),
    "another of the same kind": (9102, 1.5, 1.0),
    "half the effect": (9103, 0.75, 1.0),
    "hazard doubled": (9104, 1.5, 0.5),
}

SLOPES = """
Slopes lie above 1 where nothing was shifted: the penalties of the models, and the mean of five curves in an
ensemble, make predictions differ less than hazards do. The shifts are seen as they were planted, relative to
that: half the slope, and log 2 between the intercepts.
"""


def simulate(place: Path, name: str) -> tuple[Path, Path, float]:
    """Draw a cohort; returns bags, table and the C of the true hazard."""
    seed, strength, factor = COHORTS[name]
    folder = place / name.replace(" ", "-")
    words = ["simulate", "--output-path", folder, "--scenario", "sum", "--patients", PATIENTS]
    words += ["--seed", seed, "--strength", strength, "--side", SIDE]
    done = CliRunner().invoke(tiacf, [str(word) for word in words])
    if done.exit_code:
        raise RuntimeError(done.output)
    table = pd.read_csv(folder / "cohort.csv")
    table["time"] *= factor
    table.to_csv(place / f"{folder.name}.csv", index=False)
    truth = harrell_c(
        table["time"].to_numpy(), table["event"].to_numpy(), table["log_hazard"].to_numpy()
    )
    return folder / "bags", place / f"{folder.name}.csv", truth


def text(figure: Estimate, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{figure.value:{sign}.2f} ({figure.low:{sign}.2f} to {figure.high:{sign}.2f})"


def main() -> None:
    """Simulate, train, judge, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    lines = [
        "# External validation with a known truth",
        "",
        f"Made by `benchmarks/external.py`: ensembles of five folds, trained on {PATIENTS} simulated "
        "patients (sum of two burdens), judged with `evaluate_external` on cohorts of other seeds. "
        "Calibration at the middle bin edge: slope 1, intercept 0 and O/E 1 are right; doubled hazards "
        f"shift the intercept by log 2 = {np.log(2):.2f}, and half the effect halves the slope.",
        "",
        "| model | cohort | true C | C | slope | intercept | O/E |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        drawn = {name: simulate(place, name) for name in COHORTS}
        bags, table, _ = drawn["training"]
        trained = train(
            table, bags, place / "trained", config={"time_unit": "months"}, models=MODELS
        )
        for model in MODELS:
            for name in list(COHORTS)[1:]:
                bags, table, truth = drawn[name]
                found = evaluate_external(trained.bundles[model], bags, Clinic(table)).evaluation
                middle = found.pooled.calibration[len(found.times) // 2]
                cells = [model, name, f"{truth:.3f}"]
                c = found.pooled.harrell_c
                assert middle.slope is not None  # noqa: S101 - there is one fold
                cells += [f"{c.value:.3f} ({c.low:.3f} to {c.high:.3f})", text(middle.slope)]
                cells += [text(middle.intercept, "+"), text(middle.observed_over_expected)]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    lines += ["", " ".join(SLOPES.split())]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
