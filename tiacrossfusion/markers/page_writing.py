"""`report.html`: markers as one page, which needs no other file and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.markers.api import Markers
from tiacrossfusion.markers.files import markers_table
from tiacrossfusion.markers.maps import marker_name
from tiacrossfusion.markers.testing import Arrangement
from tiacrossfusion.outputs.pages import page_environment, picture_address

PAGE = "report.html"

#: Tests of how markers lie that the page lists.
_LISTED = 15


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its title, a note, and the PNG file."""

    title: str
    note: str
    path: Path

    @property
    def source(self) -> str:
        """Return the picture as a data address."""
        return picture_address(self.path)


@dataclass(frozen=True)
class _Row:
    found: bool
    cells: list[str]


@dataclass(frozen=True)
class _Table:
    title: str
    note: str
    head: list[str]
    rows: list[_Row]


def summary(found: Markers) -> str:
    """Return in a sentence or two what was found."""
    events = int(found.outcome.events.sum())
    text = (
        f"{len(found.table.patients)} patients with {events} events; {len(found.centres)} markers among "
        f"{int(found.counts.sum()):,} patches."
    )
    if found.covariates:
        text += f" Adjusted for {', '.join(found.covariates)}."
    if found.shares.found:
        names = [
            f"{marker_name(k)} ({'more' if found.shares.scores[k] > 0 else 'less'} of it goes with shorter "
            "survival)"
            for k in found.shares.found
        ]
        text += f" Shares that pass a false-discovery rate of {found.level:g}: {', '.join(names)}."
    else:
        text += f" No share passes a false-discovery rate of {found.level:g}."
    if found.passing:
        text += f" Of how markers lie: {'; '.join(map(in_words, found.passing[:5]))}."
    return text


def in_words(test: Arrangement) -> str:
    """Return what a test is of, and which way it goes."""
    name = marker_name(test.marker)
    worse = "shorter" if test.score > 0 else "longer"
    if test.kind == "closeness":
        assert test.other is not None  # noqa: S101 - closeness is of two markers
        # Larger values are farther away.
        other = "longer" if worse == "shorter" else "shorter"
        return f"{name} close to {marker_name(test.other)} goes with {other} survival"
    what = "in large pieces" if test.kind == "spread" else "beside its like"
    return f"{name} {what} goes with {worse} survival"


def write_page(found: Markers, folder: Path, pictures: Sequence[Picture]) -> None:
    """Write the page into a folder; an earlier one is replaced.

    Raises:
        TiacfError: the folder cannot be written.
    """
    environment = page_environment("tiacrossfusion.markers")
    text = environment.get_template("markers.html").render(
        title=found.title,
        scale=found.scale,
        summary=summary(found),
        notes=found.notes,
        tables=[_shares(found), _arrangement(found)],
        pictures=pictures,
    )
    write_text(folder / PAGE, text)


def _shares(found: Markers) -> _Table:
    rows = []
    for row in markers_table(found).itertuples():
        cells = [
            f"{row.marker}",
            f"{row.share:.1%}",
            f"{row.patients}",
            f"{row.hr:.2f} ({row.hr_low:.2f} to {row.hr_high:.2f})",
            f"{row.p:.2g}",
            f"{row.q:.2g}",
            f"{row.folds_found} of {row.folds}",
            f"{row.hr_held_out:.2f} ({row.hr_held_out_low:.2f} to {row.hr_held_out_high:.2f})",
        ]
        rows.append(_Row(bool(row.found), cells))
    return _Table(
        "Shares",
        "Hazard ratio of one SD of the square root of the share, with its 95 % interval. Markers are "
        "found one after the other: each is tested among the patches outside those found before, adjusted "
        "for them and for the covariates. Held out: patients whose patches were assigned by markers "
        "that were found without them.",
        [
            "marker",
            "of patches",
            "patients",
            "hazard ratio",
            "p",
            "q",
            "found in folds",
            "held out",
        ],
        rows,
    )


def _arrangement(found: Markers) -> _Table:
    rows = [
        _Row(
            test.q <= found.level,
            [
                in_words(test),
                f"{test.patients}",
                f"{test.score:+.2f}",
                f"{test.p:.2g}",
                f"{test.q:.2g}",
            ],
        )
        for test in found.arrangement[:_LISTED]
    ]
    return _Table(
        "How they lie",
        f"The {len(rows)} strongest of {len(found.arrangement)} tests, adjusted for the shares of the "
        "markers involved, for the markers found and for the covariates.",
        ["what", "patients", "z", "p", "q"],
        rows,
    )
