"""Output formats: the files of a slide besides the table and the pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.io.registry import Registry

if TYPE_CHECKING:
    from tiacrossfusion.inference.slide import SlideResult


class Writer(ABC):
    """An output format.

    A format is a class with the suffixes of its files and a method::

        @WRITERS.register("counts")
        class Counts(Writer):
            suffixes = ("_counts.json",)

            def write(self, folder, stem, result):
                (folder / f"{stem}_counts.json").write_text(json.dumps(result.bag.counts()))

    Attributes:
        suffixes: endings of its files or folders, after the stem; the first is the main one.
        needs_maps: whether a slide is left out when the positions of its patches are unknown.
        gzip: whether text files are to be compressed; other formats may ignore it.
    """

    suffixes: tuple[str, ...]
    needs_maps: bool = True

    def __init__(self, *, gzip: bool = False) -> None:
        """Store the options."""
        self.gzip = gzip

    @abstractmethod
    def write(self, folder: Path, stem: str, result: SlideResult) -> None:
        """Write the files of one slide into an existing folder, named `stem` and each of `suffixes`."""


#: All output formats by name.
WRITERS: Registry[type[Writer]] = Registry(
    "output type",
    "tiacrossfusion.writers",
    {
        "qupath": "tiacrossfusion.outputs.geojson_files:QuPathWriter",
        "zarr": "tiacrossfusion.outputs.zarr_store:ZarrWriter",
        "annotationstore": "tiacrossfusion.outputs.annotation_store:AnnotationStoreWriter",
    },
)
