"""Sampling: from a slide file to patches on three nested grids."""
