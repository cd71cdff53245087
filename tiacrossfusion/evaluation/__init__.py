"""Evaluation: out-of-fold predictions, figures with intervals, comparison and report.

The names are loaded when they are first used: importing this room imports neither pandas nor matplotlib.
"""
