"""A result as plain values: a dictionary, a row of a table, and a record of its origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiacrossfusion.slides.spec import SCALES

if TYPE_CHECKING:
    from tiacrossfusion.inference.prediction import Prediction
    from tiacrossfusion.inference.reading import PartialReading
    from tiacrossfusion.inference.slide import SlideResult
    from tiacrossfusion.models.config import BundleConfig


def prediction_dict(result: SlideResult) -> dict[str, Any]:
    """Return a prediction as plain values and arrays.

    Returns:
        "risk", "hazards" and "survival" (K,), "percentile", "risk_group", "median_survival",
        "median_reached", "member_risks" (M,) of an ensemble or None, "attention" and, where known,
        "rolled" and "attribution" (N,) and "bounds" (N, 4) by scale, "scale_contribution" by scale or
        None, "record" (what was used of a clinical record) or None, "record_contribution" and
        "variable_contribution", "reading" (share, interval and shrunken risk of a partial reading),
        "risk_nuisance_sd" and "risk_group_uncertain" of a model that was audited on slides,
        "message" (why a value is unknown or unreliable), "model" and "notice" (the intended use of the
        model).
    """
    prediction = result.prediction
    adds = prediction.attribution
    return {
        **prediction.values(),
        "attention": dict(prediction.attention),
        "rolled": dict(prediction.rolled or {}),
        "attribution": {} if adds is None else dict(adds.values),
        "scale_contribution": None if adds is None else dict(adds.scale_contribution),
        "bounds": {s: f.bounds for s, f in result.bag.scales.items() if f.bounds is not None},
        "record": None if prediction.record is None else vars(prediction.record),
        "record_contribution": None if adds is None else adds.record_contribution,
        "variable_contribution": {} if adds is None else dict(adds.variables),
        "reading": _of_reading(prediction.reading),
        **_of_nuisance(prediction),
        "message": result.message,
        "model": result.config.name,
        "notice": result.config.card.notice,
    }


def prediction_row(prediction: Prediction, config: BundleConfig) -> dict[str, Any]:
    """Return a prediction as the plain values of a table row; lists where a value has K entries.

    The table has no column of hazards: they are kept for the mean over a patient's slides.
    """
    bins, adds = config.time_bins, prediction.attribution
    values = prediction.values()
    del values["member_risks"]
    contribution = dict.fromkeys(SCALES) if adds is None else adds.scale_contribution
    use, of_record = prediction.record, {}
    if use is not None:
        of_record = {
            "risk_without_record": use.risk_without,
            "record_used": ", ".join(use.used),
            "record_missing": ", ".join(use.missing),
            "hazards_without_record": use.hazards_without.tolist(),
        }
        if adds is not None and adds.record_contribution is not None:
            of_record["contribution_record"] = adds.record_contribution
            of_record["of_variables"] = adds.variables
    return {
        **values,
        "risk_sd": prediction.risk_sd,
        "time_unit": None if bins is None else bins.unit,
        "bin_edge": [] if bins is None else list(bins.edges[1:]),
        "survival": prediction.survival.tolist(),
        "hazards": prediction.hazards.tolist(),
        **{f"contribution_{scale}": contribution[scale] for scale in SCALES},
        **of_record,
        **_of_reading(prediction.reading),
        **_of_nuisance(prediction),
        "model": config.name,
        "notice": config.card.notice,
    }


def _of_reading(reading: PartialReading | None) -> dict[str, Any]:
    """Return the values of a prediction from a part of the slide; none if all was read."""
    if reading is None:
        return {}
    return {
        "chosen_by": reading.chosen_by,
        "share_read": reading.share,
        "families": reading.families,
        "risk_low": reading.low,
        "risk_high": reading.high,
        "risk_shrunken": reading.shrunken,
        "disagreement": reading.total_disagreement,
    }


def _of_nuisance(prediction: Prediction) -> dict[str, Any]:
    """Return how far nuisances move the risk; nothing for models that were not audited on slides."""
    if prediction.risk_nuisance_sd is None:
        return {}
    return {
        "risk_nuisance_sd": prediction.risk_nuisance_sd,
        "risk_group_uncertain": prediction.group_uncertain,
    }


def origin(result: SlideResult) -> dict[str, Any]:
    """Return a record of slide, features, model and risk group, as strict JSON without nulls.

    It has no times, so that two runs write the same bytes.
    """
    made = result.bag.provenance
    features = {
        "mask": made.mask,
        "sampling": made.sampling.model_dump(mode="json", exclude_none=True),
        "encoder": made.encoder.model_dump(mode="json", exclude_none=True),
        "versions": dict(sorted(made.versions.items())),
        "imported": made.imported or None,
    }
    record = {
        "slide": made.slide,
        "dimensions": made.dimensions and list(made.dimensions),
        "mpp": made.mpp and list(made.mpp),
        "offset": list(made.offset),
        "model": result.config.name,
        "note": result.config.card.notice,
        "risk_group": result.prediction.risk_group,
        **_of_nuisance(result.prediction),
        "features": {name: value for name, value in features.items() if value is not None},
    }
    return {name: value for name, value in record.items() if value is not None}
