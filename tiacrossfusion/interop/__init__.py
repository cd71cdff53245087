"""Features of other programs to bags, and bags to what other programs read."""

from tiacrossfusion.interop.conversion import (
    ConversionOutcome,
    OutputFormat,
    convert,
)
from tiacrossfusion.interop.importing import ImportOptions, import_bag
from tiacrossfusion.interop.sources import SlideFiles, find_slide_files

__all__ = [
    "ConversionOutcome",
    "ImportOptions",
    "OutputFormat",
    "SlideFiles",
    "convert",
    "find_slide_files",
    "import_bag",
]
