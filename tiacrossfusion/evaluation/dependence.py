"""How much wider intervals are under cross-validation, where the folds are not independent.

The patients of one test fold trained the models of the others. With s_k the association of features and
outcome in test fold k, the model of fold k follows f times the sum of the other s_j, so that the product of
s_k and s_l is in the figures of both folds. Without any signal the variance of a pooled figure is then
1 + f times that of independent folds, whatever their number; with a strong signal it is less
(benchmarks/cv_coverage.md). Nadeau and Bengio (Machine Learning 52, 2003, 239-281) correct the t test of
resampled errors for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tiacrossfusion.evaluation.predictions import FoldPredictions


@dataclass(frozen=True)
class Dependence:
    """The dependence of folds.

    Attributes:
        factor: by which the variance of pooled figures of ranking is larger than that of independent folds;
            1 for a single fold. Brier score and calibration, which average over patients, do not need it.
        repeats: how many times each patient is tested, on average: the factor of averages over patients.
    """

    factor: float
    repeats: float

    @property
    def sentence(self) -> str:
        """Return what an interval takes into account, for a reader of the figures."""
        if self.factor == 1:
            return "95 % intervals: patients resampled, the model as it is."
        times = f"{math.sqrt(self.factor):.2f}"
        if self.repeats > 1:
            return (
                f"95 % intervals: patients resampled within folds, widened by {times} because the folds are "
                "not independent: patients of one test fold trained the models of the others, and each "
                f"patient is tested {self.repeats:.3g} times."
            )
        return (
            f"95 % intervals: patients resampled within folds, widened by sqrt(1 + f) = {times} because the "
            "folds are not independent: patients of one test fold trained the models of the others."
        )


INDEPENDENT = Dependence(1.0, 1.0)


def dependence_of(folds: Sequence[FoldPredictions]) -> Dependence:
    """Return the dependence of the folds of one model.

    With f the mean share of the patients outside a test fold that train its model, K folds and each patient
    tested R times, the factor is `1 + f + 2 f (1 - 1/K) (R - 1)` of the variance of R K independent folds:
    1 + f without repeats.
    """
    if len(folds) == 1:
        return INDEPENDENT
    tested = sum(len(fold.patients) for fold in folds)
    people = len({name for fold in folds for name in fold.patients})
    shares = [
        min(1.0, len(fold.training_times) / max(1, people - len(fold.patients))) for fold in folds
    ]
    share, repeats = sum(shares) / len(shares), tested / people
    others = max(0.0, 1 - repeats / len(folds))  # 1 - 1 / K
    return Dependence(1 + share + 2 * share * others * (repeats - 1), repeats)
