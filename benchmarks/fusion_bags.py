"""Slide and clinical record on bags: the slide score is that of a trained network, and what the record costs.

python benchmarks/fusion_bags.py [--patients 600] [--output benchmarks/fusion_bags.md]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from tiacrossfusion.evaluation.comparison import compare
from tiacrossfusion.evaluation.prediction_files import read_predictions
from tiacrossfusion.evaluation.scores import Estimate
from tiacrossfusion.simulation.bags import simulate_bags
from tiacrossfusion.simulation.planted import true_concordance
from tiacrossfusion.simulation.record import VARIABLES, RecordOptions
from tiacrossfusion.training.api import train
from tiacrossfusion.training.config import make_config
from tiacrossfusion.training.plan import read_cohort
from tiacrossfusion.training.run import TrainingRun

SLIDE = "nested-fusion"
MODELS = (SLIDE, "late-fusion", "joint-fusion", "joint-network")
FOLDS = 2


def text(figure: Estimate, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{figure.value:{sign}.3f} ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})"


def main() -> None:
    """Train, judge and time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=600)
    parser.add_argument("--seed", type=int, default=3000)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cohort = simulate_bags(
            place,
            options.patients,
            options.seed,
            scenario="colocation",
            strength=0.85,
            censored_share=0.3,
            side=16,
            record=RecordOptions(0.85, 1.0, 0.5, 0.2),
        )
        config = {
            "time_unit": "months",
            "columns": {"covariates": list(VARIABLES)},
            "protocol": {"folds": FOLDS},
        }

        settings = make_config(config | {"models": list(MODELS)}, "the benchmark")
        cohort_files = read_cohort(place / "cohort.csv", place / "bags", settings)
        run = TrainingRun(place / "run", cohort_files, settings)

        def seconds(model: str) -> float:
            """Train a model on all folds, without figures and pictures."""
            begun = time.perf_counter()
            run.fit(model)
            return time.perf_counter() - begun

        slide_alone, with_scores = seconds(SLIDE), seconds("late-fusion")
        shutil.rmtree(place / "run" / "late-fusion")  # its slide scores are kept
        own, clinical = seconds("late-fusion"), seconds("clinical")
        found = train(
            place / "cohort.csv", place / "bags", place / "run", config=config, models=MODELS
        ).evaluations
        best = true_concordance(cohort)
        lines = [
            "# Slide and clinical record on bags",
            "",
            f"Made by `benchmarks/fusion_bags.py`: {options.patients} planted patients, colocation of a 20x "
            "and a 5x pattern in the slide, a record with 20 % missing, rho .5, a = b = 0.85, c = 1; the "
            f"slide's network is {SLIDE}, {FOLDS} folds. C of the true hazard: {best:.3f}.",
            "",
            "| model | Harrell's C | integrated Brier score | C less late-fusion | p |",
            "|---|---|---|---|---|",
        ]
        late = read_predictions(place / "run" / "late-fusion")
        for name in ("clinical", *MODELS):
            pooled = found[name].pooled
            difference = compare(read_predictions(place / "run" / name), late)
            lines.append(
                f"| {name} | {text(pooled.harrell_c)} | {text(pooled.brier)} | "
                f"{text(difference.difference, '+')} | {difference.p:.2g} |"
            )
        lines += [
            "",
            f"Cost on a CPU, {FOLDS} folds: {SLIDE} {slide_alone:.0f} s, late-fusion "
            f"with the inner folds of the slide scores {with_scores:.0f} s more, with these kept {own:.1f} s "
            f"({own / slide_alone:.1%}). Fitting the record alone, with the predictions, figures and "
            f"bundles that every model has, takes {clinical:.1f} s ({clinical / slide_alone:.1%}).",
        ]
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
