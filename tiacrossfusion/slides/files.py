"""Find slides. Imports nothing heavy: commands check paths first."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.paths import is_there, missing

#: Suffixes of slides that OpenSlide or TIAToolbox read. PNG and JPEG are left out: beside slides they are
#: mostly thumbnails. So is .dcm, many of which make a slide.
SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".qptiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu"),
    *(".svslide", ".czi", ".jp2"),
)

#: Patterns of slide files in a folder.
DEFAULT_FILE_TYPES = ", ".join(f"*{suffix}" for suffix in SLIDE_SUFFIXES)

#: Files that name slides, one a line or row.
LIST_SUFFIXES = (".txt", ".csv")

#: Bytes at the beginning and at the end, and number and bytes of pieces in between, that a file is known by.
_ENDS, _PIECES, _PIECE = 2**18, 14, 2**16


@dataclass(frozen=True)
class OwnOptions:
    """What a list of slides says of one slide.

    Attributes:
        mpp: microns per pixel; None if it is not said.
        mask: path of the tissue mask; None if it is not said.
    """

    mpp: float | None = None
    mask: str | None = None


@dataclass
class FoundSlides:
    """The slides at some paths.

    Attributes:
        slides: each slide once, in the order of the paths and by name in folders.
        own: what a list says of slides, by `own_key`.
        passed: how many other files lie in the folders, by suffix.
        twice: how many paths lead to a slide that is there already.
    """

    slides: list[Path] = field(default_factory=list)
    own: dict[str, OwnOptions] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)
    twice: int = 0

    def notes(self) -> Iterator[str]:
        """Yield what a user should know of what was passed over."""
        if self.twice:
            yield f"paths to slides that are listed already: {self.twice}; each slide is taken once"
        if self.passed:
            counts = ", ".join(
                f"{n} {suffix or 'without a suffix'}" for suffix, n in self.passed.most_common(8)
            )
            yield f"passed over in the folders: {counts}; --file-types takes others"


def find_slides(
    sources: str | Path | Sequence[str | Path],
    file_types: str = DEFAULT_FILE_TYPES,
    *,
    without: Sequence[Path] = (),
) -> FoundSlides:
    """Find the slides at some paths.

    A file is one slide, unless it is a list of slides: a text file with a path a line, or a CSV with a column
    `slide` and perhaps `mpp` and `mask`; relative paths in it count from its folder. A folder with `.dcm`
    files and no other slides is one DICOM slide. Of any other folder and its subfolders, links to folders
    included, these are the files and folders that match `file_types`, and the DICOM slides. A slide that
    several paths lead to is taken once.

    Args:
        sources: files and folders.
        file_types: comma-separated patterns, compared without regard to case.
        without: folders that are not entered, such as that of the masks.

    Raises:
        UsageError: a single path does not exist, a folder holds no slide, or a pattern or list is empty or
            wrong. Of a sequence, a path that does not exist is returned: opening it fails.
        TiacfError: a folder or list cannot be read.
    """
    patterns = [pattern.strip().lower() for pattern in file_types.split(",") if pattern.strip()]
    if not patterns:
        raise UsageError(f'--file-types is empty; give patterns such as "{DEFAULT_FILE_TYPES}"')
    given = [sources] if isinstance(sources, str | Path) else sources
    found = FoundSlides()
    seen: set[str] = set()
    for source in map(Path, given):
        before = len(found.slides) + found.twice
        try:
            if given is not sources and not is_there(source):
                raise UsageError(f"{source}: {missing(source)}; check --img-input")
            for slide in _at(source, patterns, found, {own_key(folder) for folder in without}):
                real = own_key(slide)
                found.twice += real in seen
                if real not in seen:
                    found.slides.append(slide)
                seen.add(real)
        except OSError as error:
            raise TiacfError(
                f"{source}: cannot be read ({error.strerror}); check --img-input"
            ) from error
        if len(found.slides) + found.twice == before:
            raise UsageError(
                f"{source}: no slide here or in its subfolders matches {', '.join(patterns)}; give a slide, "
                'or other patterns such as "*.svs" with --file-types'
            )
    return found


def own_key(slide: Path) -> str:
    """Return what a slide is known by in a run: its path without links and dots."""
    return os.path.realpath(slide)


def own_scales(slides: Iterable[Path], table: Path) -> dict[str, OwnOptions]:
    """Return the microns per pixel that a CSV with the columns `slide` and `mpp` gives to slides.

    Slides are named by path, file name or stem.

    Raises:
        UsageError: it does not name a slide, or names it twice with different values.
        TiacfError: it cannot be read or lacks a column.
    """
    rows = _rows(table, ("slide", "mpp"))
    known: dict[str, set[str]] = {}
    for row in rows:
        for name in {row["slide"], Path(row["slide"]).name}:
            known.setdefault(name, set()).add(row["mpp"])
    own = {}
    for slide in slides:
        names = (str(slide), str(slide.absolute()), slide.name, slide.stem)
        values = next((known[name] for name in names if name in known), set())
        if len(values) != 1:
            reason = "no row" if not values else f"several values ({', '.join(sorted(values))})"
            raise UsageError(f"{table}: {reason} for {slide.name}; give one mpp for each slide")
        own[own_key(slide)] = OwnOptions(_mpp(values.pop(), table))
    return own


def mpp_by_stem(table: Path) -> dict[str, float]:
    """Return the microns per pixel of a CSV with the columns `slide` and `mpp`, by the stem of the slide.

    Raises:
        UsageError: a value is no number.
        TiacfError: it cannot be read or lacks a column.
    """
    found = {}
    for row in _rows(table, ("slide", "mpp")):
        name = Path(row["slide"]).name
        value = _mpp(row["mpp"], table)
        found[name] = found[slide_stem(name)] = value
    return found


def slide_stem(name: str) -> str:
    """Return the name of a slide without an ending of slide files, if it has one.

    No other ending is cut off: names of TCGA hold dots themselves.
    """
    for suffix in (*SLIDE_SUFFIXES, ".dcm"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _at(source: Path, patterns: list[str], found: FoundSlides, without: set[str]) -> Iterator[Path]:
    """Yield the slides at one path, which may be found before."""
    if source.is_file() and source.suffix.lower() in LIST_SUFFIXES:
        yield from _listed(source, found.own)
    elif source.is_dir() and not (source.suffix.lower() == ".zarr" or is_dicom_folder(source)):
        yield from _below(source, patterns, found.passed, without)
    else:
        yield source


def _below(
    top: Path, patterns: list[str], passed: Counter[str], without: set[str]
) -> Iterator[Path]:
    """Yield the slides in a folder and its subfolders, by name; each folder is entered once."""
    entered = without - {own_key(top)}
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        real = own_key(folder)
        if real in entered:
            continue
        entered.add(real)
        folders = []
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            if folder == top:
                raise
            passed["folders that may not be entered"] += 1
            continue
        for entry in entries:
            kind = _kind(entry, patterns)
            if kind == "folder":
                folders.append(entry)
            elif kind == "slide":
                yield entry
            elif kind == "other":
                passed[entry.suffix.lower()] += 1
        waiting += reversed(folders)


def _kind(entry: Path, patterns: list[str]) -> str:
    """Return "slide", "folder", "other", or "hidden" of an entry of a folder."""
    if entry.name.startswith("."):  # macOS leaves "._a.svs" beside a.svs on other disks
        return "hidden"
    try:
        folder, file = entry.is_dir(), entry.is_file() or entry.is_symlink()
    except OSError:  # a link into a folder without permission: opening it reports the error
        return "slide" if _matches(entry, patterns) else "other"
    if folder:
        # A folder named like a slide is returned: opening it reports the error.
        is_slide = is_dicom_folder(entry) or (entry.suffix != "" and _matches(entry, patterns))
        return "slide" if is_slide else "folder"
    # Reading a pipe might never end.
    return "slide" if file and _matches(entry, patterns) else "other"


def _matches(entry: Path, patterns: list[str]) -> bool:
    return any(fnmatch(entry.name.lower(), pattern) for pattern in patterns)


def _listed(source: Path, own: dict[str, OwnOptions]) -> Iterator[Path]:
    """Yield the slides that a list names, and note what it says of them."""
    if source.suffix.lower() == ".csv":
        rows = _rows(source, ("slide",))
    else:
        lines = (line.strip() for line in _text(source).splitlines())
        rows = [{"slide": line} for line in lines if line and not line.startswith("#")]
    if not rows:
        raise UsageError(f"{source}: names no slide; write one path a line")
    for row in rows:
        slide = source.parent / row["slide"]  # opening it reports one that is not there
        mask = row.get("mask") or None
        mpp = _mpp(row["mpp"], source) if row.get("mpp") else None
        if mask is not None or mpp is not None:
            path = mask and str((source.parent / mask).absolute())  # workers may have other folders
            own[own_key(slide)] = OwnOptions(mpp, path)
        yield slide


def _rows(table: Path, columns: Sequence[str]) -> list[Mapping[str, str]]:
    """Read a CSV with some columns at least."""
    reader = csv.DictReader(_text(table).splitlines())
    lacking = [name for name in columns if name not in (reader.fieldnames or ())]
    if lacking:
        raise TiacfError(f"{table}: no column {', '.join(lacking)}; name it in the first line")
    rows = [{k: (v or "").strip() for k, v in row.items() if k is not None} for row in reader]
    return [row for row in rows if row["slide"]]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TiacfError(f"{path}: cannot be read as text ({error}); save it as UTF-8") from error


def _mpp(text: str, table: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{table}: mpp {text!r} is no number above 0; write it as 0.25")
    return value


def is_dicom_folder(path: Path) -> bool:
    """Return whether a path is a folder with DICOM files, no other slides and no folders: one slide."""
    try:
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        suffixes = {entry.suffix.lower() for entry in entries}
        if ".dcm" not in suffixes or suffixes & set(SLIDE_SUFFIXES):
            return False
        return not any(entry.is_dir() for entry in entries)
    except OSError:  # not a folder, or one that cannot be read
        return False


def slide_identity(path: Path) -> tuple[int, str]:
    """Return what a slide is known by wherever it lies: bytes and a hash of parts of its content.

    Of a folder, and of MIRAX, whose pixels lie in a folder beside the file, these are of all files. Of a
    large file the hash takes the beginning, the end and pieces in between: reading gigabytes would take
    minutes.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        beside = path.with_suffix("")
        has_folder = path.suffix.lower() == ".mrxs" and beside.is_dir()
        files = [path, *(sorted(beside.iterdir()) if has_folder else ())]
    total, digest = 0, hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        total += size
        digest.update(
            f"{file.name} {size}\n".encode("utf-8", "surrogateescape") if len(files) > 1 else b""
        )
        with file.open("rb") as opened:
            if size <= 2 * _ENDS + _PIECES * _PIECE:
                digest.update(opened.read())
                continue
            digest.update(opened.read(_ENDS))
            for number in range(_PIECES):
                opened.seek(_ENDS + (size - 2 * _ENDS) * number // _PIECES)
                digest.update(opened.read(_PIECE))
            opened.seek(size - _ENDS)
            digest.update(opened.read())
    return total, digest.hexdigest()[:32]
