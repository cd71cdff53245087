"""Whether slides, bags, tables, splits, masks and a model go together, before a night's work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.caveats import bag_caveats
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.columns import Columns
from tiacrossfusion.cohorts.names import SlideNames
from tiacrossfusion.cohorts.splits import read_splits
from tiacrossfusion.cohorts.table import CohortTable, read_table
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.slide import open_as
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.runs.runner import failure
from tiacrossfusion.runs.slides import of_slide
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.slides.patches import check_enlargement, coarse_base
from tiacrossfusion.slides.spec import SamplingSpec
from tiacrossfusion.slides.tissue import user_mask

if TYPE_CHECKING:
    from tiacrossfusion.models.bundle import ModelBundle

#: Project and site of a TCGA barcode.
_SITE = re.compile(r"(TCGA-[A-Z0-9]{2})-[A-Z0-9]{4}", re.IGNORECASE)

#: Kinds of findings; those that would fail come first.
MISSING, CONTRADICTS, REMARK, FINE = "missing", "contradicts", "remark", "found"


@dataclass(frozen=True)
class Finding:
    """What is known of one slide, bag or file.

    Attributes:
        name: of the slide, bag or file.
        kind: "missing", "contradicts" (a run would fail or refuse it), "remark" or "found".
        message: why, or the remark; empty for "found".
    """

    name: str
    kind: str
    message: str = ""

    @property
    def site(self) -> str:
        """Project and site of a TCGA barcode; empty for other names."""
        found = _SITE.match(self.name)
        return "" if found is None else found[1].upper()


@dataclass(frozen=True)
class ToCheck:
    """What is to go together; None or empty where it is not given.

    Attributes:
        slides: paths of slides.
        read: how they are read, with their masks.
        bags: folder of bags, or one.
        table: follow-up.
        columns: of the table.
        time_unit: of the table.
        splits: folder of split files.
        model: name or folder of a bundle.
    """

    slides: Sequence[Path] = ()
    read: ReadOptions = field(default_factory=ReadOptions)
    bags: Path | None = None
    table: Path | None = None
    columns: Columns = field(default_factory=Columns)
    time_unit: str = "months"
    splits: Path | None = None
    model: str | None = None


def check(asked: ToCheck, *, show_progress: bool = True) -> list[Finding]:
    """Open everything and compare it; nothing is written.

    Returns:
        A finding for each slide, bag and file.
    """
    found: list[Finding] = []
    bundle = _model(asked, found)
    spec = SamplingSpec() if bundle is None else bundle.config.sampling
    bags = find_bags(asked.bags) if asked.bags is not None else []
    total = len(asked.slides) + len(bags)
    with Progress(total, show=show_progress) as progress:
        for slide in asked.slides:
            progress.stage(slide.name, "check")
            found.append(_slide(slide, asked.read, spec))
            progress.slide_done()
        for bag in bags:
            progress.stage(bag.name, "check")
            found.append(_bag(bag, bundle))
            progress.slide_done()
    if asked.table is not None:
        found += _table(asked, [*asked.slides, *bags])
    return found


def counts(findings: Sequence[Finding]) -> dict[str, Counter[str]]:
    """Return how many findings there are of each kind: of all, and by site where barcodes tell."""
    groups: dict[str, Counter[str]] = {"all": Counter(f.kind for f in findings)}
    for site in sorted({f.site for f in findings} - {""}):
        groups[site] = Counter(f.kind for f in findings if f.site == site)
    return groups


def _model(asked: ToCheck, found: list[Finding]) -> ModelBundle | None:
    if asked.model is None:
        return None
    try:
        bundle = load_bundle(asked.model)
    except TiacfError as error:
        found.append(Finding(asked.model, CONTRADICTS, str(error)))
        return None
    found.append(Finding(asked.model, FINE))
    return bundle


def _slide(path: Path, read: ReadOptions, spec: SamplingSpec) -> Finding:
    try:
        own = of_slide(read, path)
        with open_as(path, own) as slide:
            check_enlargement(slide, spec, allow=own.allow_enlarged)
            remarks = [slide.caveat, coarse_base(slide, spec)]
            if own.mask is not None:
                remarks.append(user_mask(slide, own.mask, spec, own.mask_classes)[1])
    except Exception as error:  # as in a run
        return Finding(path.name, CONTRADICTS, failure(error, str(path)))
    said = "; ".join(filter(None, remarks))
    return Finding(path.name, REMARK if said else FINE, said)


def _bag(path: Path, bundle: ModelBundle | None) -> Finding:
    try:
        bag = FeatureBag.load(path)
        if bundle is not None:
            # whose values any patient may have; those of a record may miss
            names = bundle.config.architecture.covariates
            bundle.tokens(bag, np.ones(len(names), np.float32) if names else None)
    except Exception as error:  # as in a run
        return Finding(path.name, CONTRADICTS, failure(error, str(path)))
    said = "; ".join(filter(None, bag_caveats(bag)))
    return Finding(path.name, REMARK if said else FINE, said)


def _table(asked: ToCheck, sources: Sequence[Path]) -> Iterator[Finding]:
    """Compare the table with itself, with the splits, and with the slides or bags."""
    name = str(asked.table)
    try:
        table = read_table(Path(name), asked.columns, asked.time_unit)
    except TiacfError as error:
        yield Finding(name, CONTRADICTS, str(error))
        return
    notes = table.messages()
    yield Finding(name, REMARK if notes else FINE, "; ".join(notes))
    if asked.splits is not None:
        yield _splits(asked.splits, table)
    if not sources:
        return
    names = SlideNames((source.name, source) for source in sources)
    used: set[Path] = set()
    for slide in table.slides.slide:
        of_name = names.find(slide)
        used.update(of_name)
        if not of_name:
            yield Finding(slide, MISSING, f"in {name}, and there is no slide or bag of it")
        elif len(of_name) > 1:
            yield Finding(slide, CONTRADICTS, f"several files: {', '.join(map(str, of_name))}")
    for source in sources:
        if source not in used:
            yield Finding(source.name, REMARK, f"not in {name}, so it would not be used")


def _splits(splits: Path, table: CohortTable) -> Finding:
    try:
        notes = [line for split in read_splits(splits, table) for line in split.messages()]
    except TiacfError as error:
        return Finding(str(splits), CONTRADICTS, str(error))
    return Finding(str(splits), REMARK if notes else FINE, "; ".join(notes))
