"""Training: cohort tables, splits, models and protocols."""
