"""The origin of a result file, as it is written into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiacrossfusion.inference.slide import SlideResult


def origin(result: SlideResult) -> dict[str, Any]:
    """Describe slide, features and model of a result, without times: two runs write the same bytes.

    Returns:
        A record of strict JSON without nulls.
    """
    made = result.bag.provenance
    record: dict[str, Any] = {
        "slide": made.slide,
        "dimensions": made.dimensions and list(made.dimensions),
        "mpp": made.mpp and list(made.mpp),
        "offset": list(made.offset),
        "model": result.config.name,
        "note": result.config.card.notice,
    }
    features = {
        "mask": made.mask,
        "sampling": made.sampling.model_dump(mode="json", exclude_none=True),
        "encoder": made.encoder.model_dump(mode="json", exclude_none=True),
        "versions": dict(sorted(made.versions.items())),
        "imported": made.imported or None,
    }
    # Features of another program may lack much of it.
    record["features"] = {name: value for name, value in features.items() if value is not None}
    return {name: value for name, value in record.items() if value is not None}
