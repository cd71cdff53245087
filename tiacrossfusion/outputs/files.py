"""The files written for one slide: its pictures and those of an output format."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.inference.slide import SlideResult
from tiacrossfusion.outputs.curve import curve_of
from tiacrossfusion.outputs.families_map import GEOJSON, PICTURE, families_figure, write_families
from tiacrossfusion.outputs.overlay import attention_figure
from tiacrossfusion.outputs.survival_plot import survival_figure
from tiacrossfusion.outputs.writers import WRITERS

_SURVIVAL, _ATTENTION = "_survival.png", "_attention.png"


def all_suffixes() -> list[str]:
    """Return every suffix that a file of a slide may have, in any output format."""
    suffixes = {_SURVIVAL, _ATTENTION, PICTURE, GEOJSON}
    for name in WRITERS.names():
        with suppress(TiacfError):  # another package's format that cannot be imported
            for gzip in (False, True):
                suffixes.update(WRITERS[name](gzip=gzip).suffixes)
    return sorted(suffixes)


def output_suffixes(
    output_type: str, *, gzip: bool = False, maps: bool = True, families: bool = False
) -> tuple[str, ...]:
    """Return the suffixes of a slide's files; the first is that of the main file.

    Args:
        output_type: a name in `WRITERS`.
        gzip: whether text files are compressed.
        maps: whether the positions of the patches are known; without them there are no maps.
        families: whether there are files of which families were read.

    Raises:
        UsageError: there is no such output type.
    """
    writer = WRITERS[output_type](gzip=gzip)
    main = writer.suffixes if maps or not writer.needs_maps else ()
    further = [*([_ATTENTION] if maps else []), *([PICTURE, GEOJSON] if families else [])]
    return (*main, _SURVIVAL, *further)


def write_outputs(
    folder: Path, stem: str, output_type: str, result: SlideResult, *, gzip: bool = False
) -> None:
    """Write a slide's files into an existing folder, named `stem` and each of `output_suffixes`.

    Raises:
        UsageError: there is no such output type.
    """
    writer = WRITERS[output_type](gzip=gzip)
    if result.scores or not writer.needs_maps:
        writer.write(folder, stem, result)
    if result.scores:
        attention_figure(result, folder / f"{stem}{_ATTENTION}")
    reading = result.prediction.reading
    if reading is not None and reading.cells.any():
        families_figure(result, folder / f"{stem}{PICTURE}")
        write_families(result, folder / f"{stem}{GEOJSON}")
    survival_figure(
        curve_of(result.prediction, result.config),
        folder / f"{stem}{_SURVIVAL}",
        title=result.name,
        risk_group=result.prediction.risk_group,
        note=result.config.card.notice,
    )
