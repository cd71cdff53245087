"""HTML pages that need no other file and no network: their templates, and pictures inside them."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

#: Media types of pictures that pages can show, by the ending of the file.
MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}


def page_environment(package: str) -> Environment:
    """Return the templates in the folder `page` of a package; values are escaped and must exist."""
    return Environment(
        loader=PackageLoader(package, "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def picture_address(path: Path) -> str:
    """Return a picture, with an ending in `MEDIA`, as a data address."""
    return f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
