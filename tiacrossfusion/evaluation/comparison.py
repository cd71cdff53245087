"""Two models on the same patients: the difference of their concordance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.evaluation.bootstrap import bootstrap_counts, estimate, two_sided_p, widened
from tiacrossfusion.evaluation.dependence import dependence_of
from tiacrossfusion.evaluation.predictions import FoldPredictions, check_predictions
from tiacrossfusion.evaluation.scores import Comparison
from tiacrossfusion.survival import PairSums, harrell_pairs


def compare(
    first: Sequence[FoldPredictions],
    second: Sequence[FoldPredictions],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare the pooled Harrell's C of two models by a paired bootstrap.

    Both models see the same resamples, so that what makes a resample easy or hard cancels in the
    difference. Their predictions are of the same patients in the same folds, in any order.

    Raises:
        TiacfError: patients, folds, follow-up or time units differ.
    """
    check_predictions(first)
    check_predictions(second)
    first = sorted(first, key=lambda fold: fold.fold)
    second = _aligned(first, second)
    counts = bootstrap_counts([len(fold.patients) for fold in first], draws, seed)
    dependence = dependence_of(first)
    factor = dependence.factor
    one, two = _pooled(first, counts), _pooled(second, counts)
    difference = one - two
    no_pair = "no pair of patients can be compared"
    return Comparison(
        patients=sum(len(fold.patients) for fold in first),
        events=int(sum(fold.events.sum() for fold in first)),
        first=estimate(one, no_pair, factor=factor, limits=(0, 1)),
        second=estimate(two, no_pair, factor=factor, limits=(0, 1)),
        difference=estimate(difference, no_pair, factor=factor, limits=(-1, 1)),
        p=two_sided_p(widened(difference, factor)[1:]),
        interval=dependence.sentence,
        variance_factor=factor,
        draws=draws,
        seed=seed,
    )


def _pooled(folds: Sequence[FoldPredictions], counts: Sequence[np.ndarray]) -> np.ndarray:
    """Pooled C (1 + D,)."""
    parts = [
        harrell_pairs(fold.times, fold.events, fold.risks, drawn, fold.entered)
        for fold, drawn in zip(folds, counts, strict=True)
    ]
    pooled: PairSums = sum(parts[1:], start=parts[0])
    return pooled.ratio


def _aligned(
    first: Sequence[FoldPredictions], second: Sequence[FoldPredictions]
) -> list[FoldPredictions]:
    """The second model's folds with folds and patients in the order of the first's."""
    units = first[0].bins.unit, second[0].bins.unit
    if units[0] != units[1]:
        raise TiacfError(
            f"the predictions give times in {units[0]} and in {units[1]}; bring them to one unit"
        )
    one, two = _by_patient(first), _by_patient(second)
    names, others = {name for name, _ in one}, {name for name, _ in two}
    missing, added = names - others, others - names
    if missing or added:
        raise TiacfError(
            f"the predictions are of different patients: {len(missing)} only in the first, "
            f"{len(added)} only in the second, such as {min(missing | added)}; "
            "train both on the same patients"
        )
    moved = sorted({name for name, _ in one.keys() ^ two.keys()})
    if moved:
        places = [
            ", ".join(str(fold) for name, fold in sorted(keys) if name == moved[0])
            for keys in (one, two)
        ]
        raise TiacfError(
            f"{len(moved)} patients are held out in different folds, such as {moved[0]}: fold "
            f"{places[0]} and fold {places[1]}; train both with the same splits"
        )
    differs = sorted(key for key in one if one[key] != two[key])
    if differs:
        texts = [
            f"{time:g} {units[0]} with event {event}"
            for time, event in (one[differs[0]], two[differs[0]])
        ]
        raise TiacfError(
            f"the follow-up of {len(differs)} patients differs, such as {differs[0][0]}: "
            f"{' and '.join(texts)}; train both with the same table"
        )
    numbered = {fold.fold: fold for fold in second}
    return [_in_order(numbered[fold.fold], fold.patients) for fold in first]


def _by_patient(folds: Sequence[FoldPredictions]) -> dict[tuple[str, int], tuple[float, int]]:
    """Follow-up by patient and fold."""
    return {
        (name, fold.fold): (float(time), int(event))
        for fold in folds
        for name, time, event in zip(fold.patients, fold.times, fold.events, strict=True)
    }


def _in_order(fold: FoldPredictions, patients: tuple[str, ...]) -> FoldPredictions:
    position = {name: index for index, name in enumerate(fold.patients)}
    order = np.array([position[name] for name in patients])
    return fold.chosen(order)
