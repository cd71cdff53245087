"""The origin of a result file, as it is written into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiacrossfusion.bags.bag import FeatureBag


def origin(bag: FeatureBag, *, model: str, note: str) -> dict[str, Any]:
    """Describe slide, features and model of a result, without times: two runs write the same bytes.

    Args:
        bag: bag of the slide.
        model: name of the model.
        note: what the result may be used for.

    Returns:
        A record of strict JSON without nulls.
    """
    made = bag.provenance
    record: dict[str, Any] = {
        "slide": made.slide,
        "dimensions": made.dimensions and list(made.dimensions),
        "mpp": made.mpp and list(made.mpp),
        "offset": list(made.offset),
        "model": model,
        "note": note,
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
