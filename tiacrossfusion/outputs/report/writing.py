"""The report page, written from the fragments of slides."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

import tiacrossfusion
from tiacrossfusion.io.atomic import replacing
from tiacrossfusion.models.config import BundleConfig
from tiacrossfusion.outputs.pages import page_environment
from tiacrossfusion.outputs.report.drawings import contribution_bars, draw_survival
from tiacrossfusion.outputs.report.fragment import ReportSlide
from tiacrossfusion.outputs.report.maps import percentile_scale, signed_scale
from tiacrossfusion.outputs.report.pictures import colour_bar

#: Most characters of pictures in one page. A larger page opens slowly and is hard to send; a page of 100
#: slides has less than half.
MOST_PICTURES = 60_000_000

#: Parts left out of too large a page, in this order, and the remark on it.
_SPARE = {
    "gallery": "The patches are left out: the slides have too many for one page.",
    "map": "The maps are left out: the slides have too many for one page.",
}

_MINUS = "\u2212"


@dataclass(frozen=True)
class ReportRun:
    """The run that a report is about.

    Attributes:
        config: configuration of the model.
        title: heading, such as the name of the output folder.
        date: date of the report; without it the same run gives the same bytes.
        warnings: shown at the top, before those about the slides.
    """

    config: BundleConfig
    title: str = "Survival predictions"
    date: str = ""
    warnings: tuple[str, ...] = ()


def write_report(path: Path, run: ReportRun, slides: Iterable[ReportSlide]) -> None:
    """Write the report as one HTML file, atomically.

    The page needs no network and no other file. Text from the user's files is escaped, and the page's
    policy allows no script but its own. If the pictures of a large run are too many for one page, first
    the patches and then the maps are left out, with a remark at the top.

    Args:
        path: the HTML file; an earlier one is replaced.
        run: the run.
        slides: all slides of the run, in any order; taken one by one, so that pictures that are left out
            do not stay in memory.
    """
    shown, left_out = _that_fit(slides)
    ranked = sorted(shown, key=lambda s: (s.risk is None, -(s.risk or 0.0), s.name))
    css, script = _part("style.css"), _part("script.js")
    environment = page_environment("tiacrossfusion.outputs.report")
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


def _that_fit(slides: Iterable[ReportSlide]) -> tuple[list[ReportSlide], list[str]]:
    """Return the slides without the parts that do not fit into one page, and remarks on these."""
    shown: list[ReportSlide] = []
    left_out: dict[str, Any] = {}
    total = 0
    for slide in slides:
        shown.append(_without(slide, left_out))
        total += _size(shown[-1])
        for part, remark in _SPARE.items():
            if total > MOST_PICTURES and part not in left_out:
                left_out |= {part: ReportSlide.model_fields[part].default, f"{part}_note": remark}
                shown = [_without(one, left_out) for one in shown]
                total = sum(map(_size, shown))
    return shown, [remark for part, remark in _SPARE.items() if part in left_out]


def _without(slide: ReportSlide, left_out: dict[str, Any]) -> ReportSlide:
    return slide.model_copy(update=left_out) if slide.status == "ok" else slide


def _size(slide: ReportSlide) -> int:
    """Return the number of characters of a slide's pictures."""
    patches = [patch for row in slide.gallery for patch in (*row.highest, *row.lowest)]
    pictures = [patch.picture for patch in patches]
    if slide.map is not None:
        pictures += [layer.picture for layer in (slide.map.ground, *slide.map.layers)]
    return sum(map(len, pictures))


def _warnings(run: ReportRun, slides: Sequence[ReportSlide]) -> list[str]:
    """Return warnings about the slides, for the top of the page."""
    model = f"{run.config.name} {run.config.version}"
    failed = sum(slide.status == "failed" for slide in slides)
    others = sorted({slide.model for slide in slides if slide.model not in ("", model)})
    doubts = sum(slide.status == "ok" and bool(slide.message) for slide in slides)
    found = []
    if failed:
        found.append(
            f"Could not be predicted: {failed} of {len(slides)} slides; see the table for the reasons."
        )
    if others:
        found.append(
            f"Some slides were predicted with another model ({', '.join(others)}): risks of different "
            "models cannot be compared."
        )
    if doubts:
        found.append(f"Notes on reliability: {doubts} of {len(slides)} slides; see the table.")
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
    """Return name and value of facts about the model."""
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
    """Format a number with its sign and two significant digits; if its size is below 1e-4, "about 0"."""
    if abs(value) < 1e-4:
        return "about 0"
    digits = max(0, 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def _part(name: str) -> str:
    return (files("tiacrossfusion.outputs.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash by which the page's policy allows a script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
