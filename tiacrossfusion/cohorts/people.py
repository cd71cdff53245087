"""Which names in a table mean one person."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.slides.files import slide_stem
from tiacrossfusion.text import examples

#: A TCGA barcode: project, site and participant, then what names a sample or slide of that patient.
_BARCODE = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})([-_.].*)?", re.IGNORECASE)


def one_name_a_person(
    path: Path, patients: pd.Series, characters: int | None
) -> tuple[pd.Series, list[str]]:
    """Return the patients' names with TCGA barcodes reduced to the patient, and notes on it.

    Args:
        path: of the table, for messages.
        patients: names as in the table.
        characters: only that many first characters name the patient; None reduces TCGA barcodes.

    Raises:
        TiacfError: names differ by case, Unicode form, white space or the ending of slide files only, and
            are likely one person.
    """
    notes = []
    if characters is not None:
        names = patients.str[:characters]
    else:
        names = patients.map(_participant)
        if (names != patients).any():
            notes.append(
                f"{path}: TCGA barcodes are reduced to the patient, {patients.nunique()} names to "
                f"{names.nunique()} patients, such as {patients[names != patients].iloc[0]} to "
                f"{names[names != patients].iloc[0]}; --patient-characters 1000 takes them whole"
            )
    alike = list(_alike(names.unique()))
    if alike:
        shown = [" and ".join(map(repr, pair)) for pair in alike]
        raise TiacfError(
            f"{path}: {len(alike)} patients have several names that differ by case, Unicode form, white "
            f"space or a slide's ending only, such as {examples(shown)}; write one name for each person"
        )
    return names, notes


def _participant(name: str) -> str:
    found = _BARCODE.fullmatch(name)
    return name if found is None else found[1].upper()


def _alike(names: Iterable[str]) -> Iterable[list[str]]:
    """Yield groups of names that are likely one person's."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", slide_stem(name)).casefold()
        groups.setdefault("".join(plain.split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
