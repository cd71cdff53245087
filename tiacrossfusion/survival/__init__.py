"""Survival: time bins, what is read off a curve, and measures of predictions.

Losses are in `tiacrossfusion.survival.losses`, which imports torch; nothing here does.
"""

from tiacrossfusion.survival.calibration import (
    CalibrationGroup,
    calibration_groups,
    calibration_intercept,
    calibration_slope,
    expected_events,
    observed_over_expected,
)
from tiacrossfusion.survival.competing_risks import cumulative_incidence
from tiacrossfusion.survival.concordance import PairSums, harrell_c, harrell_pairs, uno_c, uno_pairs
from tiacrossfusion.survival.decision_curve import decision_curve
from tiacrossfusion.survival.discrete import hazards_of, interpolation, risk_of, survival_curve
from tiacrossfusion.survival.kaplan_meier import Censoring, kaplan_meier
from tiacrossfusion.survival.proportional_hazards import breslow_increments
from tiacrossfusion.survival.score_test import cox_score
from tiacrossfusion.survival.stratified_cox import stratified_cox
from tiacrossfusion.survival.time_bins import TimeBins, check_unit, median_survival, quantile_bins
from tiacrossfusion.survival.time_dependent import (
    RocCurve,
    auc_pairs,
    brier_parts,
    integrated_brier_parts,
    roc_curve,
    survival_at,
)

__all__ = [
    "CalibrationGroup",
    "Censoring",
    "PairSums",
    "RocCurve",
    "TimeBins",
    "auc_pairs",
    "breslow_increments",
    "brier_parts",
    "calibration_groups",
    "calibration_intercept",
    "calibration_slope",
    "check_unit",
    "cox_score",
    "cumulative_incidence",
    "decision_curve",
    "expected_events",
    "harrell_c",
    "harrell_pairs",
    "hazards_of",
    "integrated_brier_parts",
    "interpolation",
    "kaplan_meier",
    "median_survival",
    "observed_over_expected",
    "quantile_bins",
    "risk_of",
    "roc_curve",
    "stratified_cox",
    "survival_at",
    "survival_curve",
    "uno_c",
    "uno_pairs",
]
