"""Evaluation: out-of-fold predictions, figures with intervals, comparison and report."""
