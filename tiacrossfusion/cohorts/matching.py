"""The bag of each slide of a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tiacrossfusion.cohorts.names import SlideNames
from tiacrossfusion.cohorts.table import CohortTable
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.text import examples


def match_bags(
    table: CohortTable, stores: Iterable[Path], *, drop_missing: bool = False
) -> tuple[CohortTable, dict[str, Path]]:
    """Find the bag of each slide of a table by its name.

    `<name>.zarr` is the bag of the slide `<name>`; names are compared as `SlideNames` says. Bags of
    other slides are counted in the table's notes. With `drop_missing`, slides without a bag, and patients
    without any slide then, are in `CohortTable.left_out` of the result instead of being refused.

    Returns:
        The table, and the path of the bag of each of its slides in the order of `table.slides`.

    Raises:
        TiacfError: slides without a bag, a slide with several, or a bag of several slides.
    """
    stores = list(stores)
    found = bags_of_slides(table.slides["slide"], stores)
    missing = [slide for slide in table.slides["slide"] if slide not in found]
    if missing and (not drop_missing or not found):
        raise TiacfError(
            f"{len(missing)} of {len(table.slides)} slides have no bag among {len(stores)}, such as "
            f"{examples(missing)}; extract them with tiacf extract, or leave them out with "
            "--drop-unusable"
        )
    return _without(table, missing, len(stores) - len(found)), found


def bags_of_slides(slides: Iterable[str], stores: Iterable[Path]) -> dict[str, Path]:
    """Return the bag of each slide that has one, in the order of the slides.

    Raises:
        TiacfError: a slide has several bags, or a bag would be that of two slides.
    """
    names = SlideNames((Path(store).name, Path(store)) for store in stores)
    found: dict[str, Path] = {}
    for slide in slides:
        bags = names.find(slide)
        if len(bags) > 1:
            raise TiacfError(
                f"slide {slide} has {len(bags)} bags: {examples([str(bag) for bag in bags])}; "
                "keep one of them, or give the slide's full file name in the table"
            )
        if bags:
            found[slide] = bags[0]
    owners: dict[Path, str] = {}
    for slide, bag in found.items():
        if bag in owners:
            raise TiacfError(
                f"{bag}: would be the bag of two slides, {owners[bag]} and {slide}; "
                "name the bags like the slides' full file names"
            )
        owners[bag] = slide
    return found


def _without(table: CohortTable, missing: list[str], spare: int) -> CohortTable:
    """Leave slides out of a table, and patients who have none left; note how many bags are not used."""
    notes = table.notes
    if spare:
        notes = (*notes, f"{spare} bags belong to no slide of the table and are not used")
    if not missing:
        return replace(table, notes=notes)
    gone = table.slides["slide"].isin(missing)
    rows = list(table.slides[gone].itertuples(index=False, name=None))
    slides = table.slides[~gone].reset_index(drop=True)
    patients = table.patients[table.patients.index.isin(slides["patient"])]
    left_out = {**table.left_out, "no bag": rows}
    sites = None if table.sites is None else table.sites.loc[patients.index]
    return replace(
        table, patients=patients, slides=slides, left_out=left_out, notes=notes, sites=sites
    )
