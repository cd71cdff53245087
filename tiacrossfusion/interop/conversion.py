"""Many slides from one kind of features to another: each on its own, whole or not at all.

What is there is compared by content: the target is read and its features, positions and provenance
(versions of packages and names of source files apart) are compared with what would be written. Only
what this package imported or wrote is ever replaced, and only with `overwrite`.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.interop.h5_reading import read_h5
from tiacrossfusion.interop.importing import ImportOptions, import_bag
from tiacrossfusion.interop.own_h5 import is_own_h5, write_h5
from tiacrossfusion.interop.pt_files import is_own_pt, read_pt, write_pt
from tiacrossfusion.interop.sources import SCALE_FOLDERS, SlideFiles
from tiacrossfusion.io.atomic import OutputError, writing
from tiacrossfusion.io.paths import stem_for
from tiacrossfusion.runs.runner import failure
from tiacrossfusion.slides.spec import SCALES

OutputFormat = Literal["bag", "h5", "pt"]

#: What two results of the same features may differ in.
_APART = {"versions", "imported"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConversionOutcome:
    """What became of one slide.

    Attributes:
        name: stem of its files.
        status: "ok", "skipped" (finished before) or "failed".
        message: why it failed, or what looks odd or is not known; empty otherwise.
        files: what holds it now; empty when it failed.
        counts: patches of each scale; empty when it failed.
    """

    name: str
    status: Literal["ok", "skipped", "failed"]
    message: str
    files: tuple[Path, ...]
    counts: dict[str, int]


def convert(
    sources: Sequence[SlideFiles | Path],
    folder: str | Path,
    *,
    output_format: OutputFormat = "bag",
    options: ImportOptions | None = None,
    overwrite: bool = False,
) -> Iterator[ConversionOutcome]:
    """Convert slides one after the other; one that fails is recorded and the rest go on.

    Writes `NAME.zarr` for bags, `x5/NAME.h5` and so on for h5, `x5/pt_files/NAME.pt` and so on for pt.

    Args:
        sources: feature files of slides, or paths of bags.
        folder: where the results go; made when it does not exist.
        output_format: "bag", "h5" (as TRIDENT writes them) or "pt" (the authors' layout).
        options: what feature files may not say.
        overwrite: replace results of this package that differ.

    Yields:
        What became of each slide, in order.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    for source in sources:
        name = source.stem if isinstance(source, Path) else source.name
        try:
            bag, notes = _load(source, options or ImportOptions())
            place = _place_bag if output_format == "bag" else _place_files(output_format)
            files, skipped = place(bag, folder, stem_for(name), overwrite)
        except OutputError:
            raise
        except Exception as error:  # the other slides go on: it is recorded, the trace logged
            yield ConversionOutcome(name, "failed", failure(error, name), (), {})
            continue
        message = "; ".join(notes)
        if message:
            _log.warning("%s: %s", name, message)
        status: Literal["skipped", "ok"] = "skipped" if skipped else "ok"
        yield ConversionOutcome(name, status, message, files, bag.counts())


def _load(source: SlideFiles | Path, options: ImportOptions) -> tuple[FeatureBag, list[str]]:
    if isinstance(source, SlideFiles):
        return import_bag(source, options)
    return FeatureBag.load(source), []


def _place_bag(
    bag: FeatureBag, folder: Path, name: str, overwrite: bool
) -> tuple[tuple[Path, ...], bool]:
    """Write a bag unless it is there; returns its path and whether it was."""
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
            return (path,), True
        _permit(path, differs, overwrite)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        bag.save(path)
    return (path,), False


def _differences(stored: FeatureBag, bag: FeatureBag) -> list[str]:
    """In what two bags differ."""
    old, new = (b.provenance.model_dump(mode="json", exclude=_APART) for b in (stored, bag))
    differs = [field for field in new if old[field] != new[field]]
    for scale in SCALES:
        for field, array in vars(bag.scales[scale]).items():
            if not np.array_equal(array, getattr(stored.scales[scale], field)):
                differs.append(f"{scale} {field}")
    return differs


def _permit(path: Path, differs: list[str], overwrite: bool) -> None:
    """Refuse to replace what differs unless the user said so."""
    if not overwrite:
        raise TiacfError(
            f"{path}: exists with other content ({', '.join(differs)}); give --overwrite to replace "
            "it, or another --output-path"
        )


@dataclass(frozen=True)
class _FileFormat:
    """How one kind of file is named, written and known."""

    relative: Callable[[str, str], Path]
    write: Callable[[Path, FeatureBag, str, str], None]
    is_own: Callable[[Path], bool]
    same: Callable[[Path, Path], bool]


def _place_files(
    output_format: OutputFormat,
) -> Callable[[FeatureBag, Path, str, bool], tuple[tuple[Path, ...], bool]]:
    """How three files, one a scale, are put in place."""
    kind = _FORMATS[output_format]

    def place(
        bag: FeatureBag, folder: Path, name: str, overwrite: bool
    ) -> tuple[tuple[Path, ...], bool]:
        targets = {scale: folder / kind.relative(scale, name) for scale in SCALES}
        parts = {
            scale: path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
            for scale, path in targets.items()
        }
        try:
            with writing(folder):
                for scale, part in parts.items():
                    part.parent.mkdir(parents=True, exist_ok=True)
                    kind.write(part, bag, scale, name)
            new = [
                scale
                for scale in SCALES
                if not _finished(kind, targets[scale], parts[scale], overwrite)
            ]
            with writing(folder):
                for scale in new:
                    os.replace(parts[scale], targets[scale])
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
        return tuple(targets.values()), not new

    return place


def _finished(kind: _FileFormat, target: Path, part: Path, overwrite: bool) -> bool:
    """Whether a file is there with the same content.

    Raises:
        TiacfError: it holds something else and may not be replaced.
    """
    if not (target.exists() or target.is_symlink()):
        return False
    if not kind.is_own(target):
        raise TiacfError(
            f"{target}: exists and was not written by tiacf; move it away or give another "
            "--output-path"
        )
    if kind.same(target, part):
        return True
    _permit(target, ["features, positions or provenance"], overwrite)
    return False


def _write_pt(path: Path, bag: FeatureBag, scale: str, name: str) -> None:  # noqa: ARG001
    write_pt(path, bag.scales[scale].features)


def _same_h5(one: Path, other: Path) -> bool:
    try:
        first, second = _content(one), _content(other)
    except TiacfError:  # the one that is there is damaged or was changed
        return False
    return all(np.array_equal(old, new) for old, new in zip(first, second, strict=True))


def _content(path: Path) -> tuple[Any, ...]:
    """What makes an h5 file of this package what it is."""
    file = read_h5(path)
    if file.own is None:
        raise TiacfError(f"{path}: was not written by tiacf")
    record = file.own.provenance.model_dump(mode="json", exclude=_APART)
    return file.features, file.own.bounds, file.own.grid, record, file.facts


def _same_pt(one: Path, other: Path) -> bool:
    try:
        return np.array_equal(read_pt(one).features, read_pt(other).features)
    except TiacfError:  # the one that is there is damaged
        return False


_FORMATS: dict[str, _FileFormat] = {
    "h5": _FileFormat(
        lambda scale, name: Path(SCALE_FOLDERS[scale]) / f"{name}.h5", write_h5, is_own_h5, _same_h5
    ),
    "pt": _FileFormat(
        lambda scale, name: Path(SCALE_FOLDERS[scale]) / "pt_files" / f"{name}.pt",
        _write_pt,
        is_own_pt,
        _same_pt,
    ),
}
