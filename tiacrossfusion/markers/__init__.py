"""Markers: kinds of tissue that clustering finds in features, and how they relate to survival."""
