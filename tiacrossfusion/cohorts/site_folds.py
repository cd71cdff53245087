"""Folds in which no site is in two parts: how a model does at hospitals that it has not seen.

Slides of one hospital share stain, scanner and kind of patients, so that a model may learn the hospital
(Howard et al., Nature Communications 12, 2021, 4423: "site-preserving" cross-validation).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tiacrossfusion.cohorts.folds import Fold, make_fold
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.arguments import at_least

#: Orders of the sites that are tried.
_TRIALS = 200


def site_folds(
    table: CohortTable, n_folds: int = 5, validation_share: float = 0.2, *, seed: int
) -> tuple[list[Fold], list[str]]:
    """Divide the sites of `table.sites` into folds of about equal numbers of patients and events.

    The validation part of a fold consists of whole sites, too.

    Returns:
        The folds, and a line on how even they are.

    Raises:
        TiacfError: there are fewer sites than folds and a validation part need.
    """
    at_least("--folds", n_folds, 2)
    if not 0 < validation_share < 1:
        raise UsageError(f"validation_share {validation_share:g}: must lie between 0 and 1")
    if table.sites is None:
        raise UsageError("the table has no sites; name their column with --fold-by")
    sizes = _sizes(table)
    if len(sizes) < max(3, n_folds):
        raise TiacfError(
            f"--fold-by: {len(sizes)} sites ({', '.join(sizes.index[:5])}) are too few for {n_folds} test "
            "folds without a site in two parts; take fewer folds, or leave it out"
        )
    rng = np.random.default_rng(seed)
    tested = _divide(sizes, np.full(n_folds, 1 / n_folds), rng)
    folds = []
    for number in range(n_folds):
        rest = sizes[tested != number]
        share = np.array([1 - validation_share, validation_share])
        stopping = set(rest.index[_divide(rest, share, rng) == 1])
        parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for patient, site in table.sites.items():
            part = "validation" if site in stopping else "train"
            if tested[sizes.index.get_loc(site)] == number:
                part = "test"
            parts[part].append(str(patient))
        empty = [part for part, patients in parts.items() if not patients]
        if empty:
            raise TiacfError(
                f"--fold-by: the {len(sizes)} sites leave no patient for the {empty[0]} part of fold "
                f"{number}; take fewer folds"
            )
        folds.append(make_fold(number, parts["train"], parts["validation"], parts["test"]))
    return folds, [_evenness(folds, table, len(sizes))]


def _sizes(table: CohortTable) -> pd.DataFrame:
    """Number of patients and of events of each site, by name."""
    frame = pd.DataFrame({"site": table.sites, "events": table.patients["event"], "patients": 1})
    return frame.groupby("site")[["patients", "events"]].sum().sort_index()


def _divide(sizes: pd.DataFrame, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Part (S,) of each site, so that parts have about those shares of the patients and of the events.

    The largest site goes where it fits best, then the next; of many orders, with sizes jittered, the one
    with the most even parts.
    """
    counts = sizes.to_numpy(float)
    wanted = shares[:, None] * counts.sum(axis=0)
    scale = np.maximum(counts.sum(axis=0), 1)
    best, smallest = np.zeros(len(counts), int), np.inf
    for _ in range(_TRIALS):
        order = np.argsort(-counts.sum(axis=1) * rng.uniform(0.5, 1.5, len(counts)))
        parts, sums = np.empty(len(counts), int), np.zeros_like(wanted)
        for site in order:
            gap = ((sums + counts[site] - wanted) / scale) ** 2 - ((sums - wanted) / scale) ** 2
            parts[site] = int(np.argmin(gap.sum(axis=1)))
            sums[parts[site]] += counts[site]
        unevenness = float((((sums - wanted) / scale) ** 2).sum())
        if unevenness < smallest:
            best, smallest = parts, unevenness
    return best


def _evenness(folds: Sequence[Fold], table: CohortTable, sites: int) -> str:
    events = [int(table.patients.loc[list(fold.test), "event"].sum()) for fold in folds]
    patients = [len(fold.test) for fold in folds]
    return (
        f"folds by {sites} sites, none in two parts: test parts of {min(patients)} to {max(patients)} "
        f"patients with {min(events)} to {max(events)} events"
    )
