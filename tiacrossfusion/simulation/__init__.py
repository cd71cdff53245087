"""Slides and cohorts with a planted, known prognosis."""
