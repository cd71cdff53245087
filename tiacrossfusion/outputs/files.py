"""The files written for one slide, by output type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiacrossfusion.inference.prediction import Prediction
from tiacrossfusion.inference.slide import SlideResult
from tiacrossfusion.outputs.annotation_store import write_annotation_store
from tiacrossfusion.outputs.geojson_files import COMPRESSED, FILE_ENDINGS, write_geojson
from tiacrossfusion.outputs.overlay import attention_figure
from tiacrossfusion.outputs.survival_plot import survival_figure
from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.models.bundle import ModelBundle
    from tiacrossfusion.models.config import BundleConfig

_SURVIVAL, _ATTENTION = "_survival.png", "_attention.png"

#: The files of each output type that are no pictures, by what they add to a slide's name.
_MAIN = {"qupath": tuple(FILE_ENDINGS.values()), "zarr": (".zarr",), "annotationstore": (".db",)}

OUTPUT_TYPES = tuple(_MAIN)

#: Whatever may be added to a slide's name.
ALL_SUFFIXES = sorted(
    {suffix for suffixes in _MAIN.values() for suffix in suffixes}
    | {f"{suffix}{COMPRESSED}" for suffix in _MAIN["qupath"]}
    | {_SURVIVAL, _ATTENTION}
)


def output_suffixes(output_type: str, *, gzip: bool = False, maps: bool = True) -> tuple[str, ...]:
    """What the files of a slide add to its name; the first is the main file.

    Args:
        output_type: "qupath", "zarr" or "annotationstore".
        gzip: GeoJSON is compressed.
        maps: whether it is known where the patches lie; without it there are no maps.
    """
    main = _MAIN[output_type] if maps or output_type == "zarr" else ()
    if gzip and output_type == "qupath":
        main = tuple(f"{suffix}{COMPRESSED}" for suffix in main)
    return (*main, _SURVIVAL, *([_ATTENTION] if maps else []))


def write_outputs(
    folder: Path,
    name: str,
    output_type: str,
    result: SlideResult,
    bundle: ModelBundle,
    *,
    gzip: bool = False,
) -> None:
    """Write a slide's files, those of `output_suffixes`, into a folder.

    Args:
        folder: an existing folder.
        name: stem of the files.
        output_type: "qupath", "zarr" or "annotationstore".
        result: the slide and its prediction.
        bundle: the model.
        gzip: compress GeoJSON.
    """
    config = bundle.config
    bag, prediction = result.bag, result.prediction
    scores, hotspots = result.scores, result.hotspots
    label: dict[str, Any] = {"model": config.name, "note": config.card.notice}
    if output_type == "zarr":
        _write_zarr(folder / f"{name}.zarr", result, bundle)
    elif scores is not None and output_type == "qupath":
        write_geojson(folder, name, bag, scores, hotspots, compress=gzip, **label)
    elif scores is not None:
        write_annotation_store(folder / f"{name}.db", bag, scores["20x"], hotspots, **label)
    if scores is not None:
        attention_figure(
            result.overview,
            bag,
            scores,
            hotspots,
            folder / f"{name}{_ATTENTION}",
            title=result.name,
            **label,
        )
    survival_figure(
        prediction.survival,
        None if config.time_bins is None else config.time_bins.edges,
        None if config.time_bins is None else config.time_bins.unit,
        folder / f"{name}{_SURVIVAL}",
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
        "median_reached", "member_risks" (M,) of an ensemble or None, "attention" and, where they are
        known, "rolled" and "attribution" (N,) and "bounds" (N, 4) by scale, "scale_contribution" by
        scale or None, "message" (why something is unknown or may not hold), "model" and "notice"
        (what the model may be used for).
    """
    prediction = result.prediction
    adds = prediction.attribution
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
        "rolled": dict(prediction.rolled or {}),
        "attribution": {} if adds is None else dict(adds.values),
        "scale_contribution": None if adds is None else dict(adds.scale_contribution),
        "bounds": {
            scale: features.bounds
            for scale, features in result.bag.scales.items()
            if features.bounds is not None
        },
        "message": result.message,
        "model": bundle.config.name,
        "notice": bundle.config.card.notice,
    }


def prediction_row(prediction: Prediction, config: BundleConfig) -> dict[str, Any]:
    """Give a prediction as the plain values of a table's row; lists where a value has K of them.

    The hazards are no column: the row keeps them as they are for the mean over a patient's slides.
    """
    bins, adds = config.time_bins, prediction.attribution
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
        **{
            f"contribution_{scale}": None if adds is None else adds.scale_contribution[scale]
            for scale in SCALES
        },
        "model": config.name,
        "notice": config.card.notice,
    }


def _write_zarr(path: Path, result: SlideResult, bundle: ModelBundle) -> None:
    """Write the values of `prediction_dict` as a zarr group: arrays as arrays, the rest as attributes."""
    import zarr

    group = zarr.create_group(path)
    values = prediction_dict(result, bundle)
    for name in ("attention", "rolled", "attribution", "bounds"):
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
