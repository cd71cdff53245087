"""The page: fragments of slides in one HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import tiacrossfusion
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.models.config import BundleConfig
from tiacrossfusion.outputs.report.drawings import contribution_bars, draw_survival
from tiacrossfusion.outputs.report.fragment import ReportSlide
from tiacrossfusion.outputs.report.maps import percentile_scale, signed_scale
from tiacrossfusion.outputs.report.pictures import colour_bar

#: Most characters of pictures in one page. Browsers open more, but slowly, and it is hard to send; a page
#: of 100 slides has less than half of it.
MOST_PICTURES = 60_000_000

_MINUS = "\u2212"


@dataclass(frozen=True)
class ReportRun:
    """What the report says of the run as a whole.

    Attributes:
        config: configuration of the model.
        title: heading, such as the name of the output folder.
        date: when it was made; without it the same run gives the same bytes.
        warnings: shown at the top, before those about the slides.
    """

    config: BundleConfig
    title: str = "Survival predictions"
    date: str = ""
    warnings: tuple[str, ...] = ()


def write_report(path: Path, run: ReportRun, slides: Iterable[ReportSlide]) -> None:
    """Write the report as one HTML file, in one step.

    The file needs nothing but a browser: no network, no other file. Text from the user's files is escaped,
    and the page's policy allows no script but its own. Where the pictures of a large run are too many for
    a page, first the patches and then the maps are left out, and the page says so.

    Args:
        path: the HTML file; an earlier one is replaced.
        run: the run.
        slides: all slides of the run, in any order; taken one by one, so that pictures that are left out
            are not held in memory.
    """
    shown, left_out = _within_reason(slides)
    ranked = sorted(shown, key=_place)
    css, script = _part("style.css"), _part("script.js")
    environment = Environment(
        loader=PackageLoader("tiacrossfusion.outputs.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": _signed, "number": _number}
    page = environment.get_template("report.html").stream(
        run=run,
        version=tiacrossfusion.__version__,
        card=run.config.card,
        slides=ranked,
        failed=sum(slide.status == "failed" for slide in ranked),
        warnings=[*run.warnings, *_warnings(run, ranked), *left_out],
        columns=_columns(ranked),
        css=Markup(css),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704
        css_hash=_hash(css),
        script_hash=_hash(script),
        scales={"percentile": colour_bar(percentile_scale()), "signed": colour_bar(signed_scale())},
        draw_survival=draw_survival,
        contribution_bars=contribution_bars,
        architecture=_architecture(run.config),
    )
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(page)


#: Parts left out of too large a page, in this order: field of a slide, its empty value, remark.
_SPARE: tuple[tuple[str, Any, str], ...] = (
    ("gallery", (), "The patches are left out: the slides have too many for one page."),
    ("map", None, "The maps are left out: the slides have too many for one page."),
)


def _within_reason(slides: Iterable[ReportSlide]) -> tuple[list[ReportSlide], list[str]]:
    """Leave out pictures that a page has no room for; returns the slides and remarks."""
    shown: list[ReportSlide] = []
    spared = total = 0
    for slide in slides:
        shown.append(_without(slide, spared))
        total += _pictures(shown[-1])
        while total > MOST_PICTURES and spared < len(_SPARE):
            spared += 1
            shown = [_without(one, spared) for one in shown]
            total = sum(map(_pictures, shown))
    return shown, [note for _, _, note in _SPARE[:spared]]


def _without(slide: ReportSlide, spared: int) -> ReportSlide:
    """Return a slide without the first `spared` parts of `_SPARE`."""
    if slide.status != "ok":
        return slide
    left_out: dict[str, Any] = {}
    for field, empty, note in _SPARE[:spared]:
        left_out |= {field: empty, f"{field}_note": note}
    return slide.model_copy(update=left_out)


def _pictures(slide: ReportSlide) -> int:
    """Return the number of characters of a slide's pictures."""
    patches = [patch for row in slide.gallery for patch in (*row.highest, *row.lowest)]
    pictures = [patch.picture for patch in patches]
    if slide.map is not None:
        pictures += [layer.picture for layer in (slide.map.ground, *slide.map.layers)]
    return sum(map(len, pictures))


def _place(slide: ReportSlide) -> tuple[bool, float, str]:
    """Highest risk first, then those that failed."""
    return slide.risk is None, -(slide.risk or 0.0), slide.name


def _warnings(run: ReportRun, slides: Sequence[ReportSlide]) -> list[str]:
    """Return warnings about the slides, for the top of the page."""
    model = f"{run.config.name} {run.config.version}"
    failed = sum(slide.status == "failed" for slide in slides)
    others = sorted({slide.model for slide in slides if slide.model not in ("", model)})
    doubts = sum(slide.status == "ok" and bool(slide.message) for slide in slides)
    found = []
    if failed:
        found.append(
            f"Could not be predicted: {failed} of {len(slides)} slides; the table says why."
        )
    if others:
        found.append(
            f"Some slides were predicted with another model ({', '.join(others)}): risks of different "
            "models do not compare."
        )
    if doubts:
        found.append(f"Notes on how far to trust the numbers: {doubts} of {len(slides)} slides.")
    return found


def _columns(slides: Sequence[ReportSlide]) -> dict[str, bool]:
    """Return which columns of the table have a value for any slide."""
    return {
        name: any(getattr(slide, name) is not None for slide in slides)
        for name in ("risk_sd", "percentile", "risk_group")
    } | {
        "median": any(slide.survival is not None and slide.survival.edges for slide in slides),
        "message": any(slide.message for slide in slides),
    }


def _architecture(config: BundleConfig) -> dict[str, str]:
    """Return facts about the model."""
    sizes = config.architecture
    facts = {
        "Network": sizes.name + (f", ensemble of {len(config.members)}" if config.members else ""),
        "Encoder": f"{config.encoder.name} ({config.encoder.width:,} features)",
    }
    if config.time_bins is not None:
        edges = ", ".join(f"{edge:.4g}" for edge in config.time_bins.edges)
        facts["Time bins"] = f"{edges} {config.time_bins.unit}"
    if config.risk_reference is not None:
        groups = config.risk_reference.groups
        facts["Risk groups"] = (
            f"cut-off {_number(config.risk_reference.cutoff)}, from training patients: "
            + ", ".join(f"{group.patients:,} {group.name}" for group in groups)
        )
    return facts


def _number(value: float, digits: int = 3) -> str:
    """Format a number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", _MINUS)


def _signed(value: float) -> str:
    """Format a number with its sign and two significant digits; below 0.0001 as "about 0"."""
    if abs(value) < 1e-4:
        return "about 0"
    digits = max(0, 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def _part(name: str) -> str:
    return (files("tiacrossfusion.outputs.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash of a script or style sheet for the page's policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
