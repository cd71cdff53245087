"""Survival: time bins, what is read off a curve, and losses (`tiacrossfusion.survival.losses`)."""

from tiacrossfusion.survival.time_bins import TimeBins, median_survival, quantile_bins

__all__ = ["TimeBins", "median_survival", "quantile_bins"]
