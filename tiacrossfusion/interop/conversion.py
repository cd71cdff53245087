"""Many slides from one kind of features to another.

There are no records: a result in place is compared with what would be written by its features, positions
and provenance (versions of packages and names of source files apart). Only what this package imported or
wrote is ever replaced, and only with `overwrite`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.interop.embeddings import SlideVector, embedding_bag
from tiacrossfusion.interop.h5_reading import read_h5
from tiacrossfusion.interop.importing import ImportOptions, import_bag
from tiacrossfusion.interop.own_h5 import is_own_h5, write_h5
from tiacrossfusion.interop.pt_files import is_own_pt, read_pt, write_pt
from tiacrossfusion.interop.sources import SCALE_FOLDERS, SlideFiles
from tiacrossfusion.io.atomic import writing
from tiacrossfusion.io.paths import stem_for
from tiacrossfusion.io.progress import Progress
from tiacrossfusion.runs.runner import Outcome, Task, run_tasks

OutputFormat = Literal["bag", "h5", "pt"]

#: Fields of the provenance in which two results of the same features may differ.
_APART = {"versions", "imported"}

_log = logging.getLogger(__name__)


def convert(
    sources: Sequence[SlideFiles | SlideVector | Path],
    folder: str | Path,
    *,
    output_format: OutputFormat = "bag",
    options: ImportOptions | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> list[Outcome]:
    """Convert slides one after the other; one that fails is named and the rest go on.

    Writes `NAME.zarr` for bags, `x5/NAME.h5` and so on for h5, `x5/pt_files/NAME.pt` and so on for pt.

    Args:
        sources: feature files of slides, vectors of slides, or paths of bags.
        folder: where the results go; made when it does not exist.
        output_format: "bag", "h5" (as TRIDENT writes them) or "pt" (the authors' layout).
        options: what feature files may not say.
        overwrite: replace results of this package that differ.
        show_progress: draw bars and print a line for each slide.

    Returns:
        The outcome of each slide, in order; the row holds the number of patches per scale.

    Raises:
        OutputError: the folder cannot be written.
    """
    tasks = (
        _ConversionTask(source, Path(folder), output_format, options or ImportOptions(), overwrite)
        for source in sources
    )
    return run_tasks(tasks, len(sources), _line, show_progress=show_progress)


class _ConversionTask(Task):
    """One slide from one kind of features to another."""

    def __init__(
        self,
        features: SlideFiles | SlideVector | Path,
        folder: Path,
        output_format: OutputFormat,
        options: ImportOptions,
        overwrite: bool,
    ) -> None:
        self.features, self.folder, self.output_format = features, folder, output_format
        self.options, self.overwrite = options, overwrite
        self.label = features.stem if isinstance(features, Path) else features.name

    def attempt(self, progress: Progress) -> Outcome:
        """Convert it."""
        progress.stage(self.label, "convert")
        if isinstance(self.features, SlideFiles):
            bag, notes = import_bag(self.features, self.options)
        elif isinstance(self.features, SlideVector):
            bag, notes = embedding_bag(self.features, self.options.encoder), []
        else:
            bag, notes = FeatureBag.load(self.features), []
        name = stem_for(self.label)
        if self.output_format == "bag":
            output, made = _place_bag(bag, self.folder, name, self.overwrite)
        else:
            output, made = _place_files(self.output_format, bag, self.folder, name, self.overwrite)
        message = "; ".join(notes)
        if message:
            _log.warning("%s: %s", self.label, message)
        status: Literal["ok", "skipped"] = "ok" if made else "skipped"
        return Outcome(self.label, status, message, output, bag.counts())


def _line(outcome: Outcome) -> str:
    """Return the console's line on a slide."""
    if outcome.status == "failed":
        return f"FAILED  {outcome.message}"
    words = [f"{count} at {scale}" for scale, count in outcome.row.items()]
    if outcome.status == "skipped":
        words.append("there with the same content, skipped")
    if outcome.message:
        words.append(f"note: {outcome.message}")
    return f"ok      {outcome.source}: {', '.join(words)}"


def _place_bag(bag: FeatureBag, folder: Path, name: str, overwrite: bool) -> tuple[Path, bool]:
    """Write a bag unless it is in place; returns its path and whether it was written."""
    path = folder / f"{name}.zarr"
    if path.exists() or path.is_symlink():
        try:
            stored = FeatureBag.load(path)
        except TiacfError:
            stored = None
        if stored is None or not stored.provenance.imported:
            raise TiacfError(
                f"{path}: exists and was not made by tiacf convert; move it away or give another "
                "--output-path"
            )
        differs = _differences(stored, bag)
        if not differs:
            return path, False
        _permit(path, differs, overwrite)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        bag.save(path)
    return path, True


def _differences(stored: FeatureBag, bag: FeatureBag) -> list[str]:
    """Return the names of the parts in which two bags differ."""
    old, new = (b.provenance.model_dump(mode="json", exclude=_APART) for b in (stored, bag))
    differs = [field for field in new if old[field] != new[field]]
    if list(stored.scales) != list(bag.scales):
        return [*differs, "scales"]
    for scale in bag.scales:
        for field, array in vars(bag.scales[scale]).items():
            if not np.array_equal(array, getattr(stored.scales[scale], field)):
                differs.append(f"{scale} {field}")
    return differs


def _permit(path: Path, differs: list[str], overwrite: bool) -> None:
    """Refuse to replace a result that differs unless `overwrite` is set."""
    if not overwrite:
        raise TiacfError(
            f"{path}: exists with other content ({', '.join(differs)}); give --overwrite to replace "
            "it, or another --output-path"
        )


@dataclass(frozen=True)
class _FileFormat:
    """How one kind of file is written, recognised and compared, and its folder in that of the scale."""

    inner: str
    write: Callable[[Path, FeatureBag, str, str], None]
    is_own: Callable[[Path], bool]
    content: Callable[[Path], tuple[Any, ...]]


def _place_files(
    output_format: OutputFormat, bag: FeatureBag, folder: Path, name: str, overwrite: bool
) -> tuple[Path, bool]:
    """Write a file for each scale unless in place; returns that of the finest and whether any was new."""
    kind = _FORMATS[output_format]
    relative = {
        scale: Path(SCALE_FOLDERS[scale], kind.inner, f"{name}.{output_format}")
        for scale in bag.scales
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        staging = TemporaryDirectory(prefix=".staging-", dir=folder)
    with staging as inner:
        place = Path(inner)
        with writing(folder):
            for scale, path in relative.items():
                (place / path).parent.mkdir(parents=True)
                kind.write(place / path, bag, scale, name)
        new = [
            path
            for path in relative.values()
            if not _same(kind, folder / path, place / path, overwrite)
        ]
        with writing(folder):
            for path in new:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(place / path, folder / path)
    return folder / list(relative.values())[-1], bool(new)


def _same(kind: _FileFormat, target: Path, part: Path, overwrite: bool) -> bool:
    """Return whether a file is in place with the same content."""
    if not (target.exists() or target.is_symlink()):
        return False
    if not kind.is_own(target):
        raise TiacfError(
            f"{target}: exists and was not written by tiacf; move it away or give another "
            "--output-path"
        )
    try:
        pairs = zip(kind.content(target), kind.content(part), strict=True)
        if all(np.array_equal(old, new) for old, new in pairs):
            return True
    except TiacfError:  # the one that is there is damaged or was changed
        pass
    _permit(target, ["features, positions or provenance"], overwrite)
    return False


def _h5_content(path: Path) -> tuple[Any, ...]:
    file = read_h5(path)
    record = file.provenance and file.provenance.model_dump(mode="json", exclude=_APART)
    return file.features, file.bounds, file.grid, record, file.facts


_FORMATS: dict[str, _FileFormat] = {
    "h5": _FileFormat("", write_h5, is_own_h5, _h5_content),
    "pt": _FileFormat(
        "pt_files",
        lambda path, bag, scale, _: write_pt(path, bag.scales[scale].features),
        is_own_pt,
        lambda path: (read_pt(path).features,),
    ),
}
