"""Find markers and write everything: tables, figures, page, and a map of each slide for QuPath."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag
from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.matching import bags_of_slides
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.io.atomic import writing
from tiacrossfusion.io.paths import is_there, missing
from tiacrossfusion.markers.api import Markers, check_settings, find_markers
from tiacrossfusion.markers.figures import (
    forest_figure,
    kaplan_meier_marker,
    map_figure,
    patches_figure,
)
from tiacrossfusion.markers.files import write_tables
from tiacrossfusion.markers.maps import marker_name, write_marker_map
from tiacrossfusion.markers.page_writing import Picture, write_page
from tiacrossfusion.slides.files import find_slides, slide_stem
from tiacrossfusion.slides.patches import read_patch
from tiacrossfusion.slides.slide import open_slide

#: Folder of the maps for QuPath.
MAPS = "slides"

#: Markers whose curves and slides are shown on the page where fewer were found.
_SHOWN = 3

#: Files whose names have the number of a marker.
_OF_MARKERS = ("kaplan_meier_*.png", "map_*.png")

_log = logging.getLogger(__name__)


def make_markers(
    table: str | Path,
    bags: str | Path,
    output_path: str | Path,
    *,
    slides: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Markers:
    """Find markers and write them: `find_markers`, tables, figures, `report.html`, `slides/*.geojson`.

    Args:
        table: follow-up, CSV or Parquet.
        bags: folder of feature bags.
        output_path: folder; files of an earlier run are replaced.
        slides: folder of the slides, from which the typical patches are shown; None shows none.
        say: gets a line for each step; None is silent.
        settings: see `find_markers`.

    Returns:
        The markers.

    Raises:
        UsageError: a number is out of range, or a file is not there.
        TiacfError: table and bags do not go together, or the folder cannot be written.
    """
    folder = Path(output_path)
    tell = say or (lambda _: None)
    scale = settings.get("scale", "20x")
    names = ("scale", "number", "folds", "level", "seed")
    check_settings(**{name: settings[name] for name in names if name in settings})
    if slides is not None and not is_there(Path(slides)):
        raise UsageError(f"{slides}: {missing(Path(slides))}; check --slides")
    pixels = None if slides is None else find_slides([str(slides)]).slides
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)

    def write(bag: FeatureBag, labels: np.ndarray) -> None:
        if bag.scales[scale].bounds is not None:
            path = folder / MAPS / f"{bag.provenance.slide}.geojson"
            write_marker_map(bag, scale, labels, path)

    found = find_markers(table, bags, write=write, say=say, **settings)
    write_tables(found, folder)
    with writing(folder):
        for pattern in _OF_MARKERS:  # an earlier run may have found others
            for path in folder.glob(pattern):
                path.unlink()
        pictures = _figures(found, folder, Path(bags))
        if pixels is not None:
            pictures += _patches(found, folder, pixels, tell)
    write_page(found, folder, pictures)
    for note in found.notes:
        tell(f"note: {note}")
    return found


def _figures(found: Markers, folder: Path, bags: Path) -> list[Picture]:
    forest_figure(found, folder / "forest.png")
    pictures = [Picture("Hazard ratios", "", folder / "forest.png")]
    known = [k for k in range(len(found.centres)) if np.isfinite(found.shares.p[k])]
    strongest = found.shares.found or sorted(known, key=lambda k: found.shares.p[k])[:_SHOWN]
    for marker in strongest:
        path = folder / f"kaplan_meier_{marker + 1}.png"
        kaplan_meier_marker(found, marker, path)
        note = (
            ""
            if marker in found.shares.found
            else "Not among those found; shown as one of the strongest."
        )
        pictures.append(Picture(f"{marker_name(marker)}: observed survival", note, path))
    stores = bags_of_slides(found.described.slides, find_bags(bags))
    for marker in strongest[:_SHOWN]:
        slide = max(
            (name for name in found.described.slides if name not in found.described.unplaced),
            key=lambda name: _share(found.described.slides[name], marker),
            default=None,
        )
        if slide is None:
            continue
        bag = FeatureBag.load(stores[slide])
        path = folder / f"map_{marker + 1}.png"
        labels = found.assign(bag)
        map_figure(bag, found.scale, labels, len(found.centres), path)
        pictures.append(
            Picture(f"{marker_name(marker)}: the slide with the largest share", "", path)
        )
    return pictures


def _share(counts: np.ndarray, marker: int) -> float:
    return float(counts[marker] / counts.sum())


def _patches(
    found: Markers, folder: Path, slides: Sequence[Path], say: Callable[[str], None]
) -> list[Picture]:
    """Read the typical patches of each marker from the slides."""
    paths = {slide_stem(path.name): path for path in slides}
    wanted = {one.slide for patches in found.described.typical.values() for one in patches}
    lacking = sorted(name for name in wanted if slide_stem(name) not in paths)
    if lacking:
        say(
            f"note: {len(lacking)} of {len(wanted)} slides of typical patches are not in --slides, such as "
            f"{lacking[0]}; their patches are not shown"
        )
    read: dict[tuple[int, int], np.ndarray] = {}
    for stem in sorted({slide_stem(name) for name in wanted} & set(paths)):
        chosen = {
            (marker, place): patch
            for marker, patches in found.described.typical.items()
            for place, patch in enumerate(patches)
            if slide_stem(patch.slide) == stem
        }
        try:
            with open_slide(paths[stem]) as slide:
                for key, patch in chosen.items():
                    read[key] = read_patch(
                        slide, np.array(patch.bounds), found.scale, found.sampling
                    )
        except TiacfError as error:
            _log.warning("left out of the typical patches: %s", error)
    images = {
        marker: [read[marker, place] for place in range(len(patches)) if (marker, place) in read]
        for marker, patches in found.described.typical.items()
    }
    if not any(images.values()):
        return []
    path = folder / "typical_patches.png"
    patches_figure(found, images, path)
    note = "Each of another patient, the nearest to the centre first."
    return [Picture("Typical patches", note, path)]
