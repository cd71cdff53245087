"""Explain: attention and attribution as tiles and hotspots for QuPath and TIAToolbox, and figures to look at.

The names are loaded when they are first used: importing this room imports neither TIAToolbox nor
matplotlib.
"""
