"""Stores of other programs that end in `.zarr` and are no bags."""

from __future__ import annotations

from pathlib import Path


def foreign_store(path: Path) -> str:
    """Return the name of the program that wrote a store, with the remedy; empty if it is not known."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    metadata = [path / name for name in (".zattrs", "zarr.json") if name in names]
    said = "".join(file.read_text("utf-8", "replace") for file in metadata if file.is_file())
    if "spatialdata_attrs" in said or {"tables", "shapes"} <= names:
        return "a SpatialData store, as LazySlide writes it; export its features as h5 (features, coords)"
    if "multiscales" in said:
        return "an OME-Zarr picture, no features; give it with --img-input"
    if {"features", "coordinates"} <= names or {"probabilities", "coordinates"} <= names:
        return "an output of TIAToolbox's DeepFeatureExtractor; save it as h5 (features, coords)"
    return ""
