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
from tiacrossfusion.explain.geojson_files import FILE_ENDINGS
from tiacrossfusion.pipeline import Prediction, SlideResult

if TYPE_CHECKING:
    from tiacrossfusion.zoo import BundleConfig, ModelBundle

_PICTURES = ("_survival.png", "_attention.png")

#: What each output type adds to a slide's name; the first is the main file.
OUTPUT_SUFFIXES = {
    "qupath": (*FILE_ENDINGS.values(), *_PICTURES),
    "zarr": (".zarr", *_PICTURES),
    "annotationstore": (".db", *_PICTURES),
}


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
    attention_figure(
        result.overview,
        bag,
        scores,
        hotspots,
        folder / f"{name}_attention.png",
        title=result.name,
        **label,
    )
    survival_figure(
        prediction.survival,
        None if config.time_bins is None else config.time_bins.edges,
        None if config.time_bins is None else config.time_bins.unit,
        folder / f"{name}_survival.png",
        title=result.name,
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


def prediction_dict(result: SlideResult, bundle: ModelBundle) -> dict[str, Any]:
    """Give a prediction as plain values and arrays.

    Returns:
        "risk", "hazards" and "survival" (K,), "percentile", "risk_group", "median_survival",
        "median_reached", "member_risks" (M,) of an ensemble or None, "attention" (N,) and "bounds"
        (N, 4) by scale, "message" (why something is unknown or may not hold), "model" and "notice"
        (what the model may be used for).
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
        "member_risks": prediction.member_risks,
        "attention": dict(prediction.attention),
        "bounds": {scale: features.bounds for scale, features in result.bag.scales.items()},
        "message": result.message,
        "model": bundle.config.name,
        "notice": bundle.config.card.notice,
    }


def prediction_row(prediction: Prediction, config: BundleConfig) -> dict[str, Any]:
    """Give a prediction as the plain values of a table's row; lists where a value has K of them.

    The hazards are no column: the row keeps them as they are for the mean over a patient's slides.
    """
    bins = config.time_bins
    return {
        "risk": prediction.risk,
        "risk_sd": prediction.risk_sd,
        "percentile": prediction.percentile,
        "risk_group": prediction.risk_group,
        "median_survival": prediction.median,
        "median_reached": prediction.median_reached,
        "time_unit": None if bins is None else bins.unit,
        "bin_edge": [] if bins is None else list(bins.edges[1:]),
        "survival": prediction.survival.tolist(),
        "hazards": prediction.hazards.tolist(),
        "model": config.name,
        "notice": config.card.notice,
    }


def _write_zarr(path: Path, result: SlideResult, bundle: ModelBundle) -> None:
    """Write the values of `prediction_dict` as a zarr group: arrays as arrays, the rest as attributes."""
    import zarr

    group = zarr.create_group(path)
    values = prediction_dict(result, bundle)
    for name in ("attention", "bounds"):
        for scale, array in values.pop(name).items():
            group.create_array(f"{name}/{scale}", data=array)
    for name in ("hazards", "survival", "member_risks"):
        if (array := values.pop(name)) is not None:
            group.create_array(name, data=array)
    bins = bundle.config.time_bins
    group.attrs.update(
        {
            **values,
            "time_bins": None if bins is None else bins.model_dump(mode="json"),
            "provenance": result.bag.provenance.model_dump(mode="json"),
        }
    )
