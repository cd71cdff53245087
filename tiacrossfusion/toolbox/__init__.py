"""TIAToolbox's shapes: a model and an engine that are thin adapters on the rooms of this package."""
