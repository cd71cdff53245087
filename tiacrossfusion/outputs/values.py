"""A prediction as a dictionary and as a row of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.inference.prediction import Prediction
    from tiacrossfusion.inference.slide import SlideResult
    from tiacrossfusion.models.config import BundleConfig


def prediction_dict(result: SlideResult) -> dict[str, Any]:
    """Return a prediction as plain values and arrays.

    Returns:
        "risk", "hazards" and "survival" (K,), "percentile", "risk_group", "median_survival",
        "median_reached", "member_risks" (M,) of an ensemble or None, "attention" and, where they are
        known, "rolled" and "attribution" (N,) and "bounds" (N, 4) by scale, "scale_contribution" by
        scale or None, "message" (why a value is unknown or unreliable), "model" and "notice" (what the
        model may be used for).
    """
    prediction = result.prediction
    adds = prediction.attribution
    return {
        **prediction.values(),
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
        "model": result.config.name,
        "notice": result.config.card.notice,
    }


def prediction_row(prediction: Prediction, config: BundleConfig) -> dict[str, Any]:
    """Return a prediction as the plain values of a table's row; lists where a value has K of them.

    The hazards are not a column of the table: they are kept for the mean over a patient's slides.
    """
    bins, adds = config.time_bins, prediction.attribution
    values = prediction.values()
    del values["member_risks"]
    return {
        **values,
        "risk_sd": prediction.risk_sd,
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
