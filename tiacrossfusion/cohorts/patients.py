"""TODO."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiacrossfusion.cohorts.names import slide_stem
from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.csv_text import read_table_text
from tiacrossfusion.io.text import examples

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class PatientTable:
    """Which slide is of which patient.

    Attributes:
        path: the file that says so.
        owners: patient of each slide, by the slide's name, in the order of the file.
    """

    path: Path
    owners: dict[str, str]

    def find(self, sources: Sequence[str | Path]) -> list[str | None]:
        """Find the slides of a run, or their bags, in the table.

        Names are compared as they are, `.zarr` of a bag apart, and where that finds nothing without
        the ending of slide files on one of the two sides: `a.svs` is the table's `a`, the bag of `a`
        its `a.svs`, but `a.ndpi` is not `a.svs`.

        Args:
            sources: paths of slides or bags, or names.

        Returns:
            For each the name that it has in the table; None where the table does not name it.

        Raises:
            TiacfError: two are one slide of the table, one may be several, or none is in the table.
        """
        exact = {name.removesuffix(".zarr"): name for name in self.owners}
        bare: dict[str, list[str]] = {}
        for name, slide in exact.items():
            bare.setdefault(slide_stem(name), []).append(slide)
        found: list[str | None] = []
        owners: dict[str, str | Path] = {}
        for source in sources:
            name = Path(source).name.removesuffix(".zarr")
            stem = slide_stem(name)
            if name in exact:
                slides = [exact[name]]
            elif stem != name:
                slides = [exact[stem]] if stem in exact else []
            else:
                slides = bare.get(name, [])
            if len(slides) > 1:
                raise TiacfError(
                    f"{source}: may be {' or '.join(slides)} of {self.path}; name it like the slide's "
                    "full file name"
                )
            for slide in slides:
                if slide in owners:
                    raise TiacfError(
                        f"{self.path}: {slide} would be both {owners[slide]} and {source}; give full "
                        "file names in the table"
                    )
                owners[slide] = source
            found.append(slides[0] if slides else None)
        if not owners:
            raise TiacfError(
                f"{self.path}: names none of the {len(sources)} slides of this run, such as "
                f"{examples(Path(source).name for source in sources)}; its own are such as "
                f"{examples(self.owners)}; check --slide-column"
            )
        return found

    def notes(self, sources: Sequence[str | Path]) -> list[str]:
        """Say which slides of a run the table does not name, and which of its own the run lacks."""
        found = self.find(sources)
        strangers = [
            Path(source).name for source, slide in zip(sources, found, strict=True) if slide is None
        ]
        absent = [slide for slide in self.owners if slide not in found]
        notes = []
        if strangers:
            notes.append(
                f"{len(strangers)} of {len(sources)} slides are of no patient in {self.path}, such as "
                f"{examples(strangers)}"
            )
        if absent:
            notes.append(
                f"{len(absent)} of {len(self.owners)} slides of {self.path} are not in this run, such "
                f"as {examples(absent)}"
            )
        return notes


def read_patients(
    path: Path, *, slide_column: str = "slide", patient_column: str = "patient"
) -> PatientTable:
    """Read whose slides are whose.

    Args:
        path: a CSV file with a row a slide; other columns are not looked at.
        slide_column: names the slides, with or without the ending of their files.
        patient_column: names the patients.

    Raises:
        TiacfError: the file cannot be read, lacks a column, has no rows or leaves a name empty, or a
            slide stands twice.
    """
    path = Path(path)
    try:
        # strict: a quote that is never closed would swallow the rows after it
        reader = csv.DictReader(io.StringIO(read_table_text(path), newline=""), strict=True)
        header = list(reader.fieldnames or [])
        rows = list(reader)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; check --patients") from error
    except OSError as error:
        raise TiacfError(
            f"{path}: cannot be read as a table ({error.strerror or one_line(error)}); check --patients"
        ) from error
    except (ValueError, csv.Error) as error:
        raise TiacfError(
            f"{path}: cannot be read as a table ({one_line(error)}); save it as CSV in UTF-8"
        ) from error
    if not header:
        raise TiacfError(f"{path}: is empty; a table has a header and a row a slide")
    if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
        raise TiacfError(f"{path}: is not separated by commas; save it as CSV with commas")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise TiacfError(
            f"{path}: {len(twice)} columns stand twice, such as {examples(twice)}; keep one of each"
        )
    for option, column in (("--slide-column", slide_column), ("--patient-column", patient_column)):
        if column not in header:
            raise UsageError(
                f"{path}: has no column {column!r} ({option}); it has {', '.join(header)}"
            )
    if not rows:
        raise TiacfError(f"{path}: has a header and no rows; a table has a row a slide")
    longer = [str(number) for number, row in enumerate(rows, start=1) if None in row]
    if longer:
        raise TiacfError(
            f"{path}: {len(longer)} of {len(rows)} rows have more fields than the header, such as data "
            f"row {examples(longer)}; put quotes around values with commas"
        )
    pairs = [
        ((row[slide_column] or "").strip(), (row[patient_column] or "").strip()) for row in rows
    ]
    nameless = [str(number) for number, pair in enumerate(pairs, start=1) if not all(pair)]
    if nameless:
        raise TiacfError(
            f"{path}: {len(nameless)} of {len(rows)} rows lack a slide or a patient, such as data row "
            f"{examples(nameless)}; fill them in"
        )
    owners = dict(pairs)
    shared = dict.fromkeys(slide for slide, patient in pairs if owners[slide] != patient)
    if shared:
        raise TiacfError(
            f"{path}: {len(shared)} slides are of several patients, such as {examples(shared)}; "
            "a slide has one patient"
        )
    repeated = [
        slide for slide, rows_of in Counter(slide for slide, _ in pairs).items() if rows_of > 1
    ]
    if repeated:
        raise TiacfError(
            f"{path}: {len(repeated)} slides stand in several rows, such as {examples(repeated)}; "
            "keep one row a slide"
        )
    return PatientTable(path, owners)
