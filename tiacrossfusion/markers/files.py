"""The tables of markers, and what is needed to recognise them elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save

from tiacrossfusion.io.atomic import replacing, write_text
from tiacrossfusion.markers.api import Markers

MARKERS, ARRANGEMENT, PATIENTS, SLIDES = (
    "markers.csv",
    "arrangement.csv",
    "patients.csv",
    "slides.csv",
)
TYPICAL, NUMBERS, WEIGHTS, SETTINGS = (
    "typical_patches.csv",
    "numbers.csv",
    "markers.safetensors",
    "markers.json",
)


def markers_table(found: Markers) -> pd.DataFrame:
    """Return one row a marker: how much there is of it, and how its share goes with survival.

    `p_alone` is adjusted for the covariates only; `p`, `q` and the hazard ratio of one SD of the share are
    adjusted for the markers found before too, or for all found if it is not among them. `hr_held_out` is of
    patients whose patches were assigned by markers found without them.
    """
    counts, shares = found.counts, found.shares
    share = counts / counts.sum(axis=1, keepdims=True)
    frame = pd.DataFrame(
        {
            "marker": np.arange(1, counts.shape[1] + 1),
            "patients": (counts > 0).sum(axis=0),
            "share": counts.sum(axis=0) / counts.sum(),
            "share_median": np.median(share, axis=0),
            "found": [marker in shares.found for marker in range(counts.shape[1])],
            "step": [
                shares.found.index(marker) + 1 if marker in shares.found else pd.NA
                for marker in range(counts.shape[1])
            ],
            "p_alone": shares.alone,
            "p": shares.p,
            "q": shares.q,
            "hr": [ratio.value for ratio in found.ratios],
            "hr_low": [ratio.low for ratio in found.ratios],
            "hr_high": [ratio.high for ratio in found.ratios],
            "folds_found": [held.found for held in found.held],
            "folds": [held.folds for held in found.held],
            "hr_held_out": [held.ratio.value for held in found.held],
            "hr_held_out_low": [held.ratio.low for held in found.held],
            "hr_held_out_high": [held.ratio.high for held in found.held],
        }
    )
    return frame.astype({"step": "Int64"})


def arrangement_table(found: Markers) -> pd.DataFrame:
    """Return one row a test of how markers lie, the strongest first."""
    rows = [
        {
            "kind": test.kind,
            "marker": test.marker + 1,
            "of": pd.NA if test.other is None else test.other + 1,
            "patients": test.patients,
            "z": test.score,
            "p": test.p,
            "q": test.q,
            "found": test.q <= found.level,
        }
        for test in found.arrangement
    ]
    names = ["kind", "marker", "of", "patients", "z", "p", "q", "found"]
    return pd.DataFrame(rows, columns=names).astype({"of": "Int64"})


def patients_table(found: Markers) -> pd.DataFrame:
    """Return one row a patient: the number of patches, and of each marker share, Moran's I and neighbours."""
    counts = found.counts
    frame = pd.DataFrame({"patient": found.table.patients.index, "patches": counts.sum(axis=1)})
    columns = {}
    for marker in range(counts.shape[1]):
        columns[f"share_{marker + 1}"] = counts[:, marker] / counts.sum(axis=1)
    for name in ("moran", "neighbours"):
        values = np.stack([getattr(one, name) for one in found.described.layouts])
        columns |= {f"{name}_{k + 1}": values[:, k] for k in range(values.shape[1])}
    return pd.concat([frame, pd.DataFrame(columns)], axis=1)


def write_tables(found: Markers, folder: Path) -> None:
    """Write all tables of markers, their centres and the settings into a folder.

    Raises:
        TiacfError: the folder cannot be written.
    """
    number = len(found.centres)
    slides = pd.DataFrame(
        [
            {"slide": slide, "patches": counts.sum()}
            | {f"share_{k + 1}": counts[k] / counts.sum() for k in range(number)}
            for slide, counts in found.described.slides.items()
        ]
    )
    typical = pd.DataFrame(
        [
            {"marker": marker + 1, "rank": rank, "patient": one.patient, "slide": one.slide}
            | dict(zip(("x0", "y0", "x1", "y1"), one.bounds, strict=True))
            | {"distance": one.distance}
            for marker, patches in found.described.typical.items()
            for rank, one in enumerate(patches, 1)
        ],
        columns=["marker", "rank", "patient", "slide", "x0", "y0", "x1", "y1", "distance"],
    )
    numbers = pd.DataFrame(
        [vars(one) for one in found.stability], columns=["number", "agreement", "error"]
    )
    for name, table in {
        MARKERS: markers_table(found),
        ARRANGEMENT: arrangement_table(found),
        PATIENTS: patients_table(found),
        SLIDES: slides,
        TYPICAL: typical,
        NUMBERS: numbers,
    }.items():
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        write_text(folder / name, text)
    with replacing(folder / WEIGHTS) as part:
        weights = {
            "mean": found.projection.mean,
            "axes": np.ascontiguousarray(found.projection.axes),
            "centres": found.centres,
        }
        part.write_bytes(save(weights))
    settings = {
        "table": found.title,
        "table_sha256": found.table.sha256,
        "scale": found.scale,
        "number": number,
        "level": found.level,
        "seed": found.seed,
        "covariates": found.covariates,
        "encoder": found.encoder.model_dump(),
        "sampling": found.sampling.model_dump(),
        "notes": found.notes,
    }
    write_text(folder / SETTINGS, json.dumps(settings, indent=1, default=str) + "\n")
