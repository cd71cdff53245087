"""Names of slides in tables and folders."""

from __future__ import annotations

from tiacrossfusion.slides.files import DEFAULT_FILE_TYPES

#: Endings that make a name a slide's file name. No other is cut off: TCGA names hold dots themselves.
_SLIDE_SUFFIXES = (
    *(pattern.strip().removeprefix("*") for pattern in DEFAULT_FILE_TYPES.split(",")),
    *(".scn", ".bif", ".svslide", ".vms", ".vmu", ".dcm"),
)


def slide_stem(name: str) -> str:
    """Name of a slide without an ending of slide files, if it has one."""
    for suffix in _SLIDE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
