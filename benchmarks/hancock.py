"""HANCOCK: what clinic, pathology, blood and an H&E vector each tell of survival with head-and-neck cancer.

python benchmarks/hancock.py ../shared/data/multimodal/hancock [--output benchmarks/hancock.md]
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.api import Clinic, evaluate_predictions
from tiacrossfusion.evaluation.scores import Estimate
from tiacrossfusion.interop.conversion import convert
from tiacrossfusion.interop.embeddings import read_embeddings
from tiacrossfusion.training.api import train

REPEATS, JOINED = 5, 2
CLINICAL = ("age_at_initial_diagnosis", "sex", "smoking_status", "primarily_metastasis")
#: Codes without an order.
CATEGORIES = ("primary_tumor_site", "histologic_type", "hpv_association_p16")
#: 268 and 348 have the same vector, so one of the two is not theirs.
SAME_VECTOR = ("268", "348")


def tables(data: Path, place: Path) -> tuple[dict[str, list[str]], dict[str, Path]]:
    """Write a table for each endpoint; returns the columns of each modality, and the tables."""
    parts = {
        name: pd.read_csv(data / f"{name}.csv", dtype={"patient_id": str}).set_index("patient_id")
        for name in ("clinical", "pathological", "blood", "targets")
    }
    blood = parts["blood"]
    blood.columns = [f"blood_{number}" for number in range(1, len(blood.columns) + 1)]
    for name in CATEGORIES:
        codes = parts["pathological"][name]
        parts["pathological"][name] = codes.map("code {:g}".format).where(codes.notna())
    columns = {
        "clinical": list(CLINICAL),
        "pathology": list(parts["pathological"].columns),
        "blood": list(blood.columns),
    }
    frame = parts["clinical"].join(parts["pathological"]).join(blood)
    targets = parts["targets"].loc[frame.index]
    frame["time"] = targets["days_to_last_information"] / 30.4375
    frame.index = pd.Index(frame.index.str.zfill(3), name="patient")
    cause = targets["survival_status_with_cause"].to_numpy()
    died = pd.Series(cause != "living", index=frame.index)
    of_tumour = pd.Series(cause == "deceased tumor specific", index=frame.index)
    found = {}
    for endpoint, event in (
        ("overall survival", died),
        ("death of the tumour", of_tumour.where(cause != "deceased")),  # 9 of unknown cause
    ):
        table = frame.assign(event=event.astype("Int64"))[event.notna()]
        found[endpoint] = place / f"{endpoint.replace(' ', '-')}.csv"
        table.to_csv(found[endpoint])
    return columns, found


def config(covariates: list[str], repeats: int) -> dict[str, Any]:
    """Settings of a training."""
    return {
        "time_unit": "months",
        "columns": {"covariates": covariates},
        "protocol": {"repeats": repeats},
        "drop_unusable": True,
    }


def text(figure: Estimate, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{figure.value:{sign}.3f} ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})"


def main() -> None:
    """Train and judge, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    lines = [
        "# HANCOCK: what tells of survival",
        "",
        "Made by `benchmarks/hancock.py`: ridge Cox regression (`clinical`), elastic-net Cox regression on "
        "one H&E vector a patient (`coxnet-20x`), and both (`late-fusion`, `joint-fusion`), five folds, "
        f"{REPEATS} repeats ({JOINED} with the vector). Patients with missing values stay in. "
        "Intervals are 95 % and widened for the dependence of folds.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        columns, paths = tables(options.data, place)
        vectors = read_embeddings(options.data / "tma_tile_dtr_256_HE.npz")
        vectors = [vector for vector in vectors if vector.name not in SAME_VECTOR]
        convert(vectors, place / "bags")
        sets = {
            "clinical": columns["clinical"],
            "clinical, pathology": columns["clinical"] + columns["pathology"],
            "clinical, pathology, blood": [*chain.from_iterable(columns.values())],
        }
        for endpoint, path in paths.items():
            whole = pd.read_csv(path, dtype={"patient": str})
            complete = whole.dropna(subset=sets["clinical, pathology, blood"])
            complete.to_csv(place / "complete.csv", index=False)
            lines += [
                f"## {endpoint.capitalize()}",
                "",
                "| patients | events | model | Harrell's C | integrated Brier score |",
                "|---|---|---|---|---|",
            ]
            for label, table in (("all", path), ("complete", place / "complete.csv")):
                for name, covariates in sets.items():
                    run = place / f"{path.stem} {label} {name}"
                    try:
                        found = train(
                            table,
                            None,
                            run,
                            config=config(covariates, REPEATS),
                            models=["clinical"],
                        ).evaluations["clinical"]
                    except TiacfError:  # fewer events than terms
                        lines.append(f"| {label} | | {name} | more terms than events in a fold | |")
                        print(lines[-1], flush=True)
                        continue
                    pooled, repeats = found.pooled, REPEATS
                    lines.append(
                        f"| {pooled.patients // repeats} ({label}) | {pooled.events // repeats} | {name} | "
                        f"{text(pooled.harrell_c)} | {text(pooled.brier)} |"
                    )
                    print(lines[-1], flush=True)
            run = place / f"{path.stem} vector"
            joint = sets["clinical, pathology, blood"]
            trained = train(
                path,
                place / "bags",
                run,
                config=config(joint, JOINED),
                models=["coxnet-20x", "late-fusion", "joint-fusion"],
            ).evaluations
            for model, name in (
                ("coxnet-20x", "H&E vector"),
                ("clinical", "clinical, pathology, blood"),
                ("late-fusion", "all, late-fusion"),
                ("joint-fusion", "all, joint-fusion"),
            ):
                pooled = trained[model].pooled
                lines.append(
                    f"| {pooled.patients // JOINED} (with a vector) | {pooled.events // JOINED} | {name} | "
                    f"{text(pooled.harrell_c)} | {text(pooled.brier)} |"
                )
                print(lines[-1], flush=True)
            lines += [
                "",
                "What the H&E vector adds, out of fold:",
                "",
                "| to | C without | C with | difference | hazard ratio per SD alone | adjusted | LR test p |",
                "|---|---|---|---|---|---|---|",
            ]
            for name, covariates in sets.items():
                clinic = Clinic(path, Columns(covariates=tuple(covariates)))
                added = evaluate_predictions(run / "coxnet-20x", clinic=clinic).added
                assert added is not None  # noqa: S101 - covariates were given
                without, both = (added.models[key].harrell_c for key in ("covariates", "both"))
                ratios = [
                    f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
                    for ratio in (added.risk_alone, added.risk_adjusted)
                ]
                cells = [name, f"{without.value:.3f}", f"{both.value:.3f}"]
                cells += [text(added.differences["harrell_c"], "+"), *ratios]
                lines.append(f"| {' | '.join(cells)} | {added.likelihood_ratio_p:.2g} |")
                print(lines[-1], flush=True)
            lines.append("")
            options.output.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
