"""Writing a report and reading what is in its page."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tiacrossfusion.outputs.report.fragment import ReportSlide
from tiacrossfusion.outputs.report.writing import ReportRun, write_report

HOSTILE = '"><img src=x onerror="document.title=1"><script>document.title=2</script>.svs'


def write(path: Path, bundle, slides: list[ReportSlide], **of_run: Any) -> str:
    write_report(path, ReportRun(bundle.config, **of_run), slides)
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements of a page and the texts in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data):
        self.texts.setdefault(self.elements[-1][0] if self.elements else "", []).append(data)


def picture(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
