"""Scores of patches (attention, attribution), hotspots and the gallery: computed here, written by outputs.

Importing this package imports neither TIAToolbox nor matplotlib.
"""
