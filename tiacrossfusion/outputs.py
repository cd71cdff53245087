"""The files written for one slide, by output type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.explain import (
    attention_figure,
    find_hotspots,
    survival_figure,
    tile_scores,
    write_annotation_store,
    write_geojson,
)
from tiacrossfusion.pipeline import SlideResult

if TYPE_CHECKING:
    from tiacrossfusion.zoo import ModelBundle

_PICTURES = ("_survival.png", "_attention.png")

#: What each output type adds to a slide's name; the first is the main file.
OUTPUT_SUFFIXES = {
    "qupath": (".geojson", "_5x.geojson", "_10x.geojson", *_PICTURES),
    "zarr": (".zarr", *_PICTURES),
    "annotationstore": (".db", *_PICTURES),
}

#: Longer side of the overview in the attention picture, in pixels.
_OVERVIEW = 1200


def write_outputs(
    folder: Path, name: str, output_type: str, result: SlideResult, bundle: ModelBundle
) -> None:
    """Write a slide's files, those of `OUTPUT_SUFFIXES`, into a folder.

    Args:
        folder: an existing folder.
        name: stem of the files.
        output_type: "qupath", "zarr" or "annotationstore".
        result: the slide and its prediction.
        bundle: the model.
    """
    config = bundle.config
    bag, prediction = result.bag, result.prediction
    scores = tile_scores(bag, prediction.attention)
    hotspots = find_hotspots(bag, scores["20x"])
    label: dict[str, Any] = {"model": config.name, "note": config.card.notice}
    if output_type == "qupath":
        write_geojson(folder, name, bag, scores, hotspots, **label)
    elif output_type == "annotationstore":
        write_annotation_store(folder / f"{name}.db", bag, scores["20x"], hotspots, **label)
    else:
        _write_zarr(folder / f"{name}.zarr", result, bundle)
    width, height = result.slide.dimensions
    mpp = max(width * result.slide.mpp[0], height * result.slide.mpp[1]) / _OVERVIEW
    attention_figure(
        result.slide.reader.slide_thumbnail(max(mpp, max(result.slide.mpp)), "mpp")[..., :3],
        bag,
        prediction.attention,
        folder / f"{name}_attention.png",
        title=result.slide.name,
        **label,
    )
    survival_figure(
        prediction.survival,
        None if config.time_bins is None else config.time_bins.edges,
        None if config.time_bins is None else config.time_bins.unit,
        folder / f"{name}_survival.png",
        title=result.slide.name,
        risk_group=prediction.risk_group,
        median=prediction.median,
        note=config.card.notice,
        reference=[
            (f"training, {group.name} risk (n = {group.patients})", np.array(group.survival))
            for group in config.risk_reference.groups
        ]
        if config.risk_reference is not None
        else [],
    )


def prediction_dict(result: SlideResult) -> dict[str, Any]:
    """Give a prediction as plain values and arrays.

    Returns:
        "risk", "hazards" and "survival" (K,), "percentile", "risk_group", "median_survival",
        "median_reached", and "attention" (N,) and "bounds" (N, 4) by scale.
    """
    prediction = result.prediction
    return {
        "risk": prediction.risk,
        "hazards": prediction.hazards,
        "survival": prediction.survival,
        "percentile": prediction.percentile,
        "risk_group": prediction.risk_group,
        "median_survival": prediction.median,
        "median_reached": prediction.median_reached,
        "attention": dict(prediction.attention),
        "bounds": {scale: features.bounds for scale, features in result.bag.scales.items()},
    }


def _write_zarr(path: Path, result: SlideResult, bundle: ModelBundle) -> None:
    """Write the values of `prediction_dict` as a zarr group: arrays as arrays, the rest as attributes."""
    import zarr

    group = zarr.create_group(path)
    values = prediction_dict(result)
    for name in ("attention", "bounds"):
        for scale, array in values.pop(name).items():
            group.create_array(f"{name}/{scale}", data=array)
    for name in ("hazards", "survival"):
        group.create_array(name, data=values.pop(name))
    bins = bundle.config.time_bins
    group.attrs.update(
        {
            **values,
            "time_bins": None if bins is None else bins.model_dump(mode="json"),
            "model": bundle.config.name,
            "notice": bundle.config.card.notice,
            "provenance": result.bag.provenance.model_dump(mode="json"),
        }
    )
