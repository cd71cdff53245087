"""A prediction as a zarr group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.outputs.values import prediction_dict
from tiacrossfusion.outputs.writers import Writer

if TYPE_CHECKING:
    from tiacrossfusion.inference.slide import SlideResult


class ZarrWriter(Writer):
    """The values of `prediction_dict`: arrays as arrays, the rest as attributes."""

    suffixes = (".zarr",)
    needs_maps = False

    def write(self, folder: Path, stem: str, result: SlideResult) -> None:
        """Write `<stem>.zarr`."""
        import zarr

        group = zarr.create_group(folder / f"{stem}.zarr")
        values = prediction_dict(result)
        for name in ("attention", "rolled", "attribution", "bounds"):
            for scale, array in values.pop(name).items():
                group.create_array(f"{name}/{scale}", data=array)
        for name in ("hazards", "survival", "member_risks"):
            if (array := values.pop(name)) is not None:
                group.create_array(name, data=array)
        bins = result.config.time_bins
        values["time_bins"] = None if bins is None else bins.model_dump(mode="json")
        values["provenance"] = result.bag.provenance.model_dump(mode="json")
        group.attrs.update(values)
